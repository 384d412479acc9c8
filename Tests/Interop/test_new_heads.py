"""Heads trained on bases that have none: transformers, PEFT and nibble say the same of the adapter and of the merged model."""
import json

import peft
import pytest
import tokenizers
import torch
import transformers
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from test_adapters_running import class_and_type
from test_minilm import minilm  # noqa: F401

NAMES = ["cold", "mild", "hot"]
RUN = ["--max-steps", "4", "--learning-rate", "0.01", "--lora-r", "4"]


def save_base(name, folder, **changes):
    """A random model without a classification head, whose tokens are words."""
    model = save_random(*class_and_type(name), folder, **changes)
    save_words(model.config.vocab_size, folder)
    return model


def save_words(size, folder):
    words = tokenizers.models.WordLevel({f"t{id}": id for id in range(size)}, unk_token="t3")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def save_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of_classes(model, path, label=lambda number: NAMES[number % 3], key="label"):
    save_rows(path, [{"text": " ".join(f"t{id}" for id in random_ids(model, 1, 8)[0].tolist()), key: label(number)} for number in range(12)])


def classifier(folder, **settings):
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **settings).eval()


BASES = ["BertModel", "RobertaModel", "RobertaForMaskedLM", "LlamaModel", "LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel"]


@pytest.mark.parametrize("name", BASES)
def test_a_new_head_is_the_family_s_own(nibble, work, name):
    model = save_base(name, work / "m")
    rows_of_classes(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", "--labels", ",".join(NAMES), *RUN)
    ids = random_ids(model, 3, 12)
    attached = forward(nibble, work / "m", work, "--adapter", work / "a", input_ids=ids)

    theirs = peft.PeftModel.from_pretrained(classifier(work / "m", num_labels=3), work / "a").eval()
    assert_same(attached, expected(theirs, input_ids=ids))

    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged", "--dtype", "fp32", "--check-model")
    config = json.loads((work / "merged" / "config.json").read_text())
    assert config["architectures"] == [name[:name.index("For") if "For" in name else name.index("LM" if "LM" in name else "Model")] + "ForSequenceClassification"]
    assert list(config["id2label"].values()) == NAMES and config["label2id"] == {name: id for id, name in enumerate(NAMES)}
    assert config["problem_type"] == "single_label_classification"
    merged, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        work / "merged", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"]
    wanted = expected(merged.eval(), input_ids=ids)
    assert_same(attached, wanted, tolerance=1e-4)
    assert_same(forward(nibble, work / "merged", work, input_ids=ids), wanted)
    # And packed: nibble runs its own file, and evaluates with the classes' names.
    nibble("quantize", work / "merged", "-o", work / "merged.nbl")
    twin = work / "twin"
    nibble("dequantize", work / "merged.nbl", "-o", twin, "--dtype", "fp32")
    assert_same(forward(nibble, work / "merged.nbl", work, input_ids=ids), expected(classifier(twin), input_ids=ids))
    for base in ("merged", "merged.nbl"):
        found = nibble.json("evaluate", "--base", work / base, "--data", work / "rows.jsonl", "--task", "classification")
        assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize("rows, options, problem", [
    (dict(label=lambda number: number / 4), ["--num-labels", "1"], "regression"),
    (dict(label=lambda number: NAMES[:number % 3], key="labels"), ["--labels", ",".join(NAMES), "--many-labels"], "multi_label_classification"),
])
def test_problems_are_written_as_transformers_reads_them(nibble, work, rows, options, problem):
    model = save_base("BertModel", work / "m")
    rows_of_classes(model, work / "rows.jsonl", **rows)
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", *options, *RUN)
    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged", "--dtype", "fp32")
    assert classifier(work / "merged").config.problem_type == problem
    ids = random_ids(model, 3, 12)
    assert_same(forward(nibble, work / "merged", work, input_ids=ids), expected(classifier(work / "merged"), input_ids=ids))


def test_another_number_of_classes_takes_the_place_of_the_base_s_head(nibble, work):
    model = save_base("RobertaForSequenceClassification", work / "m")
    rows_of_classes(model, work / "rows.jsonl", label=lambda number: number % 5)
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", "--num-labels", 5, *RUN)
    ids = random_ids(model, 3, 12)
    attached = forward(nibble, work / "m", work, "--adapter", work / "a", input_ids=ids)
    assert attached["logits"].shape == (3, 5)
    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged", "--dtype", "fp32")
    assert_same(attached, expected(classifier(work / "merged"), input_ids=ids), tolerance=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_head_that_only_nibble_has_runs_in_nibble_after_merging(nibble, work, pooling):
    model = save_base("BertModel", work / "m")
    rows_of_classes(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", "--labels", ",".join(NAMES),
           "--pooling", pooling, *RUN)
    ids = random_ids(model, 3, 12)
    attached = forward(nibble, work / "m", work, "--adapter", work / "a", input_ids=ids)
    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged", "--dtype", "fp32")
    assert_same(attached, forward(nibble, work / "merged", work, input_ids=ids), tolerance=1e-4)
    nibble("quantize", work / "merged", "-o", work / "merged.nbl")
    for base in ("merged", "merged.nbl"):
        found = nibble.json("evaluate", "--base", work / base, "--data", work / "rows.jsonl", "--task", "classification")
        assert 0 <= found["accuracy"] <= 1
    # transformers sees the encoder.
    assert as_float32(transformers.BertModel, work / "merged") is not None


def test_minilm_becomes_a_classifier_that_transformers_loads(nibble, work, minilm):  # noqa: F811
    texts = [("It rains and it is cold.", "bad"), ("What a sunny day!", "good"), ("I hate this.", "bad"), ("I love this.", "good")]
    save_rows(work / "rows.jsonl", [{"text": text, "label": label} for text, label in texts * 4])
    nibble("finetune", "--base", minilm, "--data", work / "rows.jsonl", "-o", work / "a", "--labels", "bad,good", "--epochs", 16,
           "--learning-rate", "1e-3")
    nibble("merge", "--base", minilm, "--adapter", work / "a", "-o", work / "merged")
    batch = transformers.AutoTokenizer.from_pretrained(work / "merged")([text for text, _ in texts], padding=True, return_tensors="pt")
    model = classifier(work / "merged")
    wanted = expected(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert_same(
        forward(nibble, work / "merged", work, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]), wanted,
        tolerance=1e-4)
    theirs = peft.PeftModel.from_pretrained(classifier(minilm, num_labels=2), work / "a").eval()
    assert_same(expected(theirs, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]), wanted, tolerance=1e-4)
    assert model.config.id2label == {0: "bad", 1: "good"}
    right = [model.config.id2label[int(row.argmax())] == label for row, (_, label) in zip(wanted["logits"], texts)]
    found = nibble.json("evaluate", "--base", work / "merged", "--data", work / "rows.jsonl", "--task", "classification")
    assert found["accuracy"] == pytest.approx(sum(right) / len(right)) and all(right)
