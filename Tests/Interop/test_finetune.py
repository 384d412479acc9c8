"""Training compared with PyTorch's, step by step on the same rows; adapters that come out are PEFT's to load."""
import json

import peft
import pytest
import torch
import transformers
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from safetensors.torch import load_file
from test_adapters_running import LLAMA, by_peft, class_and_type, packed_and_twin, save_adapter

STEPS, BATCH, ACCUMULATION, RATE = 6, 2, 2, 5e-3
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--gradient-accumulation-steps", ACCUMULATION, "--learning-rate", RATE,
       "--no-shuffle", "--lr-scheduler", "linear", "--warmup-steps", 1, "--weight-decay", "0.01", "--max-grad-norm", "0.5"]


def rows(model, path, labels=None):
    """Rows of different lengths, some of whose tokens count for nothing."""
    made = []
    for number in range(STEPS * BATCH * ACCUMULATION):
        ids = random_ids(model, 1, 9 + number % 5)[0].tolist()
        row = {"input_ids": ids, "labels": [-100] * (number % 4) + ids[number % 4:]}
        made.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def by_torch(model, made, parameters=None):
    """The same steps; losses and gradient norms."""
    parameters = [p for p in model.parameters() if p.requires_grad] if parameters is None else parameters
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1, STEPS)
    model.eval()  # no dropout
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for micro in range(ACCUMULATION):
            first = (step * ACCUMULATION + micro) * BATCH
            losses, count = 0.0, 0
            for row in made[first:first + BATCH]:
                labels = torch.tensor([row["labels"]])
                logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
                losses = losses + torch.nn.functional.cross_entropy(
                    logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
                count += int((labels[0, 1:] != -100).sum())
            loss = losses / count / ACCUMULATION
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        schedule.step()
        seen.append((total, norm.item()))
    return seen


def assert_same_steps(folder, seen):
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, (loss, norm) in zip(metrics, seen, strict=True):
        assert row["loss"] == pytest.approx(loss, rel=2e-5)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-4)


@pytest.mark.parametrize("name, settings", [
    (LLAMA, {"target_modules": "all-linear"}), (LLAMA, {"target_modules": "all-linear", "use_dora": True}),
    (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
    (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}),
    ("Qwen2ForCausalLM", {"target_modules": "all-linear", "bias": "lora_only"}),
    ("MistralForCausalLM", {"target_modules": "all-linear"}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ("GPT2LMHeadModel", {"target_modules": ["c_fc"], "fan_in_fan_out": True, "use_dora": True}),
], ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)))
@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
def test_steps_are_pytorch_s(nibble, work, name, settings, base):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m")
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    if base != "plain" and "modules_to_save" in settings:
        pytest.skip("a packed weight is not trained whole from the same values")
    adapter = save_adapter(model_class, theirs, work / "start", **settings)
    model = peft.PeftModel.from_pretrained(as_float32(model_class, theirs), adapter, is_trainable=True)
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", ours, "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN)
    seen = by_torch(model, made)
    assert_same_steps(work / "out", seen)
    final = by_peft(model_class, theirs, work / "out")
    ids = random_ids(final, 2, 12)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=2e-4)


@pytest.mark.parametrize("name", [LLAMA, "GPT2LMHeadModel"])
@pytest.mark.parametrize("tied", [True, False])
def test_full_training_is_pytorch_s(nibble, work, name, tied):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=tied)
    model = as_float32(model_class, work / "m")
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "full", "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    final = as_float32(model_class, work / "out" / "model")
    ids = random_ids(final, 2, 12)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=1e-3)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("name", [LLAMA, "GPT2LMHeadModel"])
def test_new_adapters_load_in_peft_and_say_the_same(nibble, work, name, method):
    model_class, model_type = class_and_type(name)
    model = save_random(model_class, model_type, work / "m")
    rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", method, "-o", work / "out", *RUN)
    ids = random_ids(model, 3, 12)
    said = forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids)
    assert_same(said, expected(by_peft(model_class, work / "m", work / "out"), input_ids=ids))
    assert len(load_file(work / "out" / "adapter_model.safetensors")) > 4


def test_the_bundled_model_learns_shakespeare_and_merging_keeps_it(nibble, stories, work):
    """Real weights, real text, a minute: train on the packed file, attach, merge, and judge each by the same scene."""
    shakespeare = stories.parent / "shakespeare"
    nibble("quantize", stories, "-o", work / "base.nbl")
    nibble("finetune", "--base", work / "base.nbl", "--data", shakespeare / "train.jsonl", "-o", work / "adapter", "--lora-r", 8,
           "--lora-alpha", 16, "--learning-rate", "5e-3", "--max-steps", 60, "--batch-size", 16)

    def perplexity(base, *options):
        return nibble.json("evaluate", "--base", base, "--task", "perplexity", "--windows", "whole", "--data",
                           shakespeare / "scene.txt", *options)["perplexity"]

    before = perplexity(work / "base.nbl")
    attached = perplexity(work / "base.nbl", "--adapter", work / "adapter")
    assert attached < before / 3
    # The adapter knows the packed form it was trained on: merging into the original packs that first.
    said = nibble.json("merge", "--base", stories, "--adapter", work / "adapter", "-o", work / "merged")
    assert said["trained_on"]
    assert perplexity(work / "merged") == pytest.approx(attached, rel=1e-4)
    nibble("merge", "--base", work / "base.nbl", "--adapter", work / "adapter", "--when-lost", "shape", "-o", work / "shaped.nbl")
    assert attached < perplexity(work / "shaped.nbl") < 1.5 * attached
