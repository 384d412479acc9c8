"""Prints what finetune_models.py measured."""
import json
import statistics

LABELS = {
    "nibble QLoRA bf16": "nibble QLoRA on NF4, bf16", "nibble checkpointed": "  with --gradient-checkpointing",
    "nibble LoRA bf16": "nibble LoRA on the bf16 base, bf16", "PEFT QLoRA bf16": "PEFT + bitsandbytes on NF4, bf16",
    "PEFT LoRA bf16": "PEFT LoRA on the bf16 base, bf16", "nibble QLoRA fp32": "nibble QLoRA on NF4, fp32",
    "PEFT QLoRA fp32": "PEFT + bitsandbytes on NF4, fp32"}
# What is divided by what.
PAIRS = (
    ("PEFT QLoRA bf16", "nibble QLoRA bf16"), ("PEFT LoRA bf16", "nibble QLoRA bf16"), ("PEFT LoRA bf16", "nibble LoRA bf16"),
    ("PEFT QLoRA fp32", "nibble QLoRA fp32"), ("nibble QLoRA bf16", "nibble LoRA bf16"), ("nibble checkpointed", "nibble QLoRA bf16"))
# Factors of B begin at zero, so the first loss is the base's.
SAME, DIFFERENCE = ("nibble QLoRA fp32", "PEFT QLoRA fp32"), 1e-3


def meanwhile(bench):
    return f"meanwhile other programs kept {statistics.fmean(bench.others):.2f} cores busy, {max(bench.others):.2f} at most"


def taken(bench):
    counts = bench.options.threads
    lines = [f"{'seconds a step':38}" + "".join(f"{f'-t{count}':>9}{'(least-most)':>16}" for count in counts)
             + f"{'peak MB':>10}{'anonymous MB':>14}"]
    for name, label in LABELS.items():
        if name in bench.failed:
            lines.append(f"{label:38}  not measured: {bench.failed[name]}")
            continue
        line = f"{label:38}"
        for count in counts:
            steps = [step for steps in bench.seconds[name, count] for step in steps]
            spread = f"{min(steps):.2f}-{max(steps):.2f}"
            line += f"{statistics.median(steps):9.2f}{spread:>16}"
        runs = [run for count in counts for run in bench.processes[name, count]]
        lines.append(line + f"{max(run.peak for run in runs) / 1e6:10.0f}{max(run.anonymous for run in runs) / 1e6:14.0f}")
    return "\n".join([
        *lines, "A step: forth, back, gradients clipped, AdamW; without gradient checkpointing unless it says so. PEFT's base in NF4 has nibble's",
        "codes; its factors are float32, and in fp32 all that is not packed (prepare_model_for_kbit_training). Peak memory is the largest",
        "resident set of the process, mapped pages and loading included; anonymous is what is no file's."])


def ratios(bench):
    counts = bench.options.threads
    lines = [f"{'ratio, median of the rounds':46}" + "".join(f"{f'step -t{count}':>10}" for count in counts) + f"{'peak':>8}{'anonymous':>11}"]
    for above, below in PAIRS:
        label = f"{above} / {below}"
        if above in bench.failed or below in bench.failed:
            lines.append(f"{label:46}  not measured")
            continue
        line = f"{label:46}"
        for count in counts:
            rounds = zip(bench.seconds[above, count], bench.seconds[below, count])
            line += f"{statistics.median(statistics.median(one) / statistics.median(other) for one, other in rounds):10.2f}"
        runs = [pair for count in counts for pair in zip(bench.processes[above, count], bench.processes[below, count])]
        for kind, width in (("peak", 8), ("anonymous", 11)):
            line += f"{statistics.median(getattr(one, kind) / getattr(other, kind) for one, other in runs):{width}.2f}"
        lines.append(line)
    return "\n".join(lines)


def losses(bench):
    measured = [name for name in LABELS if name not in bench.failed]
    steps = range(len(bench.losses[measured[0]]))
    lines = [f"{'loss':38}" + "".join(f"{f'step {step + 1}':>12}" for step in steps) + f"{'trained':>12}"]
    for name in measured:
        lines.append(f"{LABELS[name]:38}" + "".join(f"{loss:12.6f}" for loss in bench.losses[name]) + f"{bench.trained[name]:12}")
    if any(name in bench.failed for name in SAME):
        return "\n".join([*lines, "fp32, first step: not compared"])
    one, other = (bench.losses[name][0] for name in SAME)
    found = abs(one - other) / abs(other)
    return "\n".join([
        *lines, f"fp32, first step: nibble's and PEFT's differ by {found:.1e} of it, at most {DIFFERENCE:.0e}: "
        + ("met" if found <= DIFFERENCE else "MISSED")])


def weights(model):
    """Numbers of the linear layers of a Llama, and of its head."""
    config = json.loads((model / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or width // heads
    layer = width * size * (2 * heads + 2 * pairs) + 3 * width * inner
    return config["num_hidden_layers"] * layer, width * config["vocab_size"]


def batches(bench):
    """How fast nibble's whole step is, what of its time the products with weights take, and where the rest goes."""
    layers, head = weights(bench.options.model)
    lines = [f"{'nibble QLoRA bf16, larger micro-batches':42}{'s a step':>9}{'GFLOP/s':>9}{'products':>10}{'share':>7}{'peak MB':>9}"
             f"{'anonymous MB':>14}"]
    for (count, tokens, is_checkpointed, threads), (said, done) in bench.batches.items():
        label = f"{count} x {tokens} tokens, -t{threads}{', checkpointed' if is_checkpointed else ''}"
        # Forth and back to the input; checkpointing goes through all layers but the last once more.
        work = 2 * count * tokens * ((3 if is_checkpointed else 2) * layers + 2 * head) / 1e9
        parts, step = said["seconds_of"], statistics.median(said["steps"][1:])
        share = parts["weights"] / sum(parts.values())
        lines.append(f"{label:42}{step:9.2f}{work / step:9.0f}{work / step / share:10.0f}{share:7.2f}{done.peak / 1e6:9.0f}{done.anonymous / 1e6:14.0f}")
        rest = ", ".join(f"{name} {100 * seconds / sum(parts.values()):.1f} %" for name, seconds in parts.items() if name != "weights")
        lines.append(f"  the rest: {rest}")
    return "\n".join([
        *lines, "GFLOP/s of the whole step, then of its products with weights, decoding included, and their share of the time."])
