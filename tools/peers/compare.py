"""Quantizes one model with nibble and with its peers in one run and prints what each took. Called by tools/bench-peers."""
import os
import pathlib
import shutil
import sys

import measure
import setting

HERE = pathlib.Path(__file__).resolve().parent
# What nibble promises: the peer takes at least this many times nibble's CPU time.
CPU_TARGETS = {"bitsandbytes": 35, "mlx": 5}
WALL_TARGET = 1.5
THREADS = 2
# Through the page cache and past it: which is faster is the machine's affair.
FLOORS = {"floor": [], "direct floor": ["oflag=direct"]}


def parse():
    return setting.arguments().parse_args()


class Bench:
    def __init__(self, options):
        self.options = options
        self.environment = setting.environment(THREADS)
        self.out = options.work / "out"
        self.log = options.work / "log.txt"
        self.runs = {}
        self.bytes = {}
        self.failed = dict(text.split("=", 1) for text in options.missing)

    def python(self, script, *words):
        return [self.options.venv / "bin" / "python", HERE / script, *words]

    def programs(self):
        """Name and command line of each, in the order of the table."""
        model, out, venv = self.options.model, self.out, self.options.venv
        return {
            "nibble": [self.options.nibble, "quantize", model, "-o", f"{out}.nbl", "-q", "-j", THREADS],
            "bitsandbytes": self.python("by_bitsandbytes.py", model, out),
            "transformers": self.python("by_transformers.py", model, out),
            "mlx": [venv / "bin" / "mlx_lm.convert", "--hf-path", self.model_with_tokenizer, "--mlx-path", out, "-q",
                    "--q-bits", 4, "--q-group-size", 64],
        }

    @property
    def model_with_tokenizer(self):
        return self.options.work / "model-for-mlx"

    def give_mlx_a_tokenizer(self):
        folder = self.model_with_tokenizer
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in self.options.model.iterdir():
            (folder / path.name).symlink_to(path.resolve())
        done = measure.run(self.python("any_tokenizer.py", folder), self.environment, self.log)
        if done.status != 0:
            self.failed["mlx"] = measure.tail(self.log)

    def warm(self):
        """The model into the page cache, what others wrote out of the way."""
        os.sync()
        for path in self.options.model.glob("*.safetensors"):
            measure.run(["cat", path], self.environment, os.devnull)

    def clear(self):
        shutil.rmtree(self.out, ignore_errors=True)
        pathlib.Path(f"{self.out}.nbl").unlink(missing_ok=True)

    def once(self, name, command):
        self.clear()
        self.warm()
        run = measure.run(command, self.environment, self.log)
        if run.status != 0:
            self.failed[name] = f"exit code {run.status}: {measure.tail(self.log)}"
            return
        self.runs.setdefault(name, []).append(run)
        written = [self.out] if self.out.is_dir() else [pathlib.Path(f"{self.out}.nbl")]
        files = [path for place in written for path in ([place] if place.is_file() else place.rglob("*"))]
        self.bytes[name] = sum(path.stat().st_size for path in files if path.is_file())

    def floor(self, name, flags):
        """Reading the model once and writing and syncing as many bytes as nibble writes."""
        self.clear()
        self.warm()
        files = sorted(self.options.model.glob("*.safetensors"))
        read = measure.run(["cat", *files], self.environment, os.devnull)
        write = measure.run(
            ["dd", "if=/dev/zero", f"of={self.out}.nbl", "bs=4M", "iflag=count_bytes", f"count={self.bytes['nibble']}",
             "conv=fsync", *flags], self.environment, self.log)
        if read.status or write.status:
            self.failed[name] = measure.tail(self.log)
            return
        self.runs.setdefault(name, []).append(
            measure.Run(read.wall + write.wall, read.cpu + write.cpu, max(read.peak, write.peak), 0))
        self.bytes[name] = self.bytes["nibble"]

    def run(self):
        if "mlx" not in self.failed:
            self.give_mlx_a_tokenizer()
        # One round after another, so that what else the machine does falls on all of them.
        for number in range(self.options.runs):
            for name, command in self.programs().items():
                if name in self.failed:
                    continue
                print(f"run {number + 1} of {self.options.runs}: {name}", file=sys.stderr)
                self.once(name, command)
                if name == "nibble":
                    if name in self.failed:
                        sys.exit(f"tools/bench-peers: nibble: {self.failed[name]}")
                    for floor, flags in FLOORS.items():
                        self.floor(floor, flags)
        self.clear()

    # What is printed.

    def machine(self):
        return setting.machine(
            self.options, f"{THREADS} threads each", ("torch", "bitsandbytes", "transformers", "safetensors", "mlx", "mlx-lm"),
            f"median of {self.options.runs}")

    LABELS = {
        "nibble": "nibble quantize, NF4 double quant", "floor": "floor: cat + dd conv=fsync",
        "direct floor": "floor: cat + dd, fsync, direct",
        "bitsandbytes": "bitsandbytes, tensor by tensor", "transformers": "transformers + bitsandbytes",
        "mlx": "mlx_lm.convert -q, affine 4 bit"}

    def table(self):
        lines = [f"{'':34}{'wall s':>9}{'(least-most)':>16}{'CPU s':>9}{'peak MB':>10}{'written MB':>12}"]
        for name, label in self.LABELS.items():
            if name in self.failed:
                lines.append(f"{label:34}  not measured: {self.failed[name]}")
                continue
            runs = self.runs[name]
            middle = measure.median(runs)
            spread = f"{min(r.wall for r in runs):.2f}-{max(r.wall for r in runs):.2f}"
            lines.append(
                f"{label:34}{middle.wall:9.2f}{spread:>16}{middle.cpu:9.2f}{middle.peak / 1e6:10.0f}"
                f"{self.bytes[name] / 1e6:12.1f}")
        lines.append(
            "nibble and dd sync what they write; the peers leave it in the page cache. mlx packs the embedding too.\n"
            "Peak memory is the largest resident set of one process, the mapped pages of the model's file included.")
        return "\n".join(lines)

    def ratios(self):
        nibble = measure.median(self.runs["nibble"])
        lines = [f"{'ratio to nibble':34}{'reached':>9}{'target':>16}"]

        def line(label, value, target, good):
            lines.append(f"{label:34}{value:>9}{target:>16}  {'' if good is None else 'met' if good else 'MISSED'}".rstrip())

        for name in FLOORS:
            if name in self.runs:
                reached = nibble.wall / measure.median(self.runs[name]).wall
                line(f"wall: nibble / {name}", f"{reached:.2f}", f"<= {WALL_TARGET}", reached <= WALL_TARGET)
        for name in ("bitsandbytes", "transformers", "mlx"):
            if name in self.failed:
                line(f"CPU: {name} / nibble", "-", "not measured", None)
                continue
            peer = measure.median(self.runs[name])
            ratio, target = peer.cpu / nibble.cpu, CPU_TARGETS.get(name)
            line(f"CPU: {name} / nibble", f"{ratio:.1f}", f">= {target}" if target else "", ratio >= target if target else None)
            line(f"wall: {name} / nibble", f"{peer.wall / nibble.wall:.1f}", "", None)
        line("peak memory of nibble, MB", f"{nibble.peak / 1e6:.0f}", "<= 300", nibble.peak <= 300e6)
        return "\n".join(lines)


def main():
    options = parse()
    # Two cores for everyone where there are more; children inherit it.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:THREADS])
    bench = Bench(options)
    head = bench.machine()
    bench.run()
    print(head, "", bench.table(), "", bench.ratios(), sep="\n")


main()
