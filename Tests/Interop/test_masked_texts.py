"""What models that fill masks learn of texts, how they are judged, and what they are refused for, compared with transformers."""
import copy
import random

import pytest
import torch
import transformers
from masked import (
    BATCH, FAMILIES, RUN, SEED, SIZE, SLOW, STEPS, assert_steps, draw_config, draw_rows, loss_of, make, metrics_of, save_rows, save_tokenizer)
from running import TOLERANCE, distance, forward, save_random


def save_texts(path, draw, count, longest=12):
    """Rows of words, some of them unknown, some tokens with a part of their own."""
    def word():
        return draw.choice(["<extra>", "nothing"]) if draw.random() < 0.15 else f"w{draw.randrange(SIZE - 8)}"

    texts = [" ".join(word() for _ in range(draw.randint(2, longest))) for _ in range(count)]
    save_rows(path, [{"text": text} for text in texts])
    return texts


def shown(nibble, work, count, *options, data="rows.jsonl"):
    """What is learned in the first passes, in the order of the file."""
    return nibble.json("finetune", work / "m", work / data, "--show-batch", "--batch-size", count, *options)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_tokens_are_hidden_as_the_collator_hides_them(nibble, work, kind):
    draw = random.Random(f"{SEED} masks {kind}")
    torch.manual_seed(SEED)
    model = make(draw_config(draw, kind))
    model.save_pretrained(work / "m")
    tokenizer = save_tokenizer(work / "m", kind)
    texts = save_texts(work / "rows.jsonl", draw, 1500)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)
    counts = {"may": 0, "chosen": 0, "masked": 0, "same": 0, "other": 0}
    seen = set()
    for text, row in zip(texts, shown(nibble, work, len(texts)), strict=True):
        plain = tokenizer(text)["input_ids"]
        may = collator([{"input_ids": plain}])["labels"][0] != -100
        counts["may"] += int(may.sum())
        assert len(row["input_ids"]) == len(row["labels"]) == len(plain)
        for id, given, label, able in zip(plain, row["input_ids"], row["labels"], may.tolist(), strict=True):
            if label == -100:
                assert given == id
                continue
            assert able and label == id
            counts["chosen"] += 1
            counts["masked" if given == tokenizer.mask_token_id else "same" if given == id else "other"] += 1
            if given not in (tokenizer.mask_token_id, id):
                seen.add(given)
    # Five deviations of what chance leaves.
    def near(count, of, share):
        return abs(count - of * share) <= 5 * (of * share * (1 - share)) ** 0.5
    assert near(counts["chosen"], counts["may"], 0.15)
    assert near(counts["masked"], counts["chosen"], 0.8) and near(counts["other"], counts["chosen"], 0.1) and near(counts["same"], counts["chosen"], 0.1)
    assert len(seen) > 30 and max(seen) < len(tokenizer)


def test_steps_on_texts_are_those_on_their_masks(nibble, work):
    """Masks are drawn anew each epoch, the same for the same seed, and the steps are PyTorch's on them."""
    draw = random.Random(f"{SEED} steps on texts")
    torch.manual_seed(SEED)
    model = make(draw_config(draw, "bert"))
    model.save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    save_texts(work / "rows.jsonl", draw, STEPS * BATCH, longest=30)
    save_texts(work / "valid.jsonl", draw, 20)
    asked = ["--mlm-probability", 0.4, "--seed", 7]
    masks = shown(nibble, work, STEPS * BATCH, *asked)
    assert masks == shown(nibble, work, STEPS * BATCH, *asked)
    for other in (["--mlm-probability", 0.4, "--seed", 8], ["--seed", 7]):
        assert masks != shown(nibble, work, STEPS * BATCH, *other)
    start = copy.deepcopy(model)
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "out", "--method", "full", "--valid", work / "valid.jsonl", *asked, *RUN)
    assert_steps(work / "out", model, masks)
    told = [row["valid_loss"] for row in metrics_of(work / "out") if "valid_loss" in row]
    # The same masks before and after: an epoch of no steps to speak of changes nothing.
    idle = ["--learning-rate", 1e-30, "--max-steps", 2 * STEPS, "--eval-steps", 1, "--lr-scheduler", "constant", "--optimizer", "sgd", "--no-shuffle",
            "--batch-size", BATCH]
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "idle", "--method", "full", "--valid", work / "valid.jsonl", *asked, *idle)
    metrics = metrics_of(work / "idle")
    assert {row["valid_loss"] for row in metrics if "valid_loss" in row} == {told[0]} and told[1] != told[0]
    losses = [row["loss"] for row in metrics if "loss" in row]
    assert all(one != other for one, other in zip(losses[:STEPS], losses[STEPS:]))
    assert losses[0] == pytest.approx(loss_of(start, masks[:BATCH]).item(), rel=1e-4)


