"""The block file as two programs see it: `nibble`, and the Python reader that was written from nothing but the specification.

Needs pytest, numpy, xxhash, zstandard. NIBBLE names the binary; otherwise it is looked for in .build.
With --noconftest it needs no more than that.
"""
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash

ROOT = Path(__file__).resolve().parents[2]
FORMAT = ROOT / "formats" / "nbl"
VECTORS = FORMAT / "vectors"
MODEL = ROOT / "Tests" / "Fixtures" / "stories260K"
READER = ROOT / "tools" / "nbl_reader.py"
GOOD = sorted(path.stem for path in VECTORS.glob("*.nbl") if not path.stem.startswith("bad-"))
BAD = sorted(path.stem for path in VECTORS.glob("bad-*.nbl"))
SMALLEST = min((VECTORS / f"{name}.nbl" for name in GOOD), key=lambda path: path.stat().st_size)

spec = importlib.util.spec_from_file_location("nbl_reader", READER)
nbl_reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(nbl_reader)


def binary():
    built = [ROOT / build / "nibble" for build in (".build/release", ".build-tests/release", ".build/debug")]
    path = os.environ.get("NIBBLE") or next((path for path in built if path.exists()), None)
    if path is None:
        pytest.fail("no nibble binary: build it, or set NIBBLE", pytrace=False)
    return str(Path(path).resolve())


