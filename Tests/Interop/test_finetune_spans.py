"""Heads that mark answers, trained: windows and places as transformers' example for SQuAD makes them, losses and steps as its classes and PEFT have them."""
import copy
import json
import os
import pathlib
import random
import shutil

import peft
import pytest
import torch
import transformers
from running import TOLERANCE, distance, forward, random_ids, save_random

TOKENIZERS = pathlib.Path(__file__).parents[1] / "Fixtures/tokenizers"
SEED = int(os.environ["NIBBLE_SEED"])
SLOW = bool(os.environ.get("NIBBLE_SLOW"))
LENGTH, STRIDE, STEPS, BATCH = 40, 10, 5, 3
FAMILIES = {
    "bert": transformers.BertForQuestionAnswering, "roberta": transformers.RobertaForQuestionAnswering, "distilbert": transformers.DistilBertForQuestionAnswering,
    "electra": transformers.ElectraForQuestionAnswering, "albert": transformers.AlbertForQuestionAnswering, "deberta-v2": transformers.DebertaV2ForQuestionAnswering,
    "mpnet": transformers.MPNetForQuestionAnswering, "modernbert": transformers.ModernBertForQuestionAnswering}
WORDS = "the cat sat on mat because it was warm however nobody knew why 42 people like naïve café ideas Δ 漢字 unbelievable word's end".split(" ")
# Rounding grows with large gradients: drawn models were up to 2e-4 apart.
AFTER_STEPS = 1e-3
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--learning-rate", 0.01, "--optimizer", "sgd", "--no-shuffle", "--lr-scheduler", "constant",
       "--max-grad-norm", 0, "--max-length", LENGTH, "--doc-stride", STRIDE]


