"""Tasks of `evaluate` against those who have them: lm-evaluation-harness question by question, transformers on pairs of texts."""
import json
import os
import pathlib
import random
import shutil

import pytest
import torch
import transformers
from lm_eval_peer import STYLES, Questions, ask
from running import save_random

TOKENIZERS = pathlib.Path(__file__).parents[1] / "Fixtures/tokenizers"
WORDS = (
    "the a cat dog  sat on mat, because it was warm; however nobody knew why 42 3.5 people like naïve café ideas about "
    "[step] music (loud) and-or \"quoted\" words don't end . ? ! ABC Δ 漢字 😀 it's x_y"
).split(" ")


def with_tokenizer(folder, name):
    shutil.copy(TOKENIZERS / name / "tokenizer.json", folder / "tokenizer.json")
    special = {"gpt2": {"eos_token": "<|endoftext|>"}, "bert": {"sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}}[name]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A random decoder that knows GPT-2's words."""
    folder = tmp_path_factory.mktemp("writer")
    model = save_random(
        transformers.LlamaForCausalLM, "llama", folder, vocab_size=50257, hidden_size=32, intermediate_size=64, max_position_embeddings=512,
        head_dim=8, bos_token_id=50256, eos_token_id=50256, pad_token_id=None)
    return folder, model, with_tokenizer(folder, "gpt2")


def drawn(style, chance):
    """A row as the data set of `style` has them, of drawn words."""
    def text(least=1, most=9):
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(least, most))) or "x"

    choices = [text() for _ in range(chance.randint(2, 5))]
    right = chance.randrange(len(choices))
    listed = {"text": choices, "label": [chr(65 + i) for i in range(len(choices))]}
    return {
        "arc": lambda: {"question": text(), "choices": listed, "answerKey": chr(65 + right)},
        "openbookqa": lambda: {"question_stem": text(), "choices": listed, "answerKey": chr(65 + right)},
        "piqa": lambda: {"goal": text(), "sol1": text(), "sol2": text(), "label": chance.randrange(2)},
        "siqa": lambda: {
            "context": text(), "question": text(), "answerA": text(), "answerB": text(), "answerC": text(), "label": str(chance.randint(1, 3))},
        "boolq": lambda: {"passage": text(5, 40), "question": text(), "label": chance.randrange(2)},
        "winogrande": lambda: {
            "sentence": f"{text()} _ {text()}", "option1": text(1, 2), "option2": text(1, 2), "answer": str(chance.randint(1, 2))},
        "hellaswag": lambda: {
            "activity_label": text(1, 2), "ctx_a": text(), "ctx_b": text(), "endings": [f"{text()} [title] {text()}" for _ in range(4)],
            "label": str(chance.randrange(4))},
        "mmlu": lambda: {"subject": "drawn_words", "question": text(), "choices": [text() for _ in range(4)], "answer": chance.randrange(4)},
    }[style]()


CASES = [(style, shots) for style in STYLES for shots in (0, 2)]


