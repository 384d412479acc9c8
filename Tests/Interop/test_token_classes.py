"""Models that classify tokens compared with transformers and PEFT: scores, losses, training steps, merges, words with a class each."""
import copy
import json
import os
import random
import warnings

import peft
import pytest
import torch
import transformers
from running import TOLERANCE, distance
from safetensors.torch import load_file, save_file
from seqeval.metrics import accuracy_score, classification_report
from seqeval.metrics.sequence_labeling import get_entities

SEED = int(os.environ["NIBBLE_SEED"])
KINDS = {
    "bert": transformers.BertForTokenClassification, "roberta": transformers.RobertaForTokenClassification,
    "distilbert": transformers.DistilBertForTokenClassification, "electra": transformers.ElectraForTokenClassification,
    "albert": transformers.AlbertForTokenClassification, "deberta-v2": transformers.DebertaV2ForTokenClassification,
    "mpnet": transformers.MPNetForTokenClassification, "modernbert": transformers.ModernBertForTokenClassification}
SLOW = bool(os.environ.get("NIBBLE_SLOW"))
WORDS, LABELS, STEPS, BATCH = 60, ["O", "B-X", "I-X"], 4, 3
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--learning-rate", 0.02, "--optimizer", "sgd", "--no-shuffle", "--lr-scheduler", "constant",
       "--max-grad-norm", 0]


def save_model(folder, family, labels=LABELS):
    torch.manual_seed(SEED)
    sizes = {"dim": 24, "n_heads": 2, "n_layers": 2, "hidden_dim": 20} if family == "distilbert" else {
        "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 20}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 10
    if family == "modernbert":
        sizes |= {"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2, "local_attention": 6}
    config = transformers.AutoConfig.for_model(
        family, vocab_size=WORDS + 3, max_position_embeddings=40, pad_token_id=1, **sizes, id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)})
    model = KINDS[family]._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.copy_(0.15 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


def save_tokenizer(folder):
    """Words of which some are two tokens, between a beginning and an end."""
    import tokenizers
    pieces = {"[B]": 0, "[PAD]": 1, "[E]": 2} | {f"{'##' if one % 3 == 0 else ''}w{one}": one + 3 for one in range(WORDS)}
    own = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[B]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.post_processor = tokenizers.processors.TemplateProcessing(single="[B] $A [E]", pair="[B] $A [E] $B [E]", special_tokens=[("[B]", 0), ("[E]", 2)])
    own.save(str(folder / "tokenizer.json"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own)


def save_rows(path, draw, count, labels=LABELS):
    rows = []
    for _ in range(count):
        starts = [f"w{draw.choice([one for one in range(WORDS) if one % 3])}" for _ in range(draw.randrange(2, 9))]
        words = [word + (f"w{3 * draw.randrange(WORDS // 3)}" if draw.random() < 0.4 else "") for word in starts]
        rows.append({"tokens": words, "ner_tags": [draw.choice(labels + [draw.randrange(len(labels))]) for _ in words]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def encoded(tokenizer, row, names=LABELS):
    """As transformers' example of token classification has it."""
    found = tokenizer(row["tokens"], is_split_into_words=True)
    labels, before = [], None
    for word in found.word_ids():
        tag = None if word is None or word == before else row["ner_tags"][word]
        labels.append(-100 if tag is None else names.index(tag) if isinstance(tag, str) else tag)
        before = word
    return torch.tensor([found["input_ids"]]), torch.tensor([labels])


def loss_of(model, rows):
    losses, count = 0.0, 0
    for ids, labels in rows:
        losses = losses + torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0], labels[0], ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return losses / count


@pytest.mark.parametrize("family", KINDS if SLOW else ["bert", "albert", "deberta-v2", "modernbert"])
def test_tokens_have_transformers_scores_train_and_merge(nibble, work, family):
    draw = random.Random(f"{SEED} tokens {family}")
    model, tokenizer = save_model(work / "m", family), save_tokenizer(work / "m")
    rows = [encoded(tokenizer, row) for row in save_rows(work / "rows.jsonl", draw, STEPS * BATCH)]

    asked = {"input_ids": torch.randint(3, WORDS + 3, (2, 11)), "labels": torch.randint(0, 3, (2, 11))}
    asked["labels"][torch.rand(2, 11) < 0.3] = -100
    save_file(asked, work / "ids.safetensors")

    def answer(base, *more):
        nibble("forward", "--base", base, "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", "--force", *more)
        return load_file(work / "out.safetensors")

    with torch.no_grad():
        said, scores = model(**asked), [model(input_ids=ids).logits[0] for ids, _ in rows]
    ours = answer(work / "m")
    assert distance(ours["logits"], said.logits) < TOLERANCE and distance(ours["loss"], said.loss.view(1)) < TOLERANCE
    report = nibble.json("evaluate", work / "m", work / "rows.jsonl", "--task", "classification")
    right = [(own.argmax(1) == labels[0])[labels[0] != -100] for own, (_, labels) in zip(scores, rows)]
    assert report["accuracy"] == pytest.approx(torch.cat(right).float().mean().item())
    assert report["loss"] == pytest.approx(loss_of(model, rows).item(), rel=1e-5)

    targets = ["query_proj", "value_proj"] if family == "deberta-v2" else ["q_lin", "v_lin"] if family == "distilbert" else ["q", "v"] if family == "mpnet" else ["Wqkv", "Wo"] if family == "modernbert" else ["query", "value"]
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=3, target_modules=targets, task_type="TOKEN_CLS", init_lora_weights=False))
    theirs.save_pretrained(work / "start")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", "--init-adapter", work / "start", "--any-base", *RUN)
    trained = [one for one in theirs.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.02)
    metrics = [json.loads(line) for line in (work / "a" / "metrics.jsonl").read_text().splitlines()]
    for step, row in enumerate(metrics):
        optimizer.zero_grad()
        loss = loss_of(theirs.eval(), rows[step * BATCH:][:BATCH])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1e9)
        optimizer.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4) and row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    learned = peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a").eval()
    with torch.no_grad():
        wanted = learned(**asked).logits
    assert distance(answer(work / "m", "--adapter", work / "a")["logits"], wanted) < TOLERANCE
    nibble("merge", work / "m", work / "a", "-o", work / "merged")
    merged = type(model).from_pretrained(work / "merged", attn_implementation="eager").eval()
    assert distance(merged(**asked).logits.detach(), wanted) < TOLERANCE


