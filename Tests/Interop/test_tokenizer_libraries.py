"""Tokenizers against the libraries they are modelled on: random texts and random ids, the same tokens and the same text.

NIBBLE_TOKENIZER_FUZZ says how many texts a tokenizer gets (500); NIBBLE_EXTRA_TOKENIZERS names a folder with `llama2` and
`llama3`, whose licences keep them out of this repository.
"""
import base64
import json
import os
import pathlib
import random

import pytest
import sentencepiece
import tiktoken
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "Tests" / "Fixtures" / "tokenizers"
EXTRA = os.environ.get("NIBBLE_EXTRA_TOKENIZERS")
COUNT = int(os.environ.get("NIBBLE_TOKENIZER_FUZZ", 500))

BLOCKS = [
    (0x20, 0x7E), (0x20, 0x7E), (0, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x8FF),
    (0x900, 0xDFF), (0xE00, 0x10FF), (0x1100, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x303F), (0x3040, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x10000, 0x11FFF), (0x12000, 0x1BFFF), (0x1D000, 0x1FBFF),
    (0x20000, 0x323AF), (0xE0000, 0x10FFFF)]
PARTS = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u180e", "\u200b", "\u200d", "\u0085", "\u2028", "▁", "▁▁",
    "'s", "'S", "'LL", "'ſ", "don't", "1234567", "3.14", "!!!", "<s>", "</s>", "<|endoftext|>", " <mask> ", "[CLS]", "[MASK]",
    "<unk>", "<0x0A>", "<|begin_of_text|>", "<|eot_id|>", "[INST]", "héllo", "İ", "ß", "ﬁ", "가", "👩‍👩‍👧", "🇩🇪", "½", "Ⅷ", "٣",
    "x" * 50, "ab" * 60, "the", "and", "Romeo", "world", "speak"]


def random_text(chance):
    parts = []
    for _ in range(chance.randint(0, 12) if chance.random() < 0.9 else chance.randint(12, 80)):
        if chance.random() < 0.6:
            parts.append(chance.choice(PARTS))
        else:
            low, high = chance.choice(BLOCKS)
            codes = [chance.randint(low, high) for _ in range(chance.randint(1, 4))]
            parts.append("".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000))
        parts.append(" " * (chance.random() < 0.3))
    return "".join(parts)


def of_tokenizers(tokenizer):
    return (
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids, lambda text: tokenizer.encode(text).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=False), max(tokenizer.get_vocab().values()) + 1)


def of_sentencepiece(path):
    model = sentencepiece.SentencePieceProcessor(str(path))
    return model.encode, lambda text: [model.bos_id()] + model.encode(text), model.decode, model.get_piece_size()


def of_tiktoken(folder):
    special = json.loads((folder / "special_tokens.json").read_text())
    lines = (line.split() for line in (folder / "tokenizer.model").read_text().splitlines() if line)
    encoding = tiktoken.Encoding(
        "ranks", pat_str=special["pat_str"], mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens=special["special_tokens"])
    begin = special["special_tokens"]["<|begin_of_text|>"]

    def encode(text):
        return encoding.encode(text, allowed_special="all")

    return encode, lambda text: [begin] + encode(text), encoding.decode, encoding.n_vocab


def roberta():
    folder = FIXTURES / "roberta"
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


def forms():
    for name in ["gpt2", "bert", *(f"small/{path.name}" for path in sorted((FIXTURES / "small").iterdir()))]:
        yield name, FIXTURES / name, lambda path: of_tokenizers(Tokenizer.from_file(str(path / "tokenizer.json")))
    yield "bert/vocab.txt", FIXTURES / "bert/vocab.txt", lambda path: of_tokenizers(
        Tokenizer.from_file(str(path.parent / "tokenizer.json")))
    yield "roberta", FIXTURES / "roberta", lambda path: of_tokenizers(roberta())
    for name in ["mistral-v3", "stories512"]:
        yield name, FIXTURES / name, lambda path: of_sentencepiece(path / "tokenizer.model")
    if EXTRA:
        yield "llama2", pathlib.Path(EXTRA, "llama2"), lambda path: of_sentencepiece(path / "tokenizer.model")
        yield "llama3", pathlib.Path(EXTRA, "llama3"), of_tiktoken


def rows(nibble, tmp_path, path, rows, *words):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = nibble("tokenize", "--tokenizer", path, "--file", file, *words)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name, path, library", [pytest.param(*form, id=form[0]) for form in forms()])
def test_same_tokens(nibble, tmp_path, name, path, library):
    encode, encode_special, decode, size = library(path)
    chance = random.Random(7)
    texts = [random_text(chance) for _ in range(COUNT)]
    # Of two ways to cut with the same score, libraries differ.
    if name == "small/unigram":
        texts = [text for text in texts if "abab" not in text and "xxxx" not in text]
    for text, row in zip(texts, rows(nibble, tmp_path, path, [{"text": text} for text in texts]), strict=True):
        ids = encode(text)
        assert row["ids"] == ids, ascii(text)
        assert row["ids_with_special"] == encode_special(text), ascii(text)
        assert row["decoded"] == decode(ids), ascii(text)
    lists = [[chance.randrange(size) for _ in range(chance.randint(0, 12))] for _ in range(COUNT)]
    for ids, row in zip(lists, rows(nibble, tmp_path, path, [{"ids": ids} for ids in lists], "--decode"), strict=True):
        assert row["text"] == decode(ids), ids
