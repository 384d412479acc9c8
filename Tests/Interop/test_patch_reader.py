"""Patches as two programs see them: `nibble`, and the Python reader that was written from nothing but the specification.

Needs pytest, numpy, xxhash, zstandard. NIBBLE names the binary; otherwise it is looked for in .build.
"""
import importlib.util
import json
import re

import numpy as np
import pytest
from test_nbl_reader import MODEL, ROOT, nibble

FORMAT = ROOT / "formats" / "patch"
VECTORS = FORMAT / "vectors"
BAD = sorted(path.stem for path in VECTORS.glob("bad-*.patch"))
FIRST, SECOND, TASK = VECTORS / "first.nbl", VECTORS / "second.nbl", VECTORS / "task.patch"

spec = importlib.util.spec_from_file_location("patch_reader", ROOT / "tools" / "patch_reader.py")
patch_reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(patch_reader)
NblError = patch_reader.NblError


@pytest.mark.parametrize("file, other", [(FIRST, SECOND), (SECOND, FIRST)])
def test_vector(file, other, tmp_path):
    assert patch_reader.read(TASK).apply(file.read_bytes()) == other.read_bytes()
    nibble("swap", "--file", file, "--patch", TASK, "-o", tmp_path / "out.nbl")
    assert (tmp_path / "out.nbl").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", BAD)
def test_bad_vector(name, tmp_path):
    path, expected = VECTORS / f"{name}.patch", json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    nibble("swap", "--file", FIRST, "--patch", path, "-o", tmp_path / "out.nbl", status=(3, 4))
    assert not list(tmp_path.iterdir())
    if expected["refused_at"] == "opening":
        with pytest.raises(NblError):
            patch_reader.read(path)
        nibble("inspect", path, status=(3, 4))
    else:
        patch = patch_reader.read(path)
        with pytest.raises(NblError):
            patch.apply(FIRST.read_bytes())
        nibble("inspect", path)


def test_specification_shows_the_vector():
    """Every row with an offset and bytes is what stands there, and none of the patch is left out."""
    data, place = TASK.read_bytes(), 0
    text = (FORMAT / "README.md").read_text("utf-8")
    heads = FIRST.read_bytes()[:709] + SECOND.read_bytes()[:625]
    assert data[0x50:0x50 + len(heads)] == heads
    for at, count, shown in re.findall(r"^\| ([0-9A-F]{3}) \| (\d+) \| (?:`([0-9A-F ]+)` )?\|", text, re.M):
        assert int(at, 16) == place
        if shown:
            assert data[place:place + int(count)].hex(" ").upper() == shown
        place += int(count)
    for at, row in re.findall(r"^\| ([0-9A-F]{3}) ((?:\| `[0-9A-F ]+` ){7})\|", text, re.M):
        shown = bytes.fromhex("".join(re.findall(r"`([0-9A-F ]+)`", row)))
        assert int(at, 16) == place and data[place:place + 32] == shown
        place += 32
    assert place == len(data)


@pytest.mark.parametrize("options", [[], ["--codec", "int8"], ["--block-size", "128"], ["--compress", "zstd"], ["--encoder", "mse"]])
def test_patches_of_nibble(options, tmp_path):
    first, second, patch = tmp_path / "a.nbl", tmp_path / "b.nbl", tmp_path / "p.patch"
    nibble("quantize", MODEL, "-o", first)
    nibble("quantize", MODEL, "-o", second, *options)
    nibble("patch", "--from", first, "--to", second, "-o", patch)
    opened = patch_reader.read(patch)
    assert opened.apply(first.read_bytes()) == second.read_bytes()
    assert opened.apply(second.read_bytes()) == first.read_bytes()
    seen = json.loads(nibble("inspect", patch, "--json"))
    assert [seen["from"]["identity"], seen["to"]["identity"]] == [file.identity for file in opened.files]
    assert seen["sections"] == len(opened.parts)
    with pytest.raises(NblError):
        opened.apply(FIRST.read_bytes())


def test_flipped_bytes():
    good, rng = TASK.read_bytes(), np.random.default_rng(1)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.integers(8)
        with pytest.raises(NblError):
            patch_reader.Patch(bytes(bad)).apply(FIRST.read_bytes())
