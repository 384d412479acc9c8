"""What the numbers depend on: the machine, the kernels, the libraries, the threads."""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def arguments():
    """A parser of the options of every comparison."""
    parser = argparse.ArgumentParser()
    for name in ("--nibble", "--model", "--work", "--venv"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--missing", action="append", default=[], metavar="PEER=REASON")
    return parser


def environment(threads):
    """For peers: never the network, never a compiler, `threads` threads."""
    quiet = {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error"}
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **quiet, **counts}


def versions(options, libraries):
    code = (
        "import importlib.metadata as m\n"
        f"for n in {libraries!r}:\n"
        "  try: print(n, m.version(n), end=', ')\n"
        "  except m.PackageNotFoundError: pass\n")
    python = options.venv / "bin" / "python"
    said = [
        subprocess.run(command, capture_output=True, text=True).stdout.strip(", \n")
        for command in ([options.nibble, "--version"], [python, "-c", code])]
    return f"{said[0]}; {said[1] or 'no peers'}; Python {platform.python_version()}"


def llama(folder, program):
    """Which llama.cpp it is, as one of its programs says."""
    said = subprocess.run([folder / program, "--version"], capture_output=True, text=True)
    version = next((line for line in (said.stdout + said.stderr).splitlines() if "version" in line), "unknown")
    return f"llama.cpp {version}, vendored by {folder.parent.parent.name}"


def kernels(options):
    """The kernel variant nibble chose, from a real job on a small model."""
    tiny, out = options.work / "tiny", options.work / "tiny.nbl"
    if not tiny.exists():
        subprocess.run([sys.executable, HERE.parent / "make-model", tiny, "--shape", "tiny", "--sparse"],
                       check=True, stdout=subprocess.DEVNULL)
    command = [options.nibble, "quantize", tiny, "-o", out, "--force", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["kernels"]


def machine(options, threads, libraries, how):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = named[0] if named else platform.machine()
    size = sum(path.stat().st_size for path in options.model.glob("*.safetensors"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"machine   {model}, {os.cpu_count()} cores, {memory / 1e9:.0f} GB, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.2f} before\n"
        f"settings  {threads}; nibble's kernels {kernels(options)}; "
        f"OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')}\n"
        f"versions  {versions(options, libraries)}\n"
        f"model     {size / 1e9:.2f} GB bfloat16, page cache warm; {how}")
