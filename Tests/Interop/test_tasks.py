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