def test_a_new_adapter_has_the_task_and_the_head(nibble, work):
    draw = random.Random(f"{SEED} tokens new")
    model = save_model(work / "m", "bert")
    save_tokenizer(work / "m")
    save_rows(work / "rows.jsonl", draw, STEPS * BATCH)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("finetune", work / "m.nbl", work / "rows.jsonl", "-o", work / "a", *RUN)
    config = json.loads((work / "a" / "adapter_config.json").read_text())
    assert config["task_type"] == "TOKEN_CLS" and config["modules_to_save"] == ["classifier"]
    peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a")


BASES = ["ElectraForPreTraining", "DebertaV2Model", "BertForMaskedLM", "RobertaModel", "AlbertModel"]


@pytest.mark.parametrize("kind", BASES if SLOW else BASES[:2])
def test_a_base_without_the_head_gets_it(nibble, work, kind):
    draw = random.Random(f"{SEED} tokens {kind}")
    family = getattr(transformers, kind).config_class.model_type
    model = save_model(work / "classifier", family)
    base = getattr(transformers, kind)(model.config)
    base.save_pretrained(work / "m")
    if family == "deberta-v2":
        # As the first files have it.
        config = json.loads((work / "m" / "config.json").read_text())
        (work / "m" / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "architectures"}))
    save_tokenizer(work / "m")
    save_rows(work / "rows.jsonl", draw, STEPS * BATCH)
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--labels", ",".join(LABELS), "--pooling", "each", *RUN)
    nibble("merge", work / "m", work / "a", "-o", work / "merged")
    merged = type(model).from_pretrained(work / "merged", attn_implementation="eager").eval()
    assert list(merged.config.id2label.values()) == LABELS
    asked = {"input_ids": torch.randint(3, WORDS + 3, (2, 11))}
    save_file(asked, work / "ids.safetensors")
    for words in ([work / "merged"], [work / "m", "--adapter", work / "a"]):
        nibble("forward", "--base", *words[:1], "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", "--force", *words[1:])
        assert distance(load_file(work / "out.safetensors")["logits"], merged(**asked).logits.detach()) < TOLERANCE


@pytest.mark.parametrize("row, said", [
    ({"tokens": ["w1"], "ner_tags": ["B-Y"]}, "B-Y"), ({"tokens": ["w1", "w2"], "ner_tags": [0]}, "2 words"), ({"tokens": "w1", "labels": [0]}, "tokens"),
    ({"text": "w1", "label": 0}, "labels"), ({"input_ids": [1, 999], "labels": [0, 0]}, "999"), ({"tokens": [], "labels": []}, "empty"),
])
def test_rows_that_are_none_are_refused(nibble, work, row, said):
    save_model(work / "m", "bert")
    save_tokenizer(work / "m")
    (work / "rows.jsonl").write_text(json.dumps(row) + "\n")
    line = nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", exits=3).stderr.strip().splitlines()[-1]
    assert said in line and "rows.jsonl" in line


def test_words_with_a_class_but_no_token_are_counted(nibble, work):
    save_model(work / "m", "bert")
    save_tokenizer(work / "m")
    (work / "rows.jsonl").write_text(json.dumps({"tokens": ["w1", "", "w2", " "], "labels": ["O", "B-X", "O", -100]}) + "\n")
    for asked in (["finetune", work / "m", work / "rows.jsonl", "--dry-run"], ["evaluate", work / "m", work / "rows.jsonl", "--task", "classification"]):
        assert "no token: 1;" in nibble(*asked).stderr


