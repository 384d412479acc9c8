"""What every interoperability test needs: where the binary is, how to run it, and a quiet library stack.

The tests are run by `tools/interop`. `NIBBLE` names the binary; without it the release build is taken, then the one of `tools/test`, then the
debug one.
"""
import json
import os
import pathlib
import random
import subprocess

# Before anything imports the libraries: never the network, never a compiler, the same sums in every run.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    TORCHDYNAMO_DISABLE="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)
# Drawn here, before the processes that share the tests begin: all must draw the same cases.
os.environ.setdefault("NIBBLE_SEED", str(random.SystemRandom().randrange(10**6)))

import bitsandbytes
import pytest
import torch
import transformers

# On a processor with AVX512-BF16 its layers would repack their weights in place, for rows that blocks of 16 divide, and compute with bfloat16 scales.
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False

ROOT = pathlib.Path(__file__).resolve().parents[2]

transformers.utils.logging.disable_progress_bar()


def pytest_report_header():
    import safetensors

    return (
        f"nibble: {find_binary() or 'not found'}\n"
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"bitsandbytes {bitsandbytes.__version__}, safetensors {safetensors.__version__}"
    )


@pytest.fixture(scope="session")
def tally(request):
    """The outcomes of the differential fuzzer's cases; listed when all tests have run."""
    from differential.tally import Tally

    request.config.differential = Tally()
    return request.config.differential


def pytest_sessionfinish(session):
    """A process that runs a share of the tests hands its outcomes over."""
    if hasattr(session.config, "workeroutput") and (found := getattr(session.config, "differential", None)):
        session.config.workeroutput["differential"] = found.rows()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    from differential.tally import Tally

    rows = (getattr(node, "workeroutput", None) or {}).get("differential")
    if rows:
        if not hasattr(node.config, "differential"):
            node.config.differential = Tally()
        node.config.differential.take(rows)


def pytest_terminal_summary(terminalreporter, config):
    if found := getattr(config, "differential", None):
        terminalreporter.section("differential fuzzer")
        for area in found.outcomes:
            for line in found.lines(area):
                terminalreporter.line(line)


def pytest_sessionstart(session):
    """The seed stands in the output before the first case, so that a run that is killed can be repeated, too."""
    if not hasattr(session.config, "workerinput"):
        seed = os.environ["NIBBLE_SEED"]
        print(f"differential fuzzer: seed {seed} (NIBBLE_SEED={seed} runs it again)", flush=True)


def find_binary():
    if named := os.environ.get("NIBBLE"):
        return pathlib.Path(named).resolve()
    for build in (".build/release", ".build-tests/release", ".build/debug"):
        if (path := ROOT / build / "nibble").exists():
            return path
    return None


class Nibble:
    """The program, as a test runs it."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *words, exits=0):
        """Runs `nibble WORDS` and returns what it did; any other exit code than `exits` fails the test."""
        done = subprocess.run(
            [self.path, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == exits, (
            f"nibble {' '.join(map(str, words))}\nexited {done.returncode}, expected {exits}: {done.stderr.strip()}")
        return done

    def json(self, *words):
        """Runs `nibble WORDS --json` and returns the document."""
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture(scope="session")
def nibble():
    path = find_binary()
    if path is None or not os.access(path, os.X_OK):
        pytest.fail(f"no nibble binary ({path}): run 'swift build -c release' or set NIBBLE", pytrace=False)
    return Nibble(path)


@pytest.fixture(scope="session")
def stories():
    """The bundled real model: a Llama of 260 032 float32 weights."""
    return ROOT / "Tests" / "Fixtures" / "stories260K"


@pytest.fixture(autouse=True)
def fixed_chance():
    """Every test starts with the same random numbers, on one thread so that sums keep their order."""
    torch.manual_seed(20261120)
    torch.set_num_threads(1)


@pytest.fixture
def work(tmp_path):
    """An empty folder, by name: `work / 'out'`."""
    return tmp_path
