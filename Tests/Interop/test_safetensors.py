"""nibble and the safetensors library read each other's files: every type, every shape, shards and their index."""
import json

import pytest
import torch
from models import make, metadata_of, raw_bytes_of, small_config
from reference import raw, same_bits
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

# What torch and the library have between them; types this torch does not know are left out.
TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}
KNOWN = {name: getattr(torch, found) for name, found in TYPES.items() if hasattr(torch, found)}
SHAPES = ((), (0,), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 4, 5))


def any_bits(dtype, shape):
    """A tensor of random bits: NaN, infinities and subnormals included."""
    width = dtype.itemsize
    count = 1
    for length in shape:
        count *= length
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    bits = torch.randint(0, 256, (count * width,), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


def tensors_of(name):
    """Tensors of one type in every shape. The library writes no scalar of four bits: torch has them in pairs."""
    return {
        f"{name}.{'x'.join(map(str, shape)) or 'scalar'}": any_bits(KNOWN[name], shape)
        for shape in SHAPES if name != "F4" or shape}


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert same_bits(ours[name], tensor), name


@pytest.mark.parametrize("name", KNOWN)
def test_every_type_of_the_library_opens(nibble, work, name):
    tensors = tensors_of(name)
    save_file(tensors, work / "in.safetensors", metadata={"format": "pt", "author": "nobody, 著者"})
    seen = nibble.json("inspect", work / "in.safetensors")
    assert {t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in seen["tensors"]} == {
        key: (dtype, shape, len(data)) for key, (dtype, shape, data) in raw_bytes_of(work).items()}
    assert {t["dtype"] for t in seen["tensors"]} == {name}
    assert seen["metadata"] == {"format": "pt", "author": "nobody, 著者"}
    assert seen["tensor_count"] == len(tensors)


@pytest.mark.parametrize("compress", ["none", "zstd"])
@pytest.mark.parametrize("name", KNOWN)
def test_every_type_comes_back_from_a_block_file(nibble, work, name, compress):
    tensors = tensors_of(name)
    save_file(tensors, work / "in.safetensors")
    nibble("convert", work / "in.safetensors", "-o", work / "a.nbl", "--compress", compress)
    nibble("convert", work / "a.nbl", "-o", work / "back.safetensors")
    assert_same_tensors(load_file(work / "back.safetensors"), tensors)
    assert metadata_of(work / "back.safetensors")["format"] == "pt"


@pytest.mark.parametrize("dtype, written", [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_dequantize_to_a_type_is_torchs_own_cast(nibble, work, dtype, written):
    """Float tensors are rounded as torch rounds them, infinite where too large; other types are not touched."""
    tensors = {
        "f32": torch.randn(333, 7) * torch.logspace(-12, 12, 7), "f16": torch.randn(50, 3).half(),
        "bf16": torch.randn(50, 3).bfloat16(), "f64": torch.randn(20, dtype=torch.float64),
        "ids": torch.arange(5), "mask": torch.rand(9) < 0.5}
    save_file(tensors, work / "in.safetensors")
    nibble("dequantize", work / "in.safetensors", "-o", work / "out.safetensors", "--dtype", dtype, "--allow-nonfinite")
    expected = {name: t.to(written) if t.is_floating_point() else t for name, t in tensors.items()}
    assert_same_tensors(load_file(work / "out.safetensors"), expected)


def test_names_of_any_kind(nibble, work):
    """Names are bytes: these are all different, though some look or compare alike."""
    names = [
        "é", "e\u0301", "ﬁ", "fi", "a b", 'quo"te', "back\\slash", "line\nfeed", "日本語", "😀", "\u0001", "a", "A", "a.b"]
    tensors = {name: torch.full((2,), float(number)) for number, name in enumerate(names)}
    save_file(tensors, work / "in.safetensors")
    nibble("convert", work / "in.safetensors", "-o", work / "a.nbl")
    nibble("convert", work / "a.nbl", "-o", work / "out.safetensors")
    assert_same_tensors(load_file(work / "out.safetensors"), tensors)
    assert {t["name"] for t in nibble.json("inspect", work / "a.nbl")["tensors"]} == set(names)


def test_an_empty_file(nibble, work):
    save_file({}, work / "in.safetensors")
    nibble("convert", work / "in.safetensors", "-o", work / "a.nbl")
    nibble("convert", work / "a.nbl", "-o", work / "out.safetensors")
    assert load_file(work / "out.safetensors") == {}


@pytest.mark.parametrize("way", ["dequantize", "convert"])
def test_sharded_output_has_the_index_transformers_writes(nibble, work, way):
    model = make(LlamaForCausalLM, small_config("llama"), torch.bfloat16)
    model.save_pretrained(work / "whole")
    model.save_pretrained(work / "theirs", max_shard_size="40KB")
    nibble("convert", work / "whole", "-o", work / "whole.nbl", "--format", "nbl")
    words = ["--format", "safetensors"] if way == "convert" else []
    nibble(way, work / "whole.nbl", "-o", work / "ours", "--max-shard-size", "40KB", *words)
    index, theirs = (
        json.loads((work / folder / "model.safetensors.index.json").read_text()) for folder in ("ours", "theirs"))
    assert index.keys() == theirs.keys() == {"metadata", "weight_map"}
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    assert index["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))] and len(shards) > 3
    assert {path.name for path in (work / "ours").glob("*.safetensors")} == set(shards)
    for shard in shards:
        with safe_open(work / "ours" / shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            held = {name: file.get_tensor(name) for name in file.keys()}
        assert {name for name, where in index["weight_map"].items() if where == shard} == held.keys()
        assert sum(len(raw(t)) for t in held.values()) <= 40_000 or len(held) == 1
    loaded, report = LlamaForCausalLM.from_pretrained(work / "ours", output_loading_info=True, dtype="auto")
    assert not any(report.values())
    assert_same_tensors(loaded.state_dict(), model.state_dict())
    nibble("verify", work / "ours")


def test_one_identity_for_every_sharding(nibble, work):
    model = make(LlamaForCausalLM, small_config("llama"))
    identities = set()
    for size in ("5GB", "200KB", "60KB", "10KB"):
        model.save_pretrained(work / size, max_shard_size=size)
        identities.add(nibble.json("hash", work / size)["identity"])
    nibble("convert", work / "60KB", "-o", work / "a.nbl", "--format", "nbl")
    identities.add(nibble.json("hash", work / "a.nbl")["identity"])
    assert len(identities) == 1


def test_values_stand_where_their_type_can_be_read(nibble, work):
    """Every tensor starts at a multiple of its element's size, and the header's length is a multiple of eight."""
    kinds = ("BOOL", "U8", "I16", "F16", "BF16", "F32", "I64", "F64", "C64")
    mixed = {name: tensor for kind in kinds for name, tensor in tensors_of(kind).items()}
    save_file(mixed, work / "in.safetensors")
    nibble("convert", work / "in.safetensors", "-o", work / "a.nbl")
    nibble("convert", work / "a.nbl", "-o", work / "out.safetensors")
    assert_same_tensors(load_file(work / "out.safetensors"), mixed)
    data = (work / "out.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % KNOWN[entry["dtype"]].itemsize == 0, name


def test_a_header_longer_than_the_format_allows_is_not_written(nibble, work):
    """Metadata of quotes takes twice its bytes in a header, and thrice that in the record of a quantized file."""
    save_file({"w.weight": torch.randn(64, 64)}, work / "in.safetensors", metadata={"quotes": '"' * 17_500_000})
    done = nibble("quantize", work / "in.safetensors", "--format", "bnb", "-o", work / "out.safetensors", exits=2)
    assert "more than the 100000000 the format allows" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in work.iterdir()] == ["in.safetensors"]
