"""A training step of each method as a multiple of plain LoRA's: nibble alone, on a random Llama packed to NF4, all methods in turn in every round.

What is compared is processor time of one thread, of a run of some steps less that of a run of one: other programs hardly show in it.
"""
import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import tempfile

import torch
import transformers

# Ranks as LoRA's, so that the work beside the weights' products is alike.
METHODS = {
    "lora": [], "rslora": [], "dora": [], "lora-fa": [], "delta-lora": [], "adalora": ["--method-option", "target_r=4", "--method-option", "tinit=0"],
    "vera": [], "ia3": [], "loha": [], "lokr": [], "oft": ["--method-option", "oft_block_size=32"], "boft": ["--method-option", "boft_block_size=8"],
    "hra": [], "miss": [], "qalora": [], "iec": [], "qbara": [], "qahira": [],
    "lora, pissa_niter_4": ["--init-lora", "pissa_niter_4"], "lora, merge-aware": ["--merge-aware"],
}
FLOAT_ONLY = {"delta-lora"}

options = argparse.ArgumentParser()
options.add_argument("--nibble", default=".build/release/nibble")
options.add_argument("--width", type=int, default=2048)
options.add_argument("--layers", type=int, default=2)
options.add_argument("--rank", type=int, default=8)
options.add_argument("--length", type=int, default=256)
options.add_argument("--rows", type=int, default=2)
options.add_argument("--steps", type=int, default=4, help="beside the first")
options.add_argument("--rounds", type=int, default=3)
options.add_argument("--only", help="methods, divided by commas; lora is among them always")
asked = options.parse_args()
chosen = {name: flags for name, flags in METHODS.items() if not asked.only or name == "lora" or name in asked.only.split(",")}

with tempfile.TemporaryDirectory() as folder:
    work = pathlib.Path(folder)
    torch.manual_seed(0)
    heads = asked.width // 64
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=512, hidden_size=asked.width, intermediate_size=4 * asked.width, num_hidden_layers=asked.layers, num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4), head_dim=64, max_position_embeddings=asked.length))
    model.to(torch.bfloat16).save_pretrained(work / "float")
    subprocess.run([asked.nibble, "quantize", work / "float", "-o", work / "packed.nbl", "-q"], check=True)
    count = (asked.steps + 1) * asked.rows
    ids = torch.randint(3, 512, (count, asked.length)).tolist()
    (work / "rows.jsonl").write_text("".join(json.dumps({"input_ids": row, "labels": row}) + "\n" for row in ids))

    def run(name, steps):
        base = work / ("float" if name in FLOAT_ONLY or name == "lora, float" else "packed.nbl")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [asked.nibble, "finetune", "--base", base, "--data", work / "rows.jsonl", "-o", work / "out", "--force", "-q", "-j", "1",
             "--method", name.split(",")[0], "--lora-r", str(asked.rank), "--batch-size", str(asked.rows), "--max-steps", str(steps),
             "--no-shuffle", *chosen.get(name, [])], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def seconds(name):
        return (run(name, asked.steps + 1) - run(name, 1)) / asked.steps

    ratios = {name: [] for name in chosen if name != "lora"}
    plain = []
    for _ in range(asked.rounds):
        # LoRA on either side of each: what else runs meanwhile changes by and by.
        before = {False: seconds("lora"), True: seconds("lora, float") if FLOAT_ONLY & chosen.keys() else 0}
        for name in ratios:
            is_float = name in FLOAT_ONLY
            own, after = seconds(name), seconds("lora, float" if is_float else "lora")
            ratios[name].append(2 * own / (before[is_float] + after))
            before[is_float] = after
            plain.append(before[False])
    print(f"width {asked.width}, {asked.layers} layers, rank {asked.rank}, {asked.rows} x {asked.length} tokens, one thread; "
          f"LoRA takes {statistics.median(plain):.2f} s of processor time a step")
    for name, found in ratios.items():
        print(f"{name:24}{statistics.median(found):6.2f}   {min(found):.2f} to {max(found):.2f}")
