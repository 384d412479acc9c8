"""Conversations at a terminal: editing, history, Ctrl-C and Ctrl-D, in a pseudo-terminal."""
import os
import pty
import re
import select
import signal
import time

import pytest

STORIES = "Tests/Fixtures/stories260K"


class Terminal:
    """nibble with a terminal of its own."""

    def __init__(self, nibble, state, *words):
        self.said = ""
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.environ.update(TERM="xterm", XDG_STATE_HOME=str(state), LC_ALL="C.UTF-8", HOME=str(state))
            words = ["nibble", "generate", "--base", STORIES, "--interactive", *map(str, words)]
            os.execv(str(nibble.path), words)

    def type(self, text):
        os.write(self.terminal, text.encode())

    def wait(self, pattern, seconds=30):
        """Reads until `pattern` was said; what was said up to there."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said, re.S)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.said!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.terminal, 4096).decode(errors="replace")
                except OSError:
                    pytest.fail(f"it ended before {pattern!r}: {self.said!r}")
        said, self.said = self.said[:found.end()], self.said[found.end():]
        return said

    def end(self):
        """The exit status, after all output was read."""
        while True:
            try:
                data = os.read(self.terminal, 4096)
            except OSError:
                break
            if not data:
                break
            self.said += data.decode(errors="replace")
        os.close(self.terminal)
        return os.waitpid(self.process, 0)[1]


def test_a_line_is_edited_and_answered(nibble, tmp_path):
    plain = nibble("generate", "--base", STORIES, "--prompt", "Once upon a time", "--max-new-tokens", 8).stdout.strip()
    terminal = Terminal(nibble, tmp_path, "--max-new-tokens", 8)
    said = terminal.wait("> ")
    assert "stories260K" in said and "/help" in said and "Ctrl-D" in said
    # The cursor goes to the start and back to the end; a character of several bytes is one.
    terminal.type("é\x7fnce upon a timX\x01O\x05\x7fe\r")
    assert plain[:12] in terminal.wait(re.escape(plain[-8:]))
    terminal.wait("> ")
    terminal.type("/help\r")
    assert "/adapter" in terminal.wait("/exit")
    terminal.wait("> ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_history_lasts_and_is_private(nibble, tmp_path):
    first = Terminal(nibble, tmp_path, "--max-new-tokens", 2)
    first.wait("> ")
    first.type("Once upon a time\r")
    first.wait("\n> ")
    first.type("/exit\r")
    assert first.end() == 0
    history = tmp_path / "nibble" / "history"
    assert history.stat().st_mode & 0o777 == 0o600 and history.parent.stat().st_mode & 0o777 == 0o700
    second = Terminal(nibble, tmp_path, "--max-new-tokens", 2)
    second.wait("> ")
    second.type("\x1b[A\x1b[A")
    assert "Once upon a time" in second.wait("time")
    second.type("\x15\x04")
    assert second.end() == 0


def test_ctrl_c_stops_the_answer_and_the_program_goes_on(nibble, tmp_path):
    terminal = Terminal(nibble, tmp_path, "--max-new-tokens", 100000, "--ignore-eos", "-j", 1, "--num-beams", 16)
    terminal.wait("> ")
    terminal.type("Once upon a time\r")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.wait(r"\(stopped\)")
    terminal.wait("> ")
    # On a line that is being typed it empties the line.
    terminal.type("abc\x03")
    terminal.wait("> ")
    terminal.type("/help\r")
    assert "/adapter" in terminal.wait("/exit")
    terminal.wait("> ")
    os.kill(terminal.process, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(terminal.end()) == 143


def test_conversations_are_reset_and_given_system_messages(nibble, tmp_path):
    import shutil
    model = tmp_path / "m"
    shutil.copytree(STORIES, model)
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role[0] }}: {{ m.content }} {% endfor %}")
    terminal = Terminal(nibble, tmp_path, "--max-new-tokens", 4, "--base", model)
    assert "Type a message" in terminal.wait("> ")
    for line in ("Hello", "/system Be kind", "Hello", "/reset", "Hello"):
        terminal.type(line + "\r")
        terminal.wait("\n> ")
    terminal.type("/exit\r")
    assert terminal.end() == 0 and "error" not in terminal.said
