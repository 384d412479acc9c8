"""Classifiers: what finetune writes loads in PEFT as it is, and says there what it says here."""
import json

import peft
import pytest
import tokenizers
import torch
import transformers
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from safetensors.torch import load_file
from test_adapters_running import class_and_type, save_adapter
from test_finetune import ACCUMULATION, BATCH, RUN, STEPS, assert_same_steps, by_torch

CLASSES = 3


def save_classifier(name, folder):
    """A random classifier whose tokens are words, `t5` the one with id 5."""
    model = save_random(*class_and_type(name), folder)
    words = tokenizers.models.WordLevel({f"t{id}": id for id in range(model.config.vocab_size)}, unk_token="t3")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def rows(model, path):
    made = [{"input_ids": random_ids(model, 1, 7 + number % 4)[0].tolist(), "label": number % CLASSES}
            for number in range(STEPS * BATCH * ACCUMULATION)]
    path.write_text("".join(
        json.dumps({"text": " ".join(f"t{id}" for id in row["input_ids"]), "label": row["label"]}) + "\n" for row in made))
    return made


def of_class(model, row):
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
    return torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"]]), reduction="sum"), 1


def loaded(base, adapter):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, adapter).eval()


CLASSIFIERS = [f"{name}ForSequenceClassification" for name in ("Bert", "Roberta", "Llama", "Mistral", "Qwen2", "GPT2")]


@pytest.mark.parametrize("more", [
    [], ["--bias", "all"], ["--bias", "lora_only"], ["--method", "dora"], ["--target-modules", "attention"],
], ids=lambda more: "-".join(more) or "plain")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_new_adapters_load_in_peft_and_say_the_same(nibble, work, name, more):
    model = save_classifier(name, work / "m")
    rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *RUN, *more)
    ids = random_ids(model, 3, 12)
    said = forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids)
    theirs = loaded(work / "m", work / "out")
    assert_same(said, expected(theirs, input_ids=ids))
    # Every tensor of ours has its place there.
    names = peft.get_peft_model_state_dict(theirs).keys()
    assert load_file(work / "out" / "adapter_model.safetensors").keys() <= names


@pytest.mark.parametrize("settings", [
    {"bias": "none"}, {"bias": "all"}, {"bias": "lora_only"}, {"use_dora": True},
], ids=lambda settings: "-".join(map(str, next(iter(settings.items())))))
@pytest.mark.parametrize("name, targets", [
    ("BertForSequenceClassification", ["query", "value"]), ("RobertaForSequenceClassification", ["query"]),
    ("GPT2ForSequenceClassification", ["c_attn"]),
])
def test_steps_on_an_adapter_are_pytorch_s(nibble, work, name, targets, settings):
    model_class, _ = class_and_type(name)
    made = rows(save_classifier(name, work / "m"), work / "rows.jsonl")
    adapter = save_adapter(
        model_class, work / "m", work / "start", target_modules=targets, task_type="SEQ_CLS",
        fan_in_fan_out=name.startswith("GPT2"), **settings)
    model = peft.PeftModel.from_pretrained(as_float32(model_class, work / "m"), adapter, is_trainable=True)
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN)
    ids = random_ids(model, 3, 12)
    assert_same_steps(work / "out", by_torch(model, made, loss_of=of_class))
    assert_same(expected(loaded(work / "m", work / "out"), input_ids=ids), expected(model, input_ids=ids), tolerance=2e-4)
    said = forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids)
    assert_same(said, expected(loaded(work / "m", work / "out"), input_ids=ids))
