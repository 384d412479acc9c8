"""Merges an adapter with nibble and with its peers in one run and prints what each took and kept. Called by tools/bench-peers."""
import json
import os
import pathlib
import shutil
import sys

import measure
import merge_tables
import setting

HERE = pathlib.Path(__file__).resolve().parent
THREADS = 2


def parse():
    parser = setting.arguments()
    parser.add_argument("--adapter", type=pathlib.Path, required=True)
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama-export-lora")
    return parser.parse_args()


class Bench:
    def __init__(self, options):
        self.options = options
        self.environment = setting.environment(THREADS)
        missing = dict(text.split("=", 1) for text in options.missing)
        self.failed = {}
        for name, needed in (("PEFT", ["transformers"]), ("PEFT 4 bit", ["transformers", "bitsandbytes"]),
                             ("llama.cpp", ["llama.cpp"])):
            self.failed |= {name: missing[peer] for peer in needed if peer in missing}
        work = options.work
        self.out, self.file = work / "out", work / "out.nbl"
        self.base, self.folder = work / "base.nbl", work / "base-bnb"
        self.gguf, self.gguf_adapter = work / "base.gguf", work / "adapter.gguf"
        # By program: what every run took; bytes; CPU seconds of each step; what was kept, as measured and as nibble says.
        self.runs, self.bytes, self.steps, self.kept, self.said = {}, {}, {}, {}, {}
        self.others = []

    def do(self, command):
        """Runs it; what it took, and what it said last."""
        return measure.checked(command, self.environment, self.options.work)

    def python(self, script, *words):
        return [self.options.venv / "bin" / "python", HERE / script, *words]

    def nibble(self, verb, *words):
        return [self.options.nibble, verb, *words, "-q", "-j", THREADS]

    def programs(self):
        """Of each: what it reads, its command line and what it writes, in the order of the table."""
        model, adapter, out = self.options.model, self.options.adapter, self.out
        file = model / "model.safetensors"

        def merge(base, to, *flags):
            return base, self.nibble("merge", "--base", base, "--adapter", adapter, "-o", to, "--json", *flags), to

        def peft(base):
            return base, self.python("merge_peft.py", base, adapter, out), out

        def copy(*flags):
            return file, ["dd", f"if={file}", f"of={out}", "bs=4M", "conv=fsync", *flags], out

        llama = (self.options.llama or pathlib.Path()) / "llama-export-lora"
        return {
            "nibble": merge(model, out),
            "nibble unchecked": merge(model, out, "--no-check"),
            "PEFT": peft(model),
            "llama.cpp": (self.gguf, [llama, "-m", self.gguf, "--lora", self.gguf_adapter, "-o", out, "-t", THREADS], out),
            "copy": copy(),
            # Past the page cache: which is faster is the machine's affair.
            "direct copy": copy("oflag=direct"),
            "nibble 4 bit": merge(self.base, self.file, "--min-survival", 0),
            "nibble shape": merge(self.base, self.file, "--when-lost", "shape"),
            "nibble anew": merge(model, self.file),
            "PEFT 4 bit": peft(self.folder),
        }

    def prepare(self):
        """The bases: one packed by nibble, for PEFT the same codes in bitsandbytes' layout, and one of llama.cpp's."""
        nibble, python = self.nibble, self.python
        self.do(nibble("quantize", self.options.model, "-o", self.base))
        self.do(nibble("convert", self.base, "-o", self.folder, "--format", "bnb"))
        if "llama.cpp" not in self.failed:
            try:
                self.do(python("make_gguf.py", self.options.model, self.gguf))
                self.do(python("merge_gguf_adapter.py", self.options.adapter, self.gguf_adapter))
            except measure.Failed as error:
                self.failed["llama.cpp"] = str(error)

    def clear(self):
        for path in (self.out, self.file, self.options.work / "out-bnb"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def once(self, name, reads, command, out):
        self.clear()
        # What is read into the page cache, what others wrote out of the way.
        os.sync()
        files = [reads] if reads.is_file() else reads.glob("*.safetensors")
        measure.run(["cat", *files], self.environment, os.devnull)
        done, said = self.do(command)
        self.others.append(done.others)
        self.runs.setdefault(name, []).append(done)
        files = [out] if out.is_file() else out.rglob("*")
        self.bytes[name] = sum(path.stat().st_size for path in files if path.is_file())
        if name.startswith("PEFT"):
            self.steps.setdefault(name, []).append(json.loads(said.strip().splitlines()[-1]))
        elif name.startswith("nibble"):
            self.said[name] = json.loads(said)

    def look(self, name, reads, out):
        """How much of the change is in what was written, by other code than nibble's."""
        if name in ("nibble unchecked", "llama.cpp") or "copy" in name or name in self.kept:
            return
        # In 4 bit the change is distinguished from what is written without it, whichever weights it was added to.
        base = self.folder if out == self.file else reads
        try:
            if out == self.file:
                out = self.options.work / "out-bnb"
                self.do(self.nibble("convert", self.file, "-o", out, "--format", "bnb"))
            _, said = self.do(self.python("merge_survival.py", base, out, self.options.adapter))
            self.kept[name] = json.loads(said.strip().splitlines()[-1])
        except measure.Failed as error:
            self.kept[name] = str(error)

    def run(self):
        # One round after another, so that what else the machine does falls on all of them.
        for number in range(self.options.runs):
            for name, (reads, command, out) in self.programs().items():
                if name in self.failed:
                    continue
                print(f"run {number + 1} of {self.options.runs}: {name}", file=sys.stderr)
                try:
                    self.once(name, reads, command, out)
                except measure.Failed as error:
                    if name.startswith("nibble"):
                        raise
                    self.failed[name] = str(error)
                    continue
                self.look(name, reads, out)
        self.clear()


def main():
    options = parse()
    # Two cores for everyone where there are more; children inherit it.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:THREADS])
    bench = Bench(options)
    head = setting.machine(
        options, f"{THREADS} threads each", ("torch", "bitsandbytes", "transformers", "peft", "safetensors"),
        f"median of {options.runs}")
    if "llama.cpp" not in bench.failed:
        head += "\n" + setting.llama(options.llama, "llama-export-lora")
    try:
        bench.prepare()
        bench.run()
    except measure.Failed as error:
        sys.exit(f"tools/bench-peers: {error}")
    print(head + "\n" + merge_tables.adapter(bench), merge_tables.taken(bench), merge_tables.ratios(bench), merge_tables.steps(bench),
          merge_tables.kept(bench), sep="\n\n")


main()