def save_model(folder, family):
    torch.manual_seed(SEED)
    shape = {"deberta-v2": {"type_vocab_size": 0}, "modernbert": {"sep_token_id": 2, "cls_token_id": 0}}.get(family, {})
    model = save_random(FAMILIES[family], family, folder, vocab_size=50265 if family == "roberta" else 30522, max_position_embeddings=LENGTH + 8, num_labels=2, **shape)
    if family == "roberta":
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(TOKENIZERS / "roberta" / name, folder / name)
        tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        shutil.copy(TOKENIZERS / "bert/tokenizer.json", folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text(json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.eval(), tokenizer


def draw_rows(draw, count):
    """As SQuAD 2.0 has them: answers with the character they begin at, or none."""
    rows = []
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.choice([4, 20, 60]))
        context, first = " ".join(words), draw.randrange(len(words))
        answer = " ".join(words[first:first + draw.randint(1, 4)])
        start = len(" ".join(words[:first])) + (first > 0)
        rows.append({"question": " ".join(draw.choices(WORDS, k=draw.randint(1, 6))), "context": context,
                     "answers": [] if draw.random() < 0.2 else [{"text": answer, "answer_start": start}]})
    return rows


def features(tokenizer, row, has_types):
    """`prepare_train_features` of transformers' run_qa.py, without padding; where an answer begins in the last token of a window, its last token counts, and not
    what stands behind the context (there the script goes on into special tokens)."""
    found = tokenizer(row["question"].lstrip(), row["context"], truncation="only_second", max_length=LENGTH, stride=STRIDE, return_overflowing_tokens=True,
                      return_offsets_mapping=True, return_token_type_ids=has_types)
    made = []
    for index, ids in enumerate(found["input_ids"]):
        offsets, parts = found["offset_mapping"][index], found.sequence_ids(index)
        inside = [place for place, part in enumerate(parts) if part == 1]
        begin = end = 0
        if row["answers"]:
            first = row["answers"][0]["answer_start"]
            last = first + len(row["answers"][0]["text"])
            if offsets[inside[0]][0] <= first and offsets[inside[-1]][1] >= last:
                begin = max(place for place in inside if offsets[place][0] <= first)
                end = min(place for place in inside if offsets[place][1] >= last)
        given = {"input_ids": torch.tensor([ids])} | ({"token_type_ids": torch.tensor([found["token_type_ids"][index]])} if has_types else {})
        made.append((given, torch.tensor([begin]), torch.tensor([end])))
    return made


def loss_of(model, rows):
    # Without the outermost layer, which leaves `token_type_ids` out for question answering (peft 0.21).
    model = model.base_model
    return sum(model(**given, start_positions=begin, end_positions=end).loss for given, begin, end in rows) / len(rows)


@pytest.mark.parametrize("family", FAMILIES if SLOW else ["bert", "modernbert"])
def test_windows_losses_and_steps_are_those_of_transformers(nibble, work, family):
    model, tokenizer = save_model(work / "m", family)
    short = {"question": "who", "context": "the cat sat"}
    rows = [short | {"answers": [{"text": "cat", "answer_start": 4}]}, short | {"answers": []}] + draw_rows(random.Random(f"{SEED} spans {family}"), STEPS * BATCH)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    windows = [one for row in rows for one in features(tokenizer, row, family in ("bert", "electra", "albert"))]
    shown = nibble.json("finetune", work / "m", work / "rows.jsonl", "--max-length", LENGTH, "--doc-stride", STRIDE, "--batch-size", 10**6, "--show-batch")
    assert [one["input_ids"] for one in shown] == [given["input_ids"][0].tolist() for given, _, _ in windows]
    assert [one["targets"] for one in shown] == [[begin.item(), end.item()] for _, begin, end in windows]
    assert any(one["targets"] == [0, 0] for one in shown) and any(one["targets"] != [0, 0] for one in shown)

    head = "classifier" if family == "modernbert" else "qa_outputs"
    targets = {"distilbert": ["q_lin", "v_lin"], "deberta-v2": ["query_proj", "value_proj"], "mpnet": ["q", "v"], "modernbert": ["Wqkv", "Wo"]}.get(family, ["query", "value"])
    theirs = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(
            r=3, target_modules=targets, task_type="QUESTION_ANS", init_lora_weights=False, modules_to_save=[head])).eval()
    theirs.save_pretrained(work / "start")
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--init-adapter", work / "start", "--any-base", *RUN)
    trained = [one for one in theirs.parameters() if one.requires_grad]
    assert any(head in name for name, one in theirs.named_parameters() if one.requires_grad)
    optimizer = torch.optim.SGD(trained, lr=0.01)
    metrics = [json.loads(line) for line in (work / "a" / "metrics.jsonl").read_text().splitlines()]
    for step, row in enumerate(metrics):
        optimizer.zero_grad()
        loss = loss_of(theirs, windows[step * BATCH:][:BATCH])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1e9)
        optimizer.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4) and row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3), step
    assert len(metrics) == STEPS
    ids = random_ids(model, 2, 12)
    with torch.no_grad():
        wanted = theirs(input_ids=ids)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a").eval()
    nibble("merge", work / "m", work / "a", "-o", work / "merged", "--dtype", "fp32")
    merged = FAMILIES[family].from_pretrained(work / "merged", attn_implementation="eager").eval()
    ours = forward(nibble, work / "m", work, "--adapter", work / "a", input_ids=ids)
    for key in ("start_logits", "end_logits"):
        assert distance(ours[key], wanted[key]) < AFTER_STEPS
        assert distance(loaded(input_ids=ids)[key].detach(), wanted[key]) < AFTER_STEPS
        assert distance(merged(input_ids=ids)[key].detach(), wanted[key]) < AFTER_STEPS


