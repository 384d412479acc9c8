"""Trains an adapter with nibble and with its peers in one run and prints what a step took. Called by tools/bench-peers."""
import json
import os
import pathlib
import random
import sys

import finetune_tables
import measure
import setting

HERE = pathlib.Path(__file__).resolve().parent
TOKENS, RANK, ALPHA, RATE = 128, 8, 16, "1e-4"
# Of a round; one more comes first, to warm up.
STEPS = 2
# Larger micro-batches, nibble only: rows, tokens of each, flags.
BATCHES = ((4, 128, []), (4, 128, ["--gradient-checkpointing"]), (4, 512, ["--gradient-checkpointing"]))


def parse():
    parser = setting.arguments()
    parser.add_argument("--threads", type=int, action="append", required=True)
    return parser.parse_args()


class Bench:
    def __init__(self, options):
        self.options = options
        missing = dict(text.split("=", 1) for text in options.missing)
        self.failed = {}
        for name, needed in (("PEFT QLoRA bf16", ["transformers", "bitsandbytes"]), ("PEFT QLoRA fp32", ["transformers", "bitsandbytes"]),
                             ("PEFT LoRA bf16", ["transformers"])):
            self.failed |= {name: missing[peer] for peer in needed if peer in missing}
        work = options.work
        self.base, self.folder = work / "base.nbl", work / "base-bnb"
        self.rows, self.out = work / "rows.jsonl", work / "trained"
        # By program and threads, of every round: seconds of the steps, and the process.
        self.seconds, self.processes = {}, {}
        # By program: losses of the steps of one round, and numbers trained.
        self.losses, self.trained = {}, {}
        self.others = []
        # By batch and threads: what nibble said of the run, and the process.
        self.batches = {}

    def do(self, command, threads, **how):
        """Runs it; what it took, and what it said."""
        return measure.checked(command, setting.environment(threads), self.options.work, **how)

    def programs(self, threads):
        """Of each: what it reads and its command line, in the order of the table."""
        model = self.options.model

        def nibble(base, compute, *flags):
            return base, [
                self.options.nibble, "finetune", "--base", base, "--data", self.rows, "-o", self.out, "--force", "--lora-r", RANK,
                "--lora-alpha", ALPHA, "--max-steps", 1 + STEPS, "--batch-size", 1, "--no-shuffle", "--learning-rate", RATE,
                "--lr-scheduler", "constant", "--compute-dtype", compute, "-j", threads, "--json", "-q", *flags]

        def peft(base, dtype):
            python = self.options.venv / "bin" / "python"
            return base, [python, HERE / "finetune_peft.py", base, self.rows, dtype, RANK, ALPHA, RATE, threads]

        return {
            "nibble QLoRA bf16": nibble(self.base, "bf16"),
            "nibble checkpointed": nibble(self.base, "bf16", "--gradient-checkpointing"),
            "nibble LoRA bf16": nibble(model, "bf16"),
            "PEFT QLoRA bf16": peft(self.folder, "bfloat16"),
            "PEFT LoRA bf16": peft(model, "bfloat16"),
            "nibble QLoRA fp32": nibble(self.base, "fp32"),
            "PEFT QLoRA fp32": peft(self.folder, "float32"),
        }

    def prepare(self):
        """The rows, a base packed by nibble, and for PEFT the same codes in bitsandbytes' layout."""
        size = json.loads((self.options.model / "config.json").read_text())["vocab_size"]
        chance = random.Random(1)
        rows = [[chance.randrange(size) for _ in range(TOKENS)] for _ in range(1 + STEPS)]
        self.rows.write_text("".join(json.dumps({"input_ids": ids, "labels": ids}) + "\n" for ids in rows))
        threads = max(self.options.threads)
        self.do([self.options.nibble, "quantize", self.options.model, "-o", self.base, "-q"], threads)
        self.do([self.options.nibble, "convert", self.base, "-o", self.folder, "--format", "bnb", "-q"], threads)

    def once(self, name, threads, reads, command):
        # What is read into the page cache, what others wrote out of the way.
        os.sync()
        files = [reads] if reads.is_file() else reads.glob("*.safetensors")
        measure.run(["cat", *files], setting.environment(threads), os.devnull)
        done, said = self.do(command, threads, anonymous=True)
        said = json.loads(said if name.startswith("nibble") else said.strip().splitlines()[-1])
        if name.startswith("nibble"):
            steps = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
            said |= {"seconds": [step["seconds"] for step in steps], "losses": [step["loss"] for step in steps]}
        if len(said["seconds"]) != 1 + STEPS:
            raise measure.Failed(f"{len(said['seconds'])} steps")
        self.others.append(done.others)
        self.seconds.setdefault((name, threads), []).append(said["seconds"][1:])
        self.processes.setdefault((name, threads), []).append(done)
        self.losses[name], self.trained[name] = said["losses"], said["trained"]

    def run(self):
        for threads in self.options.threads:
            # As many cores as threads, for everyone; children inherit it.
            os.sched_setaffinity(0, CORES[:threads])
            # One round after another, so that what else the machine does falls on all of them.
            for number in range(self.options.runs):
                for name, (reads, command) in self.programs(threads).items():
                    if name in self.failed:
                        continue
                    print(f"{threads} threads, run {number + 1} of {self.options.runs}: {name}", file=sys.stderr)
                    try:
                        self.once(name, threads, reads, command)
                    except measure.Failed as error:
                        if name.startswith("nibble"):
                            raise
                        self.failed[name] = str(error)


    def run_batches(self):
        """Every batch on all the cores there are to be, the first on each number of them."""
        size = json.loads((self.options.model / "config.json").read_text())["vocab_size"]
        chance = random.Random(2)
        for count, tokens, flags in BATCHES:
            rows = [[chance.randrange(size) for _ in range(tokens)] for _ in range(count * (1 + STEPS))]
            self.rows.write_text("".join(json.dumps({"input_ids": ids, "labels": ids}) + "\n" for ids in rows))
            for threads in self.options.threads if (count, tokens, flags) == BATCHES[0] else self.options.threads[-1:]:
                os.sched_setaffinity(0, CORES[:threads])
                print(f"{threads} threads, {count} x {tokens} tokens {' '.join(flags)}", file=sys.stderr)
                done, said = self.do([
                    self.options.nibble, "finetune", "--base", self.base, "--data", self.rows, "-o", self.out, "--force", "--lora-r", RANK,
                    "--lora-alpha", ALPHA, "--max-steps", 1 + STEPS, "--batch-size", count, "--no-shuffle", "--learning-rate", RATE,
                    "--compute-dtype", "bf16", "-j", threads, "--json", "-q", *flags], threads, anonymous=True)
                steps = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
                said = json.loads(said) | {"steps": [step["seconds"] for step in steps]}
                self.batches[count, tokens, bool(flags), threads] = said, done


CORES = sorted(os.sched_getaffinity(0))


def main():
    options = parse()
    bench = Bench(options)
    threads = " and ".join(map(str, options.threads)) + " threads on as many cores"
    head = setting.machine(
        options, threads, ("torch", "bitsandbytes", "transformers", "peft", "safetensors"),
        f"median of {options.runs} rounds of {STEPS} steps after one that warms up")
    head += f"\nadapter   rank {RANK}, alpha {ALPHA}, on all linear layers; a row of {TOKENS} random tokens a step"
    try:
        bench.prepare()
        bench.run()
        bench.run_batches()
    except measure.Failed as error:
        sys.exit(f"tools/bench-peers: {error}")
    print(head + "\n" + finetune_tables.meanwhile(bench), finetune_tables.taken(bench), finetune_tables.ratios(bench),
          finetune_tables.losses(bench), finetune_tables.batches(bench), sep="\n\n")


main()