def test_steps_in_which_nothing_is_hidden_have_no_loss(nibble, work):
    torch.manual_seed(SEED)
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    save_texts(work / "rows.jsonl", random.Random(SEED), 4, longest=4)
    words = ["finetune", work / "m", work / "rows.jsonl", "--lora-r", 2, "--learning-rate", 1e-7, "--lr-scheduler", "constant", "--save-steps", 1]
    one = [*words, "--batch-size", 1, "--mlm-probability", 0.2]
    told = nibble(*one, "-o", work / "one", "--max-steps", 40, "--log-every", 1)
    losses = [row["loss"] for row in metrics_of(work / "one")]
    learned = [loss for loss in losses if loss is not None]
    assert len(losses) == 40 and 0 < len(learned) < 40 and min(learned) > 0
    assert told.stderr.count("nothing learned") == 40 - len(learned) and "loss 0.000" not in told.stderr
    weights = [0.9 ** place for place in reversed(range(len(learned)))]
    smoothed = sum(weight * loss for weight, loss in zip(weights, learned)) / sum(weights)
    assert float(told.stdout.split("smoothed loss ")[1].split()[0]) == pytest.approx(smoothed, abs=1e-4)
    # A run that goes on remembers them; a step of several passes has the mean of those that learn something.
    nibble(*one, "-o", work / "parts", "--max-steps", 17)
    assert nibble.json(*one, "-o", work / "parts", "--max-steps", 40, "--resume")["loss"] == pytest.approx(smoothed, abs=1e-4)
    assert [row["loss"] for row in metrics_of(work / "parts")] == losses
    nibble(*one, "-o", work / "four", "--max-steps", 10, "--gradient-accumulation-steps", 4)
    for row, part in zip(metrics_of(work / "four"), (losses[i:i + 4] for i in range(0, 40, 4)), strict=True):
        own = [loss for loss in part if loss is not None]
        assert row["loss"] == (pytest.approx(sum(own) / len(own), rel=1e-3) if own else None)
    none = nibble(*words, "-o", work / "none", "--max-steps", 3, "--mlm-probability", 1e-9)
    assert "no token was hidden in any step" in none.stderr and "nothing learned" in none.stdout


def test_a_run_that_is_resumed_hides_the_same_tokens(nibble, work):
    torch.manual_seed(SEED)
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    save_texts(work / "rows.jsonl", random.Random(SEED), 7)
    words = ["finetune", work / "m", work / "rows.jsonl", "--batch-size", 2, "--lora-r", 2, "--save-steps", 3, "--lr-scheduler", "constant"]
    nibble(*words, "-o", work / "whole", "--max-steps", 9)
    nibble(*words, "-o", work / "parts", "--max-steps", 4)
    nibble(*words, "-o", work / "parts", "--max-steps", 9, "--resume")
    assert [row["loss"] for row in metrics_of(work / "whole")] == [row["loss"] for row in metrics_of(work / "parts")]
    line = nibble(*words, "-o", work / "parts", "--max-steps", 9, "--resume", "--mlm-probability", 0.3, exits=2).stderr
    assert "--mlm-probability" in line


