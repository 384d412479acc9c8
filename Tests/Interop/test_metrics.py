"""Figures of `evaluate` against those who are known for them: scikit-learn, scipy, sacrebleu, the COCO caption scorer (where it is installed)."""
import collections
import json
import os
import random
import re
import shutil
import string

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from running import save_random

metrics = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")
sacrebleu = pytest.importorskip("sacrebleu")

WORDS = (
    "the a an The pub inn Mill near river café it's isn't family-friendly kid-friendly , . ; £20-25 £20 5 3.5 stars cheap dear children kids food "
    "Italian serves serving rated high highly and is are \"best\" (top) 1,000 U.S. don't you'll"
).split(" ")


@pytest.fixture
def chance():
    return random.Random(os.environ["NIBBLE_SEED"])


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A random decoder that writes the words above."""
    folder = tmp_path_factory.mktemp("writer")
    words = ["</s>", *WORDS]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="the"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    save_random(
        transformers.LlamaForCausalLM, "llama", folder, vocab_size=len(words), hidden_size=32, intermediate_size=64, max_position_embeddings=128,
        head_dim=8, bos_token_id=0, eos_token_id=0, pad_token_id=None)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}))
    return folder


def evaluated(nibble, folder, work, task, rows, *more):
    """Figures, and what the model wrote."""
    (work / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    shutil.rmtree(work / "said", ignore_errors=True)
    (work / "said").mkdir()
    found = nibble.json("evaluate", folder, work / "rows.jsonl", "--task", task, "--predictions", work / "said/p.jsonl", *more)
    return found, [json.loads(line) for line in (work / "said/p.jsonl").read_text().splitlines()]


def near(text, chance):
    """The text with some words left out, put in and moved."""
    words = text.split()
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(words) + 1)
        words[at:at + chance.choice([0, 1])] = chance.choices(WORDS, k=chance.choice([0, 1]))
        if len(words) > 3 and chance.random() < 0.3:
            one, two = chance.sample(range(len(words)), 2)
            words[one], words[two] = words[two], words[one]
    return " ".join(words) or "the"


def drawn_texts(nibble, writer, work, chance, count):
    """What the model writes, of four words or more, and figures of it against references that are near.

    Shorter texts the E2E challenge's scorer counts otherwise than sacrebleu.
    """
    more = ["--max-new-tokens", "14", "--num-beams", "1"]
    prompts = [" ".join(chance.choices(WORDS, k=6)) + f" {chance.choice(WORDS)}" for _ in range(count)]
    _, said = evaluated(nibble, writer, work, "nlg", [{"prompt": prompt, "completion": "the"} for prompt in prompts], *more)
    said = [row for row in said if len(row["prediction"].split()) > 3]
    written = [row["prediction"].strip() for row in said]
    rows = [{"prompt": row["text"], "references": [near(row["prediction"], chance) for _ in range(chance.randint(1, 4))]} for row in said]
    figures, _ = evaluated(nibble, writer, work, "nlg", rows, *more)
    return figures, written, [row["references"] for row in rows]


def test_bleu_is_sacrebleus(nibble, writer, work, chance):
    figures, written, references = drawn_texts(nibble, writer, work, chance, 25)
    most = max(map(len, references))
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
    theirs = sacrebleu.corpus_bleu(written, streams, lowercase=True, tokenize="13a").score / 100
    assert figures["bleu"] == pytest.approx(theirs, abs=1e-9)
    low, high = figures["bleu_interval"]
    assert low <= figures["bleu"] <= high


def test_captions_are_those_of_the_coco_scorer(nibble, writer, work, chance):
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    if shutil.which("java") is None:
        pytest.skip("its tokenizer needs a Java")
    figures, written, references = drawn_texts(nibble, writer, work, chance, 25)
    told = PTBTokenizer().tokenize({i: [{"caption": text} for text in [own, *row]] for i, (own, row) in enumerate(zip(written, references))})
    own, row = {i: words[:1] for i, words in told.items()}, {i: words[1:] for i, words in told.items()}
    assert figures["rouge_l"] == pytest.approx(Rouge().compute_score(row, own)[0], abs=1e-9)
    assert figures["cider"] == pytest.approx(Cider().compute_score(row, own)[0], abs=1e-9)


def read_labels(text, labels):
    """The longest label at each place; what is none ends at the next comma."""
    text, found = re.sub(r"\s*,\s*", ",", " ".join(text.split())).strip(), set()
    while text:
        label = next((l for l in sorted(labels, key=len, reverse=True) if re.match(re.escape(l.replace(", ", ",")) + "(,|$)", text)), None)
        found |= {label} - {None}
        text = text[len(label.replace(", ", ",")):] if label else text.partition(",")[2]
        text = text.lstrip(",")
    return found


def test_label_lists_are_the_challenges(nibble, writer, work, chance):
    labels = ["the", "pub", "near", "the pub", "river, café", "isn't", "family-friendly", "£20", "never"]
    (work / "labels.txt").write_text("\n".join(labels) + "\n")
    rows = [{"text": " ".join(chance.choices(WORDS, k=5)), "labels": chance.sample(labels[:-1], chance.randint(0, 3))} for _ in range(20)]
    # A prompt that ends in a label and a comma makes some answers lists.
    figures, said = evaluated(nibble, writer, work, "labels", rows, "--label-list", work / "labels.txt", "--max-new-tokens", "8")
    table = lambda lists: np.array([[int(label in one) for label in labels] for one in lists])
    given, found = table([row["labels"] for row in rows]), table([read_labels(row["prediction"], labels) for row in said])
    for kind in ("micro", "macro"):
        assert figures[f"f1_{kind}"] == pytest.approx(metrics.f1_score(given, found, average=kind, zero_division=1), abs=1e-9)


def squad_words(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(own, wanted):
    common = sum((collections.Counter(own) & collections.Counter(wanted)).values())
    return float(own == wanted) if not own or not wanted else 2 * common / (len(own) + len(wanted))


def test_answers_are_squads(nibble, writer, work, chance):
    more = ["--max-new-tokens", "4"]
    rows = [{"context": " ".join(chance.choices(WORDS, k=8)), "question": chance.choice(WORDS), "answers": ["x"]} for _ in range(20)]
    _, said = evaluated(nibble, writer, work, "qa", rows, *more)
    for row, told in zip(rows, said):
        row["answers"] = chance.choice([[], [told["prediction"].upper()], [near(told["prediction"], chance), "The pub."], ["the"]])
    figures, said = evaluated(nibble, writer, work, "qa", rows, *more)
    exact, f1 = [], []
    for row, told in zip(rows, said):
        own, wanted = squad_words(told["prediction"]), [w for w in map(squad_words, row["answers"]) if w] or [[]]
        exact.append(float(own in wanted))
        f1.append(max(squad_f1(own, w) for w in wanted))
    assert figures["exact_match"] == pytest.approx(np.mean(exact), abs=1e-12)
    assert figures["f1"] == pytest.approx(np.mean(f1), abs=1e-12)
    assert figures["f1_standard_error"] == pytest.approx(stats.sem(f1), abs=1e-12)
    assert figures["f1_interval"] == pytest.approx(stats.t.interval(0.95, len(f1) - 1, np.mean(f1), stats.sem(f1)), abs=1e-9)


def judge(nibble, work, labels, chance, task, **config):
    """A random encoder on drawn rows."""
    save_random(transformers.BertForSequenceClassification, "bert", work / "m", vocab_size=len(WORDS) + 5, max_position_embeddings=32, **config)
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(work / "m/tokenizer.json"))
    (work / "m/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]"}))
    rows = [{"text": " ".join(chance.choices(WORDS, k=chance.randint(1, 9))), "label": label} for label in labels]
    return evaluated(nibble, work / "m", work, task, rows)


def test_classes_are_scikit_learns(nibble, work, chance):
    labels = [chance.randrange(3) for _ in range(60)]
    figures, said = judge(nibble, work, labels, chance, "classification", num_labels=3)
    scores = np.array([row["scores"] for row in said])
    found, every = scores.argmax(1), [0, 1, 2]
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, found), abs=1e-12)
    assert figures["matthews"] == pytest.approx(metrics.matthews_corrcoef(labels, found), abs=1e-12)
    for kind in ("macro", "micro", "weighted"):
        assert figures[f"f1_{kind}"] == pytest.approx(metrics.f1_score(labels, found, labels=every, average=kind, zero_division=0), abs=1e-12)
    for kind in ("macro", "micro"):
        assert figures[f"precision_{kind}"] == pytest.approx(metrics.precision_score(labels, found, labels=every, average=kind, zero_division=0), abs=1e-12)
        assert figures[f"recall_{kind}"] == pytest.approx(metrics.recall_score(labels, found, labels=every, average=kind, zero_division=0), abs=1e-12)
    right = (found == labels).astype(float)
    sure = np.exp(scores - scores.max(1, keepdims=True))
    sure = (sure / sure.sum(1, keepdims=True)).max(1)
    bins = np.ceil(sure * 15).clip(1, 15)
    gaps = [abs(right[bins == b].sum() - sure[bins == b].sum()) for b in set(bins)]
    assert figures["ece"] == pytest.approx(sum(gaps) / len(labels), abs=1e-6)


def test_correlations_are_scipys(nibble, work, chance):
    labels = [float(chance.randint(0, 5)) for _ in range(40)]
    figures, said = judge(nibble, work, labels, chance, "regression", num_labels=1, problem_type="regression")
    found = [row["scores"][0] for row in said]
    assert figures["pearson"] == pytest.approx(stats.pearsonr(found, labels)[0], abs=1e-9)
    assert figures["spearman"] == pytest.approx(stats.spearmanr(found, labels)[0], abs=1e-9)
