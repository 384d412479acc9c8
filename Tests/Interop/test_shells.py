"""Completions in bash, zsh and fish, and manual pages, as `tools/install` puts them there."""

import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LINES = [
    # What is typed before the tab, and what has to be there after it.
    ("nibble quan", "nibble quantize"),
    ("nibble adapter comb", "nibble adapter combine"),
    ("nibble quantize mod", "nibble quantize model.nbl"),
    ("nibble merge mod", "nibble merge model.nbl"),
    ("nibble generate --max-n", "nibble generate --max-new-tokens"),
    ("nibble merge --when-lost pro", "nibble merge --when-lost promote"),
    ("nibble generate --base mod", "nibble generate --base model.nbl"),
]


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}; tools/interop installs it")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory, nibble):
    prefix = tmp_path_factory.mktemp("prefix")
    subprocess.run([ROOT / "tools/install", prefix], env={**os.environ, "NIBBLE": str(nibble.path)}, check=True, capture_output=True)
    return prefix


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.nbl").write_text("")
    return tmp_path


def on_screen(said):
    """Editors draw with carriage returns, backspaces and terminal codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x07|\r|\n", "", said)


def type_into(command, start, line, expected, folder, prefix):
    """What an interactive shell has on its line after `line` and a tab."""
    environment = {
        "PATH": f"{prefix}/bin:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(folder), "PS1": "$ ", "LC_ALL": "C.UTF-8",
    }
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment)

    def read_until(is_there, seconds):
        said, end = "", time.monotonic() + seconds
        while time.monotonic() < end and not is_there(said):
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    said += os.read(terminal, 4096).decode(errors="replace")
                except OSError:
                    break
        return said

    try:
        os.write(terminal, f"{start}; echo rea''dy\n".encode())
        before = read_until(lambda said: "ready\r" in said, 20)
        assert "ready" in before, before
        time.sleep(0.3)
        os.write(terminal, (line + "\t").encode())
        said = read_until(lambda said: expected in on_screen(said), 10)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)
    return on_screen(said)


@needs("bash")
@pytest.mark.parametrize("line, expected", LINES)
def test_bash(prefix, folder, line, expected):
    script = prefix / "share/bash-completion/completions/nibble"
    said = type_into(["bash", "--norc", "--noprofile", "-i"], f"source {script}", line, expected, folder, prefix)
    assert expected in said, said


@needs("zsh")
@pytest.mark.parametrize("line, expected", LINES)
def test_zsh(prefix, folder, line, expected):
    start = f"unsetopt zle_bracketed_paste; fpath=({prefix}/share/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D"
    said = type_into(["zsh", "-f", "-i"], start, line, expected, folder, prefix)
    assert expected in said, said


@needs("fish")
@pytest.mark.parametrize("line, expected", LINES)
def test_fish(prefix, folder, line, expected):
    script = prefix / "share/fish/vendor_completions.d/nibble.fish"
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"], cwd=folder, capture_output=True, text=True,
        env={"PATH": f"{prefix}/bin:{os.environ['PATH']}", "HOME": str(folder), "TERM": "dumb"})
    assert done.returncode == 0 and not done.stderr, done.stderr
    words = [entry.split("\t")[0] for entry in done.stdout.splitlines()]
    assert expected.split()[-1] in words, words


@needs("mandoc")
def test_manual_pages(prefix, nibble):
    pages = sorted((prefix / "share/man/man1").iterdir())
    assert {page.name for page in pages} >= {"nibble.1", "nibble-merge.1", "nibble-adapter-inspect.1", "nibble-doctor.1"}
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "style", *pages], capture_output=True, text=True)
    assert lint.returncode == 0 and not lint.stdout, lint.stdout
    page = subprocess.run(["mandoc", "-T", "ascii", prefix / "share/man/man1/nibble-merge.1"], capture_output=True, text=True).stdout
    page = re.sub(".\b", "", page)
    for words in ["NAME", "--when-lost when-lost", "nibble merge MODEL adapter -o merged"]:
        assert words in page, page