SCHEMES = {
    "iob": ["O", "B-PER", "I-PER", "B-LOC-X", "I-LOC-X"], "one-type": ["O", "B", "I"], "iobes": ["S-A", "O", "B-A", "I-A", "E-A", "B-B", "I-B", "E-B"],
    "inside-only": ["O", "I-A", "I-B"]}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_seqeval_s(nibble, work, scheme):
    """What the model says, as transformers finds it; figures of it, as seqeval finds them in its default mode."""
    names, draw = SCHEMES[scheme], random.Random(f"{SEED} entities {scheme}")
    model, tokenizer = save_model(work / "m", "bert", names), save_tokenizer(work / "m")
    rows = save_rows(work / "rows.jsonl", draw, 40, names)
    report = nibble.json("evaluate", work / "m", work / "rows.jsonl", "--task", "classification", "--predictions", work / "p.jsonl")
    told = [json.loads(line) for line in (work / "p.jsonl").read_text().splitlines()]
    for row, own in zip(rows, told, strict=True):
        ids, labels = encoded(tokenizer, row, names)
        with torch.no_grad():
            shares = torch.softmax(model(input_ids=ids).logits[0], 1)[labels[0] != -100]
        assert own["tokens"] == row["tokens"] and own["text"] == " ".join(row["tokens"])
        assert own["labels"] == [names[tag] if isinstance(tag, int) else tag for tag in row["ner_tags"]]
        assert own["predictions"] == [names[one] for one in shares.argmax(1)]
        assert torch.tensor([[one[name] for name in names] for one in own["probabilities"]]).sub(shares).abs().max() < 1e-5
        assert [(one["type"], one["start"], one["end"] - 1) for one in own["entities"]] == get_entities(own["predictions"])
        assert all(one["text"] == " ".join(row["tokens"][one["start"]:one["end"]]) for one in own["entities"])
    true, said = [one["labels"] for one in told], [one["predictions"] for one in told]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = classification_report(true, said, output_dict=True)
    assert report["accuracy"] == pytest.approx(accuracy_score(true, said))
    for ours, theirs in (("entity_precision", "precision"), ("entity_recall", "recall"), ("entity_f1", "f1-score")):
        assert report[ours] == pytest.approx(wanted["micro avg"][theirs]), ours
        assert report[ours + "_interval"][0] <= report[ours] <= report[ours + "_interval"][1]
    for name, own in report["entities"].items():
        theirs = wanted.get(name, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        assert [own[key] for key in ("precision", "recall", "f1", "number")] == pytest.approx([theirs[key] for key in ("precision", "recall", "f1-score", "support")])


def test_validations_and_comparisons_have_the_figures_of_entities(nibble, work):
    draw = random.Random(f"{SEED} entities of runs")
    save_model(work / "m", "bert")
    save_tokenizer(work / "m")
    for name in ("train", "valid"):
        save_rows(work / f"{name}.jsonl", draw, 12)
    nibble("finetune", work / "m", work / "train.jsonl", "-o", work / "a", "--valid", work / "valid.jsonl", "--keep-best", "--eval-steps", 2,
           "--metric-for-best-model", "entity_f1", *RUN)
    asked = ["evaluate", work / "m", work / "valid.jsonl", "--task", "classification"]
    found = {step: report for step, report in ((0, nibble.json(*asked)), (STEPS, nibble.json(*asked, "--adapter", work / "a", "--compare-to", work / "m")))}
    metrics = [json.loads(line) for line in (work / "a" / "metrics.jsonl").read_text().splitlines()]
    validations = [row for row in metrics if "valid_loss" in row]
    assert [row["step"] for row in validations] == [0, 2, 4]
    best = max(validations[1:], key=lambda row: row["valid_entity_f1"])
    for row, report in ((validations[0], found[0]), (best, found[STEPS])):
        for key in ("loss", "entity_precision", "entity_recall", "entity_f1", "accuracy"):
            assert row[f"valid_{key}"] == pytest.approx(report[key], abs=1e-6), key
    difference = found[STEPS]["compared_to"]["entity_f1_difference"]
    assert difference == pytest.approx(found[STEPS]["entity_f1"] - found[0]["entity_f1"])


def test_names_that_are_no_tags_have_no_entities(nibble, work):
    names = ["NOUN", "VERB", "O"]
    save_model(work / "m", "bert", names)
    save_tokenizer(work / "m")
    save_rows(work / "rows.jsonl", random.Random(SEED), 5, names)
    report = nibble.json("evaluate", work / "m", work / "rows.jsonl", "--task", "classification", "--predictions", work / "p.jsonl")
    assert "entity_f1" not in report and "entities" not in report and 0 <= report["accuracy"] <= 1
    assert "entities" not in json.loads((work / "p.jsonl").read_text().splitlines()[0])
