"""Runs one packed model with nibble and with its peers in one run and prints how fast each was. Called by tools/bench-peers."""
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import measure
import setting

HERE = pathlib.Path(__file__).resolve().parent
PROMPT, NEW, RANK = 128, 64, 16
# What nibble promises, as (peer, phase): nibble's rate over the peer's.
TARGETS = {("llama.cpp", "prompt"): 1.0, ("llama.cpp", "generation"): 1.0, ("transformers", "prompt"): 1.0,
           ("transformers", "generation"): 1.5}
ADAPTER_LOSS = 0.10
ANONYMOUS = 250e6


def parse():
    parser = setting.arguments()
    parser.add_argument("--threads", type=int, action="append", required=True)
    parser.add_argument("--llama", type=pathlib.Path, help="folder of llama-bench")
    parser.add_argument("--gguf", type=pathlib.Path, help="the model in Q4_0")
    return parser.parse_args()


class Run:
    """The phases of one program: tokens a second of each round, by threads and phase."""

    def __init__(self, label):
        self.label = label
        self.rates = {}
        self.anonymous = 0
        self.open = []

    def add(self, threads, prompt, generation):
        for phase, rate in (("prompt", prompt), ("generation", generation)):
            self.rates.setdefault((threads, phase), []).append(rate)

    def rate(self, threads, phase):
        """The median; NaN if there is none."""
        return statistics.median(self.rates.get((threads, phase), [float("nan")]))

    def over(self, other, threads, phase):
        """How many times as fast as another program: the median of the rounds, in each of which they took turns."""
        pairs = zip(self.rates.get((threads, phase), []), other.rates.get((threads, phase), []))
        return statistics.median([ours / theirs for ours, theirs in pairs] or [float("nan")])