@pytest.mark.parametrize("method", ["lora", "full"] if SLOW else ["lora"])
def test_validations_find_answers(nibble, work, method):
    model, _ = save_model(work / "m", "bert")
    rows = draw_rows(random.Random(f"{SEED} answers"), 12)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--valid", work / "rows.jsonl", "--eval-task", "qa", "--method", method, *RUN)
    last = [json.loads(line) for line in (work / "a" / "metrics.jsonl").read_text().splitlines()][-1]
    model = [work / "a"] if method == "full" else [work / "m", "--adapter", work / "a"]
    report = nibble.json("evaluate", model[0], work / "rows.jsonl", "--task", "qa", "--max-length", LENGTH, "--doc-stride", STRIDE, *model[1:])
    for key in ("exact_match", "f1"):
        assert last[f"valid_{key}"] == pytest.approx(report[key])
    assert last["valid_loss"] > 0


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "ElectraForPreTraining", "DebertaV2Model"] if SLOW else ["BertForMaskedLM"])
def test_a_base_without_the_head_gets_it(nibble, work, kind):
    base = getattr(transformers, kind)
    family = base.config_class.model_type
    model, _ = save_model(work / "marks", family)
    base(model.config).save_pretrained(work / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(work / "marks" / name, work / "m" / name)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in draw_rows(random.Random(f"{SEED} new {kind}"), 8)))
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    for name in ("m", "m.nbl"):
        nibble("finetune", work / name, work / "rows.jsonl", "-o", work / f"{name}-a", "--pooling", "span", *RUN)
        config = json.loads((work / f"{name}-a" / "adapter_config.json").read_text())
        assert config["task_type"] == "QUESTION_ANS" and config["modules_to_save"] == ["qa_outputs"]
    nibble("merge", work / "m", work / "m-a", "-o", work / "merged", "--dtype", "fp32")
    merged, info = type(model).from_pretrained(work / "merged", attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and merged.config.architectures == [type(model).__name__]
    ids = random_ids(model, 2, 12)
    wanted = merged.eval()(input_ids=ids)
    for words in ([work / "merged"], [work / "m", "--adapter", work / "m-a"]):
        assert distance(forward(nibble, words[0], work, *words[1:], input_ids=ids)["start_logits"], wanted.start_logits.detach()) < TOLERANCE
    theirs = peft.PeftModel.from_pretrained(type(model).from_pretrained(work / "m", attn_implementation="eager"), work / "m-a").eval()
    assert distance(theirs(input_ids=ids).end_logits.detach(), wanted.end_logits.detach()) < TOLERANCE


@pytest.fixture(scope="module")
def marks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marks")
    save_model(folder, "bert")
    return folder


def test_answers_that_are_in_no_window_whole_are_counted(nibble, work, marks):
    context = " ".join(["the cat sat on the mat"] * 12)
    rows = [{"question": "who", "context": context, "answers": answers} for answers in ([context], [context], ["cat"], [])]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["finetune", marks, work / "rows.jsonl", "--max-length", LENGTH, "--doc-stride", STRIDE]
    assert "2 of 4 questions" in nibble(*asked, "--dry-run").stderr
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    found = nibble(*asked, "--show-batch", "--batch-size", 100)
    assert "questions" not in found.stderr and " 0 learned" not in found.stdout
    heads = [line for line in found.stdout.splitlines() if "rows.jsonl:" in line]
    assert any("the answer's ends" in line for line in heads) and any("no answer" in line for line in heads)


@pytest.mark.parametrize("change, said", [
    ({"answers": [{"text": "dog", "answer_start": 0}]}, "dog"), ({"answers": [{"text": "cat", "answer_start": 99}]}, "character 99"),
    ({"answers": [{"text": "cat", "answer_start": -1}]}, "character -1"), ({"answers": ["dog"]}, "not in the context"), ({"answers": [""]}, "not in the context"),
    ({"context": 3}, "context"), ({"answers": None}, "answers"), ({"question": "the " * 40}, "no more than windows have in common"),
])
def test_rows_that_are_none_are_refused(nibble, work, marks, change, said):
    (work / "rows.jsonl").write_text(json.dumps({"question": "who", "context": "the cat sat", "answers": ["cat"]} | change) + "\n")
    line = nibble("finetune", marks, work / "rows.jsonl", "-o", work / "a", *RUN, exits=3).stderr.strip().splitlines()[-1]
    assert said in line and "rows.jsonl" in line
