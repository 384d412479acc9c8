"""Damaged safetensors headers, as the safetensors library judges them and as nibble does.

What nibble opens, the library opens. What only nibble refuses is of a kind in EXTRA, which `docs/architecture.md` explains.
NIBBLE_SLOW=1 asks of 20 000 headers, otherwise of 2 000; NIBBLE_HEADERS=N of as many as are named.
"""
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import struct
import subprocess

import pytest
from safetensors import SafetensorError, safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = int(os.environ.get("NIBBLE_HEADERS") or (20_000 if os.environ.get("NIBBLE_SLOW") else 2_000))
BATCH = 1_000
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "U8": 8, "I8": 8, "F8_E4M3": 8, "I16": 16, "BF16": 16, "F32": 32, "C64": 64, "F64": 64, "U64": 64}

KEY_TWICE = "a key twice"
# What nibble refuses and the library does not, by its message.
EXTRA = {
    KEY_TWICE: r"duplicate key",
    "a key the format does not have": r"has the unknown key",
    "white space before the header": r"does not begin with '\{'",
    "a dtype that is an object": r"header: expected '\"', found '\{'",
    "__metadata__ that is null": r"header: expected '\{', found 'n'",
    "more than 1000 dimensions": r"has more than 1000 dimensions",
    "dimensions beside a zero whose product is no 63-bit number": r"has no size in whole bytes|expected a whole number from 0 to \d+, found '\d+'",
}