class Bench:
    def __init__(self, options):
        self.options = options
        self.failed = dict(text.split("=", 1) for text in options.missing)
        self.table = {
            "warm bf16": Run("nibble, bf16 products, warm"),
            "warm bf16 adapter": Run(f"  with an adapter of rank {RANK}"),
            "nibble bf16": Run("nibble generate, bf16 products"),
            "nibble bf16 adapter": Run(f"  with an adapter of rank {RANK}"),
            "nibble fp32": Run("nibble generate, fp32 products"),
            "nibble fp32 adapter": Run(f"  with an adapter of rank {RANK}"),
            "llama.cpp": Run("llama.cpp, Q4_0"),
            "transformers": Run("transformers + bitsandbytes, bf16"),
            "transformers adapter": Run(f"  with PEFT, rank {RANK}"),
        }
        self.others = []
        self.products = {}
        self.switching = {}
        work = options.work
        self.packed, self.folder, self.tokenizer = work / "m.nbl", work / "bnb", work / "tokenizer.json"
        self.adapters = [work / "adapter-1", work / "adapter-2"]

    def say(self, text):
        print(text, file=sys.stderr)

    def do(self, command, threads, **how):
        done, said = measure.checked(command, setting.environment(threads), self.options.work, **how)
        self.others.append(done.others)
        return done, said

    def python(self, script, *words):
        return [self.options.venv / "bin" / "python", HERE / script, *words]

    # Before.

    def prepare(self):
        self.bench = self.beside("RunBench")
        if self.bench is None:
            self.failed |= dict.fromkeys(("warm bf16", "warm bf16 adapter"), "no RunBench beside nibble")
        nibble, model, threads = self.options.nibble, self.options.model, max(self.options.threads)
        # The embedding is the head, too: packed, as llama.cpp packs it.
        self.do([nibble, "quantize", model, "-o", self.packed, "--tensor", "embed_tokens=nf4", "-q"], threads)
        for seed, folder in enumerate(self.adapters, 1):
            self.do(self.python("make_adapter.py", model, folder, RANK, seed), threads)
        if "transformers" not in self.failed:
            self.do([nibble, "quantize", model, "-o", self.folder, "--format", "bnb", "-q"], threads)
        # What was written is out of the way, and in the page cache.
        os.sync()
        files = [path for place in (self.packed, self.folder, self.options.gguf) if place
                 for path in ([place] if place.is_file() else place.glob("*.safetensors"))]
        subprocess.run(["cat", *files], stdout=subprocess.DEVNULL)
        # Words of a made-up language, an id each.
        words = {f"w{i}": i for i in range(1000)}
        self.tokenizer.write_text(json.dumps({
            "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}))
        self.prompt = " ".join(f"w{379 * i % 997 + 1}" for i in range(PROMPT))

    # Each program, once.

    def nibble(self, name, threads):
        _, compute, *adapter = name.split()
        flags = ["--adapter", self.adapters[0]] if adapter else []
        done, said = self.do(
            [self.options.nibble, "generate", "--base", self.packed, "--tokenizer", self.tokenizer, "--prompt", self.prompt,
             "--compute-dtype", compute, "--ignore-eos", "--max-new-tokens", NEW, "-j", threads, "--json", "-q", *flags],
            threads, anonymous=True)
        said = json.loads(said)
        if (said["prompt_tokens"], said["new_tokens"]) != (PROMPT, NEW):
            raise measure.Failed(f"{said['prompt_tokens']} and {said['new_tokens']} tokens")
        run = self.table[name]
        # The first new token comes out of the prompt's pass.
        run.add(threads, PROMPT / said["prompt_seconds"], (NEW - 1) / said["decode_seconds"])
        run.anonymous = max(run.anonymous, done.anonymous, said["anonymous_memory"])
        run.open.append(done.wall - said["prompt_seconds"] - said["decode_seconds"])

    def warm(self, name, threads):
        """The same in one process that does it again and again, as llama-bench does."""
        _, compute = name.split()
        done, said = self.do(
            [self.bench, self.packed, "--adapter", self.adapters[0], "--threads", threads, "--compute", compute, "--prompt", PROMPT,
             "--new", NEW, "--rounds", 3], threads, anonymous=True)
        for suffix, label in (("", ""), (" adapter", ", adapter 0")):
            found = [re.search(rf"^{phase}{label} +([\d.]+) tokens/s", said, re.MULTILINE) for phase in ("prompt", "generation")]
            if None in found:
                raise measure.Failed("RunBench said something else than was expected")
            run = self.table[name + suffix]
            run.add(threads, *(float(one[1]) for one in found))
            run.anonymous = max(run.anonymous, done.anonymous)

    def llama(self, name, threads):
        done, said = self.do(
            [self.options.llama / "llama-bench", "-m", self.options.gguf, "-p", PROMPT, "-n", NEW, "-t", threads, "-r", 1, "-o", "json"],
            threads, anonymous=True)
        rates = {entry["n_gen"] > 0: entry["avg_ts"] for entry in json.loads(said[said.index("["):])}
        run = self.table[name]
        run.add(threads, rates[False], rates[True])
        run.anonymous = max(run.anonymous, done.anonymous)

    def transformers(self, name, threads):
        done, said = self.do(
            self.python("run_transformers.py", self.folder, *self.adapters, threads, PROMPT, NEW // 4, 1,
                        int("PEFT" not in self.switching)), threads, anonymous=True)
        said = json.loads(said.strip().splitlines()[-1])
        plain, adapted = self.table[name], self.table[name + " adapter"]
        plain.add(threads, *said["plain"])
        adapted.add(threads, *said["adapted"])
        plain.open.append(said["open"])
        plain.anonymous = max(plain.anonymous, said["anonymous"])
        adapted.anonymous = max(adapted.anonymous, done.anonymous)
        self.switching["PEFT"] = self.switching.get("PEFT", {}) | said

    def programs(self):
        for name in self.table:
            if name.startswith("nibble"):
                yield name, self.nibble
            elif name == "warm bf16":
                yield name, self.warm
            elif name in ("llama.cpp", "transformers"):
                yield name, self.llama if name == "llama.cpp" else self.transformers

    def run(self):
        for threads in self.options.threads:
            # As many cores as threads, for everyone; children inherit it.
            os.sched_setaffinity(0, CORES[:threads])
            # One round after another, so that what else the machine does falls on all of them.
            for number in range(self.options.runs):
                for name, once in self.programs():
                    if name in self.failed:
                        continue
                    self.say(f"{threads} threads, run {number + 1} of {self.options.runs}: {name}")
                    try:
                        once(name, threads)
                    except measure.Failed as error:
                        self.failed[name] = str(error)
            self.time_products(threads)
        for name in ("transformers", "warm bf16"):
            if name in self.failed:
                self.failed[f"{name} adapter"] = self.failed[name]
        self.time_switching()

    def time_products(self, threads):
        if "transformers" in self.failed:
            return
        self.say(f"{threads} threads: products")
        try:
            self.products[threads] = json.loads(self.do(self.python("run_products.py", threads), threads)[1].strip().splitlines()[-1])
        except measure.Failed as error:
            self.failed["products"] = str(error)

    def beside(self, name):
        """A program that is built with nibble and lies beside it, if it is there."""
        path = self.options.nibble.parent / name
        return path if os.access(path, os.X_OK) else None

    def time_switching(self):
        if self.bench is None:
            return
        try:
            words = [word for folder in self.adapters for word in ("--adapter", folder)]
            said = self.do([self.bench, self.packed, *words, "--prompt", 8, "--new", 2, "--threads", 1], 1)[1]
        except measure.Failed as error:
            self.failed["RunBench"] = str(error)
            return
        self.switching["nibble"] = {
            key: float(found[1]) / 1000 for key, label in (
                ("open", "open the model"), ("attach", "attach adapter 0"), ("load", "attach adapter 1"), ("switch", "switch between adapters"))
            if (found := re.search(rf"^{label}\s+([\d.]+) ms", said, re.MULTILINE))}

    # What is printed.

    def machine(self):
        threads = " and ".join(map(str, self.options.threads)) + " threads on as many cores"
        text = setting.machine(
            self.options, threads, ("torch", "bitsandbytes", "transformers", "peft", "safetensors"),
            f"prompt of {PROMPT}, {NEW} new; {self.options.runs} runs")
        if self.options.llama:
            text += f"\n{setting.llama(self.options.llama, 'llama-bench')}; {self.options.gguf.stat().st_size / 1e6:.0f} MB"
        return text + f"\nnibble's  {self.packed.stat().st_size / 1e6:.0f} MB, NF4 double quantized, embedding and head included"

    def speeds(self):
        head = f"{'tokens a second':36}" + "".join(
            f"{phase + ' -t' + str(threads):>16}" for phase in ("prompt", "generation") for threads in self.options.threads)
        lines = [head + f"{'anonymous MB':>14}{'opening s':>11}"]
        for name, run in self.table.items():
            if name in self.failed:
                lines.append(f"{run.label:36}  not measured: {self.failed[name]}")
                continue
            line = f"{run.label:36}"
            for phase in ("prompt", "generation"):
                for threads in self.options.threads:
                    line += f"{run.rate(threads, phase):16.1f}"
            line += f"{run.anonymous / 1e6:14.0f}" + (f"{statistics.median(run.open):11.3f}" if run.open else f"{'':11}")
            lines.append(line)
        return "\n".join([
            *lines, "warm: rounds in one process, with and without the adapter in turn, by RunBench; llama-bench warms up, too. generate: the whole\ncommand, once. Rates are medians of the runs, ratios medians of the ratios within a run.",
            "llama.cpp repacks weights when it opens a model; that memory is anonymous. transformers keeps the embedding and head",
            f"in bfloat16, as bitsandbytes packs no embeddings; {NEW // 4} new tokens there, the adapter's memory with two of them loaded."])

    def ratios(self):
        lines = [f"{'nibble, bf16 products, warm, to':44}{'reached':>10}{'target':>10}"]

        def line(label, value, target, good):
            lines.append(f"{label:44}{value:>10}{target:>10}  {'' if good is None else 'met' if good else 'MISSED'}".rstrip())

        base = "nibble bf16" if "warm bf16" in self.failed else "warm bf16"
        own = self.table[base]
        if base in self.failed:
            return f"nibble was not measured: {self.failed[base]}"
        for (peer, phase), target in TARGETS.items():
            for threads in self.options.threads:
                label = f"{peer}, {phase}, {threads} thread{'s' if threads > 1 else ''}"
                if peer in self.failed:
                    line(label, "-", "no peer", None)
                    continue
                reached = own.over(self.table[peer], threads, phase)
                line(label, f"{reached:.2f}", f">= {target}", reached >= target)
        for name in ("warm bf16", "nibble bf16", "nibble fp32", "transformers"):
            if name in self.failed or f"{name} adapter" in self.failed:
                continue
            for threads in self.options.threads:
                for phase in ("prompt", "generation"):
                    lost = 1 - self.table[f"{name} adapter"].over(self.table[name], threads, phase)
                    is_ours = name == base
                    line(f"adapter loses, {name.replace('transformers', 'PEFT')}, {phase}, -t{threads}", f"{lost:.1%}",
                         f"<= {ADAPTER_LOSS:.0%}" if is_ours else "", lost <= ADAPTER_LOSS if is_ours else None)
        most = max(self.table[name].anonymous for name in ("nibble bf16", "nibble bf16 adapter"))
        line("anonymous memory, MB", f"{most / 1e6:.0f}", f"<= {ANONYMOUS / 1e6:.0f}", most <= ANONYMOUS)
        return "\n".join(lines)

    def product_table(self):
        if not self.products:
            return f"products not measured: {self.failed.get('products', self.failed.get('transformers', ''))}"
        first = next(iter(self.products.values()))
        columns = [(rows, threads) for rows in first for threads in self.products]
        lines = [f"{'GFLOP/s, m rows, 2048 to 8192':40}" + "".join(f"{'m=' + rows + ' -t' + str(t):>13}" for rows, t in columns)]
        for kind in next(iter(first.values())):
            lines.append(f"{kind:40}" + "".join(f"{self.products[t][rows][kind]:13.0f}" for rows, t in columns))
        return "\n".join(lines)

    def switching_table(self):
        lines = [f"{'adapters, ms':36}{'attach first':>14}{'attach second':>14}{'while running':>15}{'switch':>12}"]
        for name in ("nibble", "PEFT"):
            if name not in self.switching:
                lines.append(f"{name:36}  not measured: {self.failed.get('RunBench' if name == 'nibble' else 'transformers', 'no RunBench beside nibble')}")
                continue
            found = self.switching[name]
            running = found.get("load when running", found["load"])
            lines.append(
                f"{name:36}{found['attach'] * 1e3:14.1f}{found['load'] * 1e3:14.1f}{running * 1e3:15.1f}"
                + (f"{found['switch'] * 1e3:12.3f}" if found["switch"] >= 1e-6 else f"{'< 0.001':>12}"))
        return "\n".join(lines)

    def kernel_bench(self):
        """What nibble's own benchmark of its kernels says, to stand beside the products."""
        if (bench := self.beside("KernelBench")) is None:
            return "no KernelBench beside nibble: its kernels are not timed here"
        os.sched_setaffinity(0, CORES[: max(self.options.threads)])
        try:
            return "nibble's KernelBench\n" + self.do([bench, max(self.options.threads)], max(self.options.threads))[1].rstrip()
        except measure.Failed as error:
            return f"KernelBench: {error}"


CORES = sorted(os.sched_getaffinity(0))


def main():
    bench = Bench(parse())
    try:
        bench.prepare()
    except measure.Failed as error:
        sys.exit(f"tools/bench-peers: {error}")
    head = bench.machine()
    bench.others.clear()
    bench.run()
    meanwhile = f"meanwhile other programs kept {statistics.fmean(bench.others):.2f} cores busy, {max(bench.others):.2f} at most"
    print(head + "\n" + meanwhile, bench.speeds(), bench.ratios(), bench.product_table(), bench.switching_table(), bench.kernel_bench(), sep="\n\n")


main()