def test_long_texts_are_cut_between_their_marks(nibble, work):
    torch.manual_seed(SEED)
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    tokenizer = save_tokenizer(work / "m", "bert")
    words = " ".join(f"w{one % 50}" for one in range(200))
    (work / "text.txt").write_text(words)
    save_rows(work / "rows.jsonl", [{"text": words}, {"input_ids": list(range(10, 60))}])
    rows = shown(nibble, work, 100, "--mlm-probability", 1e-9, "--max-length", 17, data="text.txt")
    assert all(len(row["input_ids"]) <= 17 and row["input_ids"][0] == 0 and row["input_ids"][-1] == 2 for row in rows)
    assert [id for row in rows for id in row["input_ids"][1:-1]] == tokenizer(words, add_special_tokens=False)["input_ids"]
    first, second = shown(nibble, work, 2, "--mlm-probability", 1e-9, "--max-length", 17)
    assert first["input_ids"] == tokenizer(words)["input_ids"][:16] + [2] and second["input_ids"] == list(range(10, 27))


@pytest.mark.parametrize("family", ["bert", "electra", "modernbert"])
def test_evaluation_has_loss_and_accuracy(nibble, work, family):
    draw = random.Random(f"{SEED} evaluation {family}")
    torch.manual_seed(SEED)
    model = make(draw_config(draw, family))
    model.save_pretrained(work / "m")
    rows = draw_rows(draw, 12)
    with torch.no_grad():
        for row in rows[:6]:
            best = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].topk(3).indices
            row["labels"] = [one[draw.randrange(3)].item() if draw.random() < 0.5 else label for one, label in zip(best, row["labels"])]
        save_rows(work / "rows.jsonl", rows)
        scores = torch.cat([model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows])
    labels = torch.tensor([label for row in rows for label in row["labels"]])
    scores, labels = scores[labels != -100], labels[labels != -100]
    report = nibble.json("evaluate", work / "m", work / "rows.jsonl", "--task", "mlm")
    assert report["tokens"] == len(labels)
    assert report["loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, labels).item(), rel=1e-5)
    for key, first in (("accuracy", 1), ("top_5_accuracy", 5)):
        right = (scores.topk(first).indices == labels[:, None]).any(1).float()
        assert report[key] == pytest.approx(right.mean().item(), abs=1e-6)
        low, high = report[f"{key}_interval"]
        assert low <= report[key] <= high


def test_evaluation_of_texts_is_the_validation_of_a_run(nibble, work):
    torch.manual_seed(SEED)
    make(draw_config(random.Random(SEED), "roberta")).save_pretrained(work / "m")
    save_tokenizer(work / "m", "roberta")
    save_texts(work / "rows.jsonl", random.Random(SEED), 30)
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--valid", work / "rows.jsonl", "--max-steps", 1, "--mlm-probability", 0.3)
    before, after = [row["valid_loss"] for row in metrics_of(work / "a") if "valid_loss" in row]
    asked = ["evaluate", work / "m", work / "rows.jsonl", "--task", "mlm", "--mlm-probability", 0.3]
    report = nibble.json(*asked, "--adapter", work / "a", "--compare-to", work / "m")
    assert report["loss"] == pytest.approx(after, rel=1e-6)
    assert report["compared_to"]["loss_difference"] == pytest.approx(after - before, abs=1e-6)


# MARK: - What is refused, and other heads

@pytest.mark.parametrize("row, said", [
    ({"prompt": "w1", "completion": "w2"}, "fills masks"), ({"messages": [{"role": "user", "content": "w1"}]}, "fills masks"),
    ({"text": "w1", "label": 0}, "--num-labels"), ({"text": 3}, "text"), ({"input_ids": [1, 999]}, "999"), ({"input_ids": []}, "empty"),
    ({"input_ids": [1, 2], "labels": [1]}, "2 tokens"), ({"input_ids": [1, 2], "labels": [1, 71]}, "71"), ({"input_ids": "w1"}, "input_ids"),
    ({"input_ids": [1.5]}, "input_ids"), ([1], "rows.jsonl"),
])
def test_rows_that_are_none_are_refused(nibble, work, row, said):
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    save_rows(work / "rows.jsonl", [row])
    line = nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", exits=3).stderr.strip().splitlines()[-1]
    assert said in line and "rows.jsonl" in line


def test_a_tokenizer_without_a_mask_is_refused(nibble, work):
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    import tokenizers
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{one}": one for one in range(SIZE)}, unk_token="w0"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.save(str(work / "m" / "tokenizer.json"))
    save_rows(work / "rows.jsonl", [{"text": "w1 w2"}])
    line = nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", exits=3).stderr
    assert "mask" in line and "input_ids and labels" in line


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan"])
def test_probabilities_that_are_none_are_refused(nibble, work, value):
    for words in (["finetune", work, work, "-o", work / "a", f"--mlm-probability={value}"], ["evaluate", work, work, "--task", "mlm", f"--mlm-probability={value}"]):
        assert "--mlm-probability" in nibble(*words, exits=2).stderr


def test_what_continues_texts_is_refused_with_a_hint(nibble, work):
    make(draw_config(random.Random(SEED), "bert")).save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    (work / "text.txt").write_text("w1 w2 w3 w4 w5")
    save_rows(work / "rows.jsonl", [{"text": "w1 w2", "label": 1}])
    assert f"{work / 'm'} fills masks" in nibble("generate", work / "m", "--prompt", "w1", exits=2).stderr
    assert f"{work / 'm'} fills masks" in nibble("evaluate", work / "m", work / "text.txt", exits=2).stderr
    for task in ("lm", "classification"):
        assert "fills masks: --task mlm" in nibble("evaluate", work / "m", work / "rows.jsonl", "--task", task, exits=2).stderr
    save_random(transformers.LlamaForCausalLM, "llama", work / "llama")
    save_tokenizer(work / "llama", "bert")
    save_rows(work / "rows.jsonl", [{"text": "w1 w2 w3 w4 w5 w6 w7 w8 w9"}] * 3)
    for words in ([work / "llama"], [work / "m", "--compare-to", work / "llama"]):
        line = nibble("evaluate", words[0], work / "rows.jsonl", "--task", "mlm", *words[1:], exits=2).stderr
        assert f"{work / 'llama'} fills no masks: --task lm" in line and "--label-list" not in line


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["model", "each", "span", "mean"])
def test_a_base_with_this_head_gets_another(nibble, work, family, pooling):
    torch.manual_seed(SEED)
    make(draw_config(random.Random(SEED), family)).save_pretrained(work / "m")
    save_tokenizer(work / "m", "bert")
    row = {"model": {"text": "w1 w2 w3", "label": 1}, "mean": {"text": "w1 w2 w3", "label": 1}, "each": {"tokens": ["w1", "w2"], "labels": [0, 1]},
           "span": {"question": "w1", "context": "w2 w3 w4", "answers": {"text": ["w3"], "answer_start": [3]}}}[pooling]
    save_rows(work / "rows.jsonl", [row] * 4)
    head = ["--pooling", pooling] + ([] if pooling == "span" else ["--num-labels", 2])
    span = ["--max-length", 20, "--doc-stride", 2] if pooling == "span" else []
    said = nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", *head, *span, "--lora-r", 2, "--max-steps", 2, "--batch-size", 2).stderr
    # ModernBERT's heads have all but the decoder in common.
    assert pooling == "mean" or family == "modernbert" or "the new head leaves out" in said
    nibble("merge", work / "m", work / "a", "-o", work / "merged")
    asked = {"input_ids": torch.randint(3, SIZE, (2, 7))}
    attached, merged = forward(nibble, work / "m", work, "--adapter", work / "a", **asked), forward(nibble, work / "merged", work, **asked)
    assert attached.keys() == merged.keys() and all(distance(merged[name], attached[name]) < TOLERANCE for name in attached)
    if pooling == "mean":
        return
    auto = {"model": transformers.AutoModelForSequenceClassification, "each": transformers.AutoModelForTokenClassification,
            "span": transformers.AutoModelForQuestionAnswering}[pooling]
    with torch.no_grad():
        theirs = auto.from_pretrained(work / "merged", attn_implementation="eager").eval()(**asked)
    for name in attached:
        assert distance(attached[name], theirs[name]) < TOLERANCE