def header_of(chance):
    """A header that is right, as members and the length of its data."""
    members, at = {}, 0
    if chance.random() < 0.5:
        members["__metadata__"] = {"format": "pt", "key é": "value \n \U0001f600"}
    for number in range(chance.randrange(4)):
        dtype = chance.choice(list(BITS))
        shape = [chance.choice((0, 1, 2, 3, 4, 8, 31)) for _ in range(chance.randrange(4))]
        count = 1
        for extent in shape:
            count *= extent
        if count * BITS[dtype] % 8:
            shape, count = shape + [8], count * 8
        size = count * BITS[dtype] // 8
        name = chance.choice(("w", "model.layers.0.weight", "é", "a b", "", "\U0001f600")) + str(number)
        members[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return members, at


NUMBERS = (0, 1, -1, 2, 7, 1.0, 1.5, 1e3, -0.0, True, None, "1", [], [1], {}, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)


def bend(chance, members):
    """Changes one thing in the tree."""
    tensors = [value for name, value in members.items() if name != "__metadata__"]
    kind = chance.randrange(13)
    if kind == 0:
        members["__metadata__"] = chance.choice((None, {}, [], "text", {"a": 1}, {"a": None}, {"a": ["b"]}, {"": ""}, {"dtype": "F32"}))
    if not tensors:
        return
    tensor = chance.choice(tensors)
    if kind in (1, 2):
        key = chance.choice(("shape", "data_offsets"))
        values = list(tensor[key])
        if values:
            place = chance.randrange(len(values))
            values[place] = chance.choice((chance.choice(NUMBERS), values[place] + chance.choice((-1, 1, 8))))
        tensor[key] = values
    elif kind == 3:
        key = chance.choice(("shape", "data_offsets"))
        tensor[key] = chance.choice((tensor[key] + [chance.choice((0, 1, 2))], tensor[key][:-1], [], None, "x", {}, 3, [[]]))
    elif kind == 4:
        tensor["dtype"] = chance.choice((*BITS, "f32", "F32 ", "FP32", "F16", "", None, 1, {"F32": None}, ["F32"], "E8M0", "F8_E5M2FNUZ"))
    elif kind == 5:
        tensor.pop(chance.choice(list(tensor)))
    elif kind == 6:
        tensor[chance.choice(("extra", "", "Dtype", "dtype ", "offset", "shape\0"))] = chance.choice((None, 1, "x", [1, {"a": []}]))
    elif kind == 7 and len(tensors) > 1:
        other = chance.choice(tensors)
        other["data_offsets"] = list(tensor["data_offsets"])
    elif kind == 8:
        begin, end = tensor["data_offsets"]
        tensor["data_offsets"] = chance.choice(([end, begin], [begin, begin], [begin + 1, end + 1], [0, end]))
    elif kind == 9:
        tensor["shape"] = [1] * chance.choice((8, 100, 999, 1000, 1001, 2000)) + tensor["shape"]
    elif kind == 10:
        tensor["shape"] = tensor["shape"] + chance.choice(([2**32, 2**32, 0], [0, 2**63], [2**64 - 1, 0], [0, 2**32, 2**32], [2**62, 4, 0]))
    elif kind == 11:
        name = chance.choice([name for name in members if name != "__metadata__"])
        members[chance.choice(("__metadata__", name + "\0", "__metadata", "x" * 3000))] = members.pop(name)
    elif kind == 12:
        names = list(members)
        chance.shuffle(names)
        shuffled = {name: members[name] for name in names}
        members.clear()
        members.update(shuffled)


def bend_text(chance, text):
    """Changes one thing in the text."""
    kind = chance.randrange(12)
    place = chance.randrange(len(text) + 1)
    if kind == 0:
        return text[:place] + bytes([chance.randrange(256)]) + text[place + 1:]
    if kind == 1:
        return text[:place] + text[place + chance.randrange(1, 5):]
    if kind == 2:
        parts = (b" ", b"\n", b"\t", b"\r", b"\0", b",", b"{", b"}", b"[", b"]", b'"', b"\\", b"\xc3", b"\xef\xbb\xbf", b"0", b"-", b".", b"e1",
                 b"//", b"\\u0041", b"\\ud800", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\\x41", b"\\/", b"null", b"\x0c", b"\xed\xa0\x80")
        return text[:place] + chance.choice(parts) + text[place:]
    if kind == 3:
        return text + chance.choice((b" ", b"    ", b"\n", b"\0", b"\0\0\0\0", b"{}", b"x", b"\t\r", b","))
    if kind == 4:
        return chance.choice((b" ", b"\n", b"\xef\xbb\xbf", b"\0", b"[")) + text
    if kind == 5:
        # A member or an entry twice.
        found = list(re.finditer(rb'"[^"]*":(\[[^\]]*\]|"[^"]*"|\{[^{}]*\})', text))
        if found:
            match = chance.choice(found)
            return text[:match.end()] + b"," + match.group() + text[match.end():]
    if kind == 6:
        numbers = list(re.finditer(rb"\d+", text))
        if numbers:
            match = chance.choice(numbers)
            shape = chance.choice((b"0%s", b"%s.0", b"%se0", b"+%s", b"-%s", b"%sE-0", b"0x%s", b" %s ", b'"%s"', b"%s."))
            return text[:match.start()] + shape % match.group() + text[match.end():]
    if kind == 7:
        depth = chance.choice((20, 60, 63, 64, 65, 126, 127, 128, 129, 1000))
        deep = b"[" * depth + b"]" * depth
        return text[:-1] + (b"," if len(text) > 2 else b"") + chance.choice((b'"deep":' + deep, b'"d":{"x":' + deep + b"}")) + b"}"
    if kind == 8 and place < len(text):
        letter = text[place]
        if letter not in b'"\\' and letter >= 0x20 and letter < 0x7F:
            return text[:place] + b"\\u%04x" % letter + text[place + 1:]
    return text


def damaged(number):
    """File `number`: a right one, with one to three changes in its tree, its text or its lengths."""
    chance = random.Random(number)
    members, size = header_of(chance)
    kinds = [chance.choice(("tree", "tree", "text", "text", "length", "none")) for _ in range(chance.randrange(1, 4))]
    for kind in kinds:
        if kind == "tree":
            # What an earlier change has left may have nothing of the kind.
            with contextlib.suppress(TypeError, KeyError, IndexError, ValueError):
                bend(chance, members)
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=chance.random() < 0.5).encode()
    for kind in kinds:
        if kind == "text":
            text = bend_text(chance, text)
    length, data = len(text), bytes(size)
    if "length" in kinds:
        change = chance.choice((-1, 1, 8, -8, "file", "data", "cut", "pad"))
        if change == "file":
            length = chance.choice((0, 1, 2, 100_000_000, 100_000_001, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8))
        elif change == "data":
            data += b"\0"
        elif change == "cut":
            data = data[:-1]
        elif change == "pad":
            text += b" " * (-len(text) % 8)
            length = len(text)
        else:
            length = max(0, length + change)
    return struct.pack("<Q", length) + text + data


def library(path):
    """None where the library opens the file, else its reason."""
    try:
        with safe_open(path, "numpy"):
            return None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        return str(error)


def kind_of(own, path):
    """The kind of a refusal, or the refusal itself."""
    for kind, pattern in EXTRA.items():
        if re.search(pattern, own):
            return kind
    # Of two entries the library sees the second, whatever the first one says.
    pairs = []
    json.loads(path.read_bytes()[8:].rstrip(b"\0"), object_pairs_hook=lambda found: pairs.append([key for key, _ in found]))
    return KEY_TWICE if any(len(keys) > len(set(keys)) for keys in pairs) else own.partition(": ")[2]


@pytest.fixture
def verdicts():
    """The program that judges many files in one run, beside the binary that is tested or built with the tests."""
    named = [pathlib.Path(os.environ["NIBBLE"]).resolve().parent] if os.environ.get("NIBBLE") else []
    for folder in [*named, *(ROOT / build for build in (".build-tests/release", ".build/debug", ".build/release"))]:
        if (folder / "Verdicts").exists():
            return folder / "Verdicts"
    pytest.fail("no program Verdicts: run 'swift build --product Verdicts'", pytrace=False)


def test_what_is_opened_is_what_the_library_opens_too(verdicts, work):
    extra, opened, refused = collections.defaultdict(list), 0, 0
    for first in range(0, COUNT, BATCH):
        paths = []
        for number in range(first, min(first + BATCH, COUNT)):
            path = work / f"{number}.safetensors"
            path.write_bytes(damaged(number))
            paths.append(path)
        said = subprocess.run(
            [verdicts], input="".join(f"{path}\n" for path in paths), capture_output=True, text=True, timeout=120, check=True)
        ours = said.stdout.splitlines()
        assert len(ours) == len(paths)
        for path, own in zip(paths, ours):
            theirs = library(path)
            if own == "ok":
                assert theirs is None, f"{path.name} is opened, but the library says: {theirs}"
                opened += 1
            elif theirs is None:
                extra[kind_of(own, path)].append(path.name)
            else:
                refused += 1
            path.unlink()
    found = ", ".join(f"{len(names)} with {kind} (as {names[0]})" for kind, names in sorted(extra.items()))
    print(f"\n{COUNT} headers: {opened} opened by both, {refused} refused by both; by nibble only: {found or 'none'}")
    assert opened > COUNT // 20 and refused > COUNT // 20
    assert extra.keys() <= EXTRA.keys()
