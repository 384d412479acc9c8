"""Prints what merge_models.py measured."""
import json
import statistics

import measure

LABELS = {
    "nibble": "nibble merge, bf16", "nibble unchecked": "  with --no-check", "PEFT": "PEFT merge_and_unload, bf16",
    "llama.cpp": "llama-export-lora, bf16 to fp16", "copy": "copy of the base: dd conv=fsync",
    "direct copy": "copy of the base: dd, fsync, direct",
    "nibble 4 bit": "nibble merge into NF4, rounded", "nibble shape": "  with --when-lost shape",
    "nibble anew": "nibble, original + delta to NF4", "PEFT 4 bit": "PEFT merge_and_unload, NF4"}
# What is divided by what.
PAIRS = (
    ("PEFT", "nibble"), ("PEFT", "nibble unchecked"), ("llama.cpp", "nibble"), ("llama.cpp", "nibble unchecked"),
    ("nibble", "copy"), ("nibble", "direct copy"), ("nibble unchecked", "copy"), ("nibble unchecked", "direct copy"),
    ("PEFT 4 bit", "nibble 4 bit"), ("PEFT 4 bit", "nibble shape"), ("PEFT 4 bit", "nibble anew"))


def adapter(bench):
    config = json.loads((bench.options.adapter / "adapter_config.json").read_text())
    found = next((kept for kept in bench.kept.values() if isinstance(kept, dict)), None)
    length = f", {found['change']:.2%} of the weights' length" if found else ""
    return (
        f"adapter   rank {config['r']}, alpha {config['lora_alpha']}, on {', '.join(config['target_modules'])}{length}\n"
        f"meanwhile other programs kept {statistics.fmean(bench.others):.2f} cores busy, {max(bench.others):.2f} at most")


def taken(bench):
    lines = [f"{'':38}{'wall s':>9}{'(least-most)':>16}{'CPU s':>9}{'peak MB':>10}{'written MB':>12}"]
    for name, label in LABELS.items():
        if name in bench.failed:
            lines.append(f"{label:38}  not measured: {bench.failed[name]}")
            continue
        runs = bench.runs[name]
        middle = measure.median(runs)
        spread = f"{min(r.wall for r in runs):.2f}-{max(r.wall for r in runs):.2f}"
        lines.append(
            f"{label:38}{middle.wall:9.2f}{spread:>16}{middle.cpu:9.2f}{middle.peak / 1e6:10.0f}{bench.bytes[name] / 1e6:12.1f}")
    return "\n".join([
        *lines, "nibble and dd sync what they write; the peers leave it in the page cache. PEFT's base in NF4 has nibble's codes.",
        "Whole processes, from start to exit. Peak memory is the largest resident set of one process, mapped pages included."])


def ratios(bench):
    lines = [f"{'ratio, median of the rounds':46}{'wall':>8}{'CPU':>8}{'peak':>8}"]
    for above, below in PAIRS:
        label = f"{above} / {below}"
        if above in bench.failed or below in bench.failed:
            lines.append(f"{label:46}  not measured")
            continue
        pairs = list(zip(bench.runs[above], bench.runs[below]))
        lines.append(f"{label:46}" + "".join(
            f"{statistics.median(getattr(one, kind) / getattr(other, kind) for one, other in pairs):8.2f}"
            for kind in ("wall", "cpu", "peak")))
    return "\n".join(lines)


def steps(bench):
    names = ("start", "import", "load", "attach", "merge", "save")
    lines = [f"{'CPU seconds of each step':38}" + "".join(f"{name:>9}" for name in names) + f"{'merge + save, times nibble':>28}"]
    for name in ("PEFT", "PEFT 4 bit"):
        if name in bench.failed:
            lines.append(f"{LABELS[name]:38}  not measured: {bench.failed[name]}")
            continue
        own = bench.runs["nibble" + name.removeprefix("PEFT")]
        times = [(said["merge"] + said["save"]) / run.cpu for said, run in zip(bench.steps[name], own)]
        seconds = "".join(f"{statistics.median(said[step] for said in bench.steps[name]):9.2f}" for step in names)
        lines.append(f"{LABELS[name]:38}{seconds}{statistics.median(times):28.1f}")
    return "\n".join([*lines, "Loading maps the base; its pages are read when they are merged or saved."])


def kept(bench):
    lines = [f"{'what became of the change':38}{'survival':>10}{'worst':>9}{'noise':>9}{'worst':>9}{'inner':>9}"
             f"{'nibble says: survival':>24}{'worst':>9}{'noise':>9}{'worst':>9}{'inner':>9}"]

    def cells(values, widths):
        return "".join(f"{'-' if value is None else form.format(value):>{width}}" for (value, form), width in zip(values, widths))

    def five(said, names):
        forms = ("{:.4f}", "{:.4f}", "{:.3%}", "{:.3%}", "{:.1%}")
        return list(zip((said.get(name) for name in names), forms))

    for name, label in LABELS.items():
        if name in bench.failed or name not in bench.kept:
            if name.startswith("PEFT"):
                lines.append(f"{label:38}  not measured: {bench.failed[name]}")
            continue
        found, said = bench.kept[name], bench.said.get(name)
        names = ("survival", "survival_worst", "noise", "noise_worst", "inner_noise")
        line = f"{label:38}" + cells(five(found if isinstance(found, dict) else {}, names), (10, 9, 9, 9, 9))
        if said:
            worst = max((tensor["relative_noise"] for tensor in said["changed"]), default=None)
            names = ("survival", "survival_worst", "relative_noise", "worst", "inner_noise")
            line += cells(five(said | {"worst": worst}, names), (24, 9, 9, 9, 9))
        lines.append(line)
    lines += [f"{LABELS[name]}: not measured by other code: {found}" for name, found in bench.kept.items() if isinstance(found, str)]
    return "\n".join([
        *lines, "survival: <W' - W, D> / <D, D> of all tensors, and of the worst; D the adapter's change, W' what was written, W what is written",
        "without an adapter (in 4 bit the packed base). noise: ||W' - W - D|| / ||W||. inner: that in the directions of the input which the",
        "adapter reads, as part of ||D||. On the left measured by other code than nibble's, with bitsandbytes unpacking."])