@pytest.fixture(scope="module")
def harness(writer, tmp_path_factory):
    """What lm-evaluation-harness finds for every style, without and with solved questions, and the folders with the rows."""
    folder, model, tokenizer = writer
    questions = []
    for style, shots in CASES:
        chance = random.Random(f"{os.environ['NIBBLE_SEED']} {style} {shots}")
        questions.append(
            Questions(
                style, [drawn(style, chance) for _ in range(6)], tmp_path_factory.mktemp(style), [drawn(style, chance) for _ in range(shots)],
                "drawn_words" if style == "mmlu" else None))
    return dict(zip(CASES, zip(questions, ask(questions, model, tokenizer), strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_choices_are_lm_evals(nibble, work, writer, harness, case):
    style, shots = case
    questions, (theirs, figures) = harness[case]
    few = ["--few-shot", str(shots), "--exemplars", questions.folder / "train.jsonl"] if shots else []
    ours = nibble.json(
        "evaluate", writer[0], questions.folder / "test.jsonl", "--task", "choices", "--question-style", style, "--predictions",
        work / "p.jsonl", *few)
    told = [json.loads(line) for line in (work / "p.jsonl").read_text().splitlines()]
    for (numbers, greedy), row in zip(theirs, told, strict=True):
        assert row["log_probabilities"] == pytest.approx(numbers, abs=1e-3), row["place"]
        assert row["greedy"] == greedy
    for key in ("acc", "acc_norm"):
        if f"{key},none" in figures and key in ours:
            assert ours[key] == pytest.approx(figures[f"{key},none"], abs=1e-9)


def test_pairs_are_read_as_transformers_reads_them(nibble, work):
    torch.manual_seed(3)
    model = save_random(transformers.BertForSequenceClassification, "bert", work / "m", vocab_size=30522, max_position_embeddings=48)
    tokenizer = with_tokenizer(work / "m", "bert")
    chance = random.Random(os.environ["NIBBLE_SEED"])
    rows = [
        {"sentence1": " ".join(chance.choices(WORDS, k=chance.choice([1, 9, 40]))), "sentence2": " ".join(chance.choices(WORDS, k=chance.choice([1, 9, 40]))),
         "label": chance.randrange(3)}
        for _ in range(24)
    ]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nibble("evaluate", work / "m", work / "rows.jsonl", "--task", "pairs", "--predictions", work / "p.jsonl")
    told = [json.loads(line) for line in (work / "p.jsonl").read_text().splitlines()]
    for row, own in zip(rows, told, strict=True):
        # As lists: a single empty second text would count as none.
        given = tokenizer([row["sentence1"]], [row["sentence2"]], truncation="longest_first", max_length=48, return_token_type_ids=True, return_tensors="pt")
        with torch.no_grad():
            scores = model(**given).logits[0].tolist()
        assert own["scores"] == pytest.approx(scores, abs=2e-5)


def best_spans(model, tokenizer, rows, length, overlap, longest, none):
    """What transformers' examples for SQuAD find (`postprocess_qa_predictions`, twenty begins and ends of each window)."""
    answers = []
    for row in rows:
        windows = tokenizer(
            row["question"].lstrip(), row["context"], truncation="only_second", max_length=length, stride=overlap, return_overflowing_tokens=True,
            return_offsets_mapping=True, return_token_type_ids=model.config.model_type == "bert")
        found, least = [], None
        for index, ids in enumerate(windows["input_ids"]):
            given = {key: torch.tensor([windows[key][index]]) for key in ("input_ids", "attention_mask", "token_type_ids") if key in windows}
            with torch.no_grad():
                out = model(**given)
            begins, ends = out.start_logits[0].numpy(), out.end_logits[0].numpy()
            offsets = [pair if part == 1 else None for pair, part in zip(windows["offset_mapping"][index], windows.sequence_ids(index), strict=True)]
            least = min(least, begins[0] + ends[0]) if least is not None else begins[0] + ends[0]
            for begin in begins.argsort()[:-21:-1]:
                for end in ends.argsort()[:-21:-1]:
                    if offsets[begin] and offsets[end] and begin <= end < begin + longest:
                        found.append((float(begins[begin] + ends[end]), row["context"][offsets[begin][0]:offsets[end][1]]))
        score, text = max((one for one in found if one[1] or not none), key=lambda one: one[0], default=(None, ""))
        answers.append(("" if none and score is not None and least > score else text, score, float(least), len(windows["input_ids"])))
    return answers


@pytest.mark.parametrize("none", [False, True], ids=["answered", "some-unanswered"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_spans_are_those_of_transformers(nibble, work, family, none):
    torch.manual_seed(5)
    folder = work / "m"
    model_class = {
        "bert": transformers.BertForQuestionAnswering, "roberta": transformers.RobertaForQuestionAnswering,
        "distilbert": transformers.DistilBertForQuestionAnswering}[family]
    model = save_random(
        model_class, family, folder, vocab_size=50265 if family == "roberta" else 30522, max_position_embeddings=80, num_labels=2)
    if family != "roberta":
        tokenizer = with_tokenizer(folder, "bert")
    else:
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(TOKENIZERS / "roberta" / name, folder / name)
        tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
    chance = random.Random(f"{os.environ['NIBBLE_SEED']} {family} {none}")
    rows = [
        {"question": " ".join(chance.choices(WORDS, k=chance.randint(1, 9))), "context": " ".join(chance.choices(WORDS, k=chance.choice([3, 20, 90]))),
         "answers": [] if none and chance.random() < 0.3 else ["mat"]}
        for _ in range(20)
    ]
    rows[0]["answers"] = [] if none else ["mat"]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nibble(
        "evaluate", folder, work / "rows.jsonl", "--task", "qa", "--max-length", "64", "--doc-stride", "16", "--max-answer-length", "8",
        "--predictions", work / "p.jsonl")
    told = [json.loads(line) for line in (work / "p.jsonl").read_text().splitlines()]
    for (text, score, least, windows), own in zip(best_spans(model, tokenizer, rows, 64, 16, 8, none), told, strict=True):
        assert own["windows"] == windows
        assert own["score"] == pytest.approx(score, abs=1e-4)
        assert own["score_of_none"] == pytest.approx(least, abs=1e-4)
        assert own["prediction"] == text, own