def nibble(*arguments, status=(0,)):
    result = subprocess.run([binary(), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert result.returncode in status, f"{arguments}: exit {result.returncode}: {result.stderr}"
    return result.stdout


def reader(*arguments):
    return subprocess.run([sys.executable, str(READER), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)


def read_safetensors(path):
    """Name to (dtype, shape, bytes)."""
    data = Path(path).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in header.items()}


def as_float32(tensor):
    values = tensor.decode()
    return nbl_reader.to_float32(values) if tensor.dtype == "BF16" else values.astype("<f4")


def verify(data):
    nbl_reader.NblFile(data).verify()


def checked(data):
    """The file with the sums of its header and table made to hold again."""
    length, = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<Q", data, 48, xxhash.xxh3_64_intdigest(bytes(data[64:64 + length])))
    struct.pack_into("<Q", data, 56, xxhash.xxh3_64_intdigest(bytes(data[:56])))
    return bytes(data)


# The vectors

@pytest.mark.parametrize("name", GOOD)
def test_vector(name):
    expected = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    file = nbl_reader.read(VECTORS / f"{name}.nbl")
    file.verify()
    assert file.identity == expected["identity"]
    assert json.loads(file.texts.get("metadata", "{}")) == expected["metadata"]
    assert json.loads(file.texts.get("origin", "null")) == expected.get("origin")
    assert {key: xxhash.xxh3_128_hexdigest(content) for key, content in file.files.items()} == expected["files"]
    assert [tensor.name for tensor in file.tensors] == [tensor["name"] for tensor in expected["tensors"]]
    for tensor, want in zip(file.tensors, expected["tensors"]):
        assert [tensor.dtype, list(tensor.shape), tensor.codec, tensor.transposed] == \
            [want["dtype"], want["shape"], want["codec"], want.get("transposed", False)]
        assert (tensor.block, tensor.nested > 0) == (want.get("block_size", 0), want.get("double_quant", False))
        if "hex" in want:
            assert tensor.decode().tobytes().hex() == want["hex"]
        elif "values" in want:
            values = as_float32(tensor) if tensor.dtype in ("F32", "F16", "BF16") else tensor.decode()
            assert values.reshape(-1).tolist() == want["values"]
        else:
            assert xxhash.xxh3_128_hexdigest(as_float32(tensor).tobytes()) == want["xxh3_128_of_float32"]


@pytest.mark.parametrize("name", GOOD)
def test_vector_by_nibble(name):
    expected = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    nibble("verify", VECTORS / f"{name}.nbl")
    assert nibble("hash", VECTORS / f"{name}.nbl").split()[0] == expected["identity"]


@pytest.mark.parametrize("name", BAD)
def test_bad_vector(name):
    path, expected = VECTORS / f"{name}.nbl", json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    nibble("verify", path, status=(3, 4))
    if expected["refused_at"] == "opening":
        with pytest.raises(nbl_reader.NblError):
            nbl_reader.read(path)
    else:
        with pytest.raises(nbl_reader.NblError):
            nbl_reader.read(path).verify()
    result = reader(path, "--verify")
    assert result.returncode == 1 and result.stderr.count("\n") == 1


def test_walkthrough_shows_every_byte():
    data, place = (VECTORS / "nf4.nbl").read_bytes(), 0
    rows = re.findall(r"^\| ([0-9A-F]{3}) \| (\d+) \| `([0-9A-F …]+)` \|", (FORMAT / "walkthrough.md").read_text("utf-8"), re.M)
    for at, count, shown in rows:
        part = data[place:place + int(count)]
        start, _, end = shown.partition("…")
        assert int(at, 16) == place
        assert part.startswith(bytes.fromhex(start)) and part.endswith(bytes.fromhex(end)), at
        assert "…" in shown or bytes.fromhex(start) == part, at
        place += int(count)
    assert place == len(data)


# A model, packed in several ways

OPTIONS = [
    [], ["--codec", "fp4"], ["--no-double-quant"], ["--codec", "fp4", "--no-double-quant", "--block-size", "32"],
    ["--block-size", "32"], ["--block-size", "256"], ["--block-size", "4096"], ["--block-size", "4096", "--no-double-quant"],
    ["--compress", "zstd"], ["--compress", "zstd:19"], ["--compress", "zstd", "--codec", "keep"],
    ["--compress", "zstd", "--codec", "bf16"],
    ["--tensor", "mlp=fp16"], ["--tensor", "mlp=fp16", "--tensor", "embed=nf4:block=128"], ["--encoder", "mse"],
    ["--encoder", "mse", "--codec", "fp4", "--no-double-quant"],
    ["--encoder", "mse-signed"], ["--encoder", "mse-signed", "--no-double-quant"],
    ["--encoder", "icq"], ["--encoder", "icq", "--icq-score", "error", "--no-double-quant", "--block-size", "32"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "defaults")
def test_model(options, tmp_path):
    packed, plain = tmp_path / "model.nbl", tmp_path / "plain.safetensors"
    nibble("quantize", MODEL, "-o", packed, *options)
    nibble("dequantize", packed, "-o", plain, "--dtype", "fp32")
    file = nbl_reader.read(packed)
    file.verify()
    assert file.identity == nibble("hash", packed).split()[0]
    assert json.loads(file.texts["provenance"])["source"] == nibble("hash", MODEL).split()[0]

    expected = read_safetensors(plain)
    assert [tensor.name for tensor in file.tensors] == sorted(expected, key=str.encode)
    for tensor in file.tensors:
        assert expected[tensor.name] == ("F32", list(tensor.shape), as_float32(tensor).tobytes()), tensor.name
    assert set(file.files) == {"LICENSE", "config.json", "tokenizer.model"}
    for name, content in file.files.items():
        assert content == (MODEL / name).read_bytes()


def test_transposed(tmp_path):
    source = VECTORS / "gpt2.nbl"
    nibble("dequantize", source, "-o", tmp_path / "plain.safetensors", "--dtype", "fp32")
    assert reader(source, "--safetensors", tmp_path / "reader.safetensors").returncode == 0
    assert read_safetensors(tmp_path / "reader.safetensors") == read_safetensors(tmp_path / "plain.safetensors")


def test_program(tmp_path):
    source = VECTORS / "model.nbl"
    assert reader(source).stdout.splitlines() == [
        "model.layers.0.mlp.up_proj.weight [4, 16] F32 nf4, block 64, nested block 256", "model.norm.weight [4] F32 plain"]
    assert reader(source, "--verify", "--extract", tmp_path / "files").returncode == 0
    assert (tmp_path / "files" / "tokenizer.model").read_bytes() == bytes(range(100))
    assert reader(tmp_path / "missing.nbl").returncode == 1


# Damage

def test_every_flipped_byte_is_noticed():
    good = SMALLEST.read_bytes()
    verify(good)
    for place in range(len(good)):
        if 24 <= place < 32:
            continue  # optional features: below
        for bits in (1, 0x80, 0xFF):
            with pytest.raises(nbl_reader.NblError):
                verify(good[:place] + bytes([good[place] ^ bits]) + good[place + 1:])
    for place in range(24, 32):
        data = bytearray(good)
        data[place] ^= 0x80
        with pytest.raises(nbl_reader.NblError, match="checksum"):
            verify(bytes(data))
        verify(checked(data))  # unknown optional features are no reason to refuse


@pytest.mark.parametrize("name", ["fp4", "nf4", "zstd"])
def test_flipped_bytes_are_noticed_by_nibble(name, tmp_path):
    good, path = (VECTORS / f"{name}.nbl").read_bytes(), tmp_path / "flipped.nbl"
    for place in np.linspace(0, len(good) - 1, 60).astype(int):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1:])
        nibble("verify", path, status=(3, 4))
        with pytest.raises(nbl_reader.NblError):
            nbl_reader.read(path).verify()


def test_truncation_is_noticed(tmp_path):
    good, path = SMALLEST.read_bytes(), tmp_path / "cut.nbl"
    sampled = {0, 1, 7, 8, 63, 64, 65, len(good) - 1, *range(0, len(good), 40)}
    for length in range(len(good)):
        with pytest.raises(nbl_reader.NblError):
            nbl_reader.NblFile(good[:length])
        # and where the header was made to agree with the shorter file
        if length >= 64:
            data = bytearray(good[:length])
            struct.pack_into("<Q", data, 32, length)
            struct.pack_into("<Q", data, 40, min(length - 64, struct.unpack_from("<Q", data, 40)[0]))
            with pytest.raises(nbl_reader.NblError):
                nbl_reader.NblFile(checked(data))
            if length in sampled:
                path.write_bytes(checked(data))
                nibble("verify", path, status=(3, 4))
        if length in sampled:
            path.write_bytes(good[:length])
            nibble("verify", path, status=(3, 4))
            with pytest.raises(nbl_reader.NblError):
                nbl_reader.read(path)
    path.write_bytes(good + b"\0")
    nibble("verify", path, status=(3, 4))
    with pytest.raises(nbl_reader.NblError):
        nbl_reader.read(path)


# Tables that say something else, with sums that hold: places relative to the name of the one tensor of nf4.nbl

FORGED = {
    "dtype unknown": (8, "<B", 20), "dtype that cannot be packed": (8, "<B", 17), "flags unknown": (9, "<B", 2),
    "sections too few": (10, "<H", 3), "rank above 1000": (12, "<I", 1001), "shape": (16, "<Q", 4),
    "shape too large": (16, "<Q", 1 << 63),
    "codec unknown": (32, "<H", 3), "codec plain": (32, "<H", 0), "parameters too short": (34, "<H", 15),
    "block size": (36, "<I", 16), "nested block size": (40, "<I", 1048577), "codebook of 256": (44, "<H", 1),
    "codebook missing": (44, "<H", 2), "nested codebook none": (46, "<H", 65535), "parameters reserved": (49, "<B", 1),
    "digest": (52, "<B", 0), "kind": (68, "<H", 3), "compression unknown": (70, "<B", 4), "compression": (70, "<B", 1),
    "section reserved": (75, "<B", 1), "offset": (76, "<Q", 0x6C0), "offset far": (76, "<Q", (1 << 64) - 64),
    "stored length": (84, "<Q", 66), "plain length": (92, "<Q", 66), "checksum": (100, "<Q", 0),
    "name": (0, "<B", 0xFF),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_table(what, tmp_path):
    data = bytearray((VECTORS / "nf4.nbl").read_bytes())
    offset, layout, value = FORGED[what]
    struct.pack_into(layout, data, data.index(b"w.weight") + offset, value)
    refused_by_both(checked(data), tmp_path)


@pytest.mark.parametrize("offset, layout, value", [
    (8, "<I", 2), (12, "<I", 1), (16, "<Q", 1 << 63), (32, "<Q", 1), (40, "<Q", 1 << 63),  # the header
    (64, "<B", 0), (80, "<I", 1), (80, "<I", 1 << 31), (84, "<I", 1 << 31), (88, "<I", 1), (92, "<I", 0), (92, "<I", 2),  # the counts
    (96, "<I", 17), (100, "<I", 0x7F800000), (104, "<I", 0x7FC00000)])  # a codebook
def test_forged_header(offset, layout, value, tmp_path):
    data = bytearray((VECTORS / "nf4.nbl").read_bytes())
    struct.pack_into(layout, data, offset, value)
    if offset != 40:
        data = bytearray(checked(data))
    struct.pack_into("<Q", data, 56, xxhash.xxh3_64_intdigest(bytes(data[:56])))
    refused_by_both(bytes(data), tmp_path)


def refused_by_both(data, tmp_path):
    path = tmp_path / "forged.nbl"
    path.write_bytes(data)
    with pytest.raises(nbl_reader.NblError):
        nbl_reader.read(path).verify()
    nibble("verify", path, status=(3, 4))


def test_vectors_can_be_made_again(tmp_path):
    """What they hold; the provenance names the program's version, and other zstd libraries compress otherwise."""
    subprocess.run([sys.executable, str(FORMAT / "make_vectors.py"), binary(), str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in VECTORS.iterdir())
    for path in tmp_path.glob("*.json"):
        assert path.read_text("utf-8") == (VECTORS / path.name).read_text("utf-8"), path.name
