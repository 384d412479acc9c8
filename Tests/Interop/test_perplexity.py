"""`nibble evaluate` against a straightforward computation with transformers: windows, losses, divergence, agreement."""
import json
import math

import pytest
import sentencepiece
import torch
import transformers
from conftest import ROOT
from running import as_float32
from test_adapters_running import by_peft, save_adapter

DATA = ROOT / "Tests" / "Fixtures" / "stories.txt"
DIVIDER = "\n<|endoftext|>\n"
CONTEXT = 512


def documents_of(path):
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines()]
    if "<|endoftext|>" not in text:
        return [text]
    return [part.strip("\n") for part in ("\n" + text + "\n").split(DIVIDER) if part.strip("\n")]


def windows_of(ids, context, stride, first_only):
    """(tokens before, new tokens) of each window, a mark to come in front of all."""
    room, done = context - 1, 0
    while done < len(ids):
        end = min(room if done == 0 else done + stride, len(ids))
        yield ids[max(0, end - room) : done], ids[done:end]
        done = end
        if first_only:
            return


def scores(stories, models, path, context=CONTEXT, stride=None, first_only=False):
    """Log-probabilities of every scored place under each model, [token, vocabulary], and the tokens, by document."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(stories / "tokenizer.model"))
    for text in documents_of(path):
        found, targets = [[] for _ in models], []
        for before, new in windows_of(pieces.encode(text), context, stride or context - 1, first_only):
            window = torch.tensor([[pieces.bos_id(), *before, *new]])
            places = slice(len(before), len(before) + len(new))
            for logs, model in zip(found, models):
                with torch.no_grad():
                    logs.append(model(window).logits[0, places].double().log_softmax(-1))
            targets += new
        if targets:
            yield [torch.cat(logs) for logs in found], torch.tensor(targets)


def losses(stories, model, path, **how):
    """Negative log-likelihood of each token, by document."""
    return [-logs.gather(1, ids.unsqueeze(1)).squeeze(1) for (logs,), ids in scores(stories, [model], path, **how)]


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    """One document, of several windows."""
    path = tmp_path_factory.mktemp("long") / "long.txt"
    path.write_text(" ".join(documents_of(DATA)))
    return path


@pytest.fixture(scope="module")
def plain():
    return as_float32(transformers.AutoModelForCausalLM, ROOT / "Tests" / "Fixtures" / "stories260K")


def assert_judged(said, by_document, rel=1e-5):
    every = torch.cat(by_document)
    assert said["tokens"] == len(every)
    assert said["loss"] == pytest.approx(float(every.mean()), rel=rel)
    assert said["perplexity"] == pytest.approx(math.exp(float(every.mean())), rel=rel)
    assert said["document_losses"] == pytest.approx([float(one.mean()) for one in by_document], rel=rel)
    error = float(every.std()) / math.sqrt(len(every))
    assert said["loss_standard_error"] == pytest.approx(error, rel=1e-3)
    assert said["standard_error"] == pytest.approx(error * said["perplexity"], rel=1e-3)


@pytest.fixture(scope="module")
def two_stories(tmp_path_factory):
    """What is scored in hundreds of windows."""
    path = tmp_path_factory.mktemp("two") / "stories.txt"
    path.write_text(DIVIDER.join(documents_of(DATA)[:2]))
    return path


HOW = {
    "as it comes": ({}, []),
    "short windows": ({"context": 64}, ["--context", 64]),
    "windows that overlap": ({"context": 128, "stride": 50}, ["--context", 128, "--stride", 50]),
    "a token at a time": ({"context": 48, "stride": 1}, ["--context", 48, "--stride", 1]),
    "windows of two": ({"context": 2}, ["--context", 2]),
}


SLOWLY = ("a token at a time", "windows of two")


@pytest.mark.parametrize("how", [how for how in HOW if how not in SLOWLY])
def test_a_long_text(nibble, stories, plain, long_text, how):
    settings, flags = HOW[how]
    said = nibble.json("evaluate", "--base", stories, "--data", long_text, *flags)
    assert_judged(said, losses(stories, plain, long_text, **settings))
    assert said["unscored_tokens"] == 0 and said["documents"] == 1


@pytest.mark.parametrize("first_only", [False, True], ids=["whole", "first"])
@pytest.mark.parametrize("how", HOW)
def test_stories(nibble, stories, plain, two_stories, how, first_only):
    settings, flags = HOW[how]
    data = two_stories if how in SLOWLY else DATA
    said = nibble.json(
        "evaluate", "--base", stories, "--data", data, "--windows", "first" if first_only else "whole", *flags)
    assert_judged(said, losses(stories, plain, data, first_only=first_only, **settings))
    whole = sum(len(one) for one in losses(stories, plain, data))
    assert said["tokens"] + said["unscored_tokens"] == whole
    assert (said["unscored_tokens"] > 0) == (first_only and settings != {})


def test_rows_of_json(nibble, work, stories, plain):
    path = work / "rows.jsonl"
    texts = [*documents_of(DATA), "Hi", "Zoë ate 7 \u65e5\u672c.\n\nThe end.\n"]
    path.write_text("".join(json.dumps({"text": text, "label": 1}) + "\n" for text in texts))
    assert_judged(nibble.json("evaluate", "--base", stories, "--data", path), losses(stories, plain, path))


@pytest.mark.parametrize("other", ["packed", "adapted", "itself"])
def test_comparing_two_models(nibble, work, stories, plain, long_text, other):
    """KL(other ‖ model), where both see the same windows."""
    base, flags = stories, []
    if other == "packed":
        nibble("quantize", stories, "-o", work / "packed.nbl")
        nibble("dequantize", work / "packed.nbl", "-o", work / "plain", "--dtype", "fp32")
        base, model = work / "packed.nbl", as_float32(transformers.AutoModelForCausalLM, work / "plain")
    elif other == "adapted":
        adapter = save_adapter(transformers.LlamaForCausalLM, stories, work / "adapter", target_modules="all-linear", lora_alpha=1)
        flags, model = ["--adapter", adapter], by_peft(transformers.LlamaForCausalLM, stories, adapter)
    else:
        model = plain
    for path, settings, options in (
            (long_text, {"context": 200, "stride": 120}, ["--context", 200, "--stride", 120]), (DATA, {}, [])):
        said = nibble.json("evaluate", "--base", base, *flags, "--compare-to", stories, "--data", path, *options)
        both = list(scores(stories, [model, plain], path, **settings))
        own, theirs = (torch.cat([logs[i] for logs, _ in both]) for i in range(2))
        ids = torch.cat([targets for _, targets in both]).unsqueeze(1)
        reported = said["compared_to"]
        divergence = (theirs.exp() * (theirs - own)).sum(1)
        agreement = (own.argmax(1) == theirs.argmax(1)).double()
        assert said["loss"] == pytest.approx(float(-own.gather(1, ids).mean()), rel=1e-5)
        assert reported["loss"] == pytest.approx(float(-theirs.gather(1, ids).mean()), rel=1e-5)
        assert reported["perplexity"] == pytest.approx(math.exp(reported["loss"]), rel=1e-9)
        assert reported["kl_divergence"] == pytest.approx(float(divergence.mean()), rel=1e-4, abs=1e-9)
        assert reported["kl_greatest"] == pytest.approx(float(divergence.max()), rel=1e-3, abs=1e-7)
        # A tie may go either way.
        assert reported["top1_agreement"] == pytest.approx(float(agreement.mean()), abs=1.5 / len(ids))
        assert (reported["kl_divergence"] > 1e-4) == (other != "itself")


def test_bfloat16_products(nibble, stories, plain):
    said = nibble.json("evaluate", "--base", stories, "--data", DATA, "--compute-dtype", "bf16")
    assert_judged(said, losses(stories, plain, DATA), rel=0.01)
