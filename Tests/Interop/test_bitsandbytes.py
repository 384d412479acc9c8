"""`quantize --format bnb --bnb-rules cpu` makes what bitsandbytes makes on a CPU: the same codes, the same scale codes."""
import json

import pytest
import torch
from bitsandbytes import functional
from reference import (
    BLOCK_SIZES, DTYPES, STATE, assert_packed_alike, by_bitsandbytes, packed_tensors, parts_of, same_bits, ulps_apart)
from safetensors.torch import load_file, save_file

# Rows that are multiples of nothing, short last blocks, odd counts, one weight, one dimension, three.
SHAPES = ((1, 1), (7, 13), (33, 17), (3, 48), (64, 64), (96, 96), (100, 70), (1, 4097), (301, 257), (65,), (130,), (5, 7, 11))
KINDS = ("normal", "uniform", "outliers", "zero blocks", "tiny", "constant")


def weights(shape, kind):
    normal = torch.randn(shape)
    if kind == "uniform":
        return torch.rand(shape) * 2 - 1
    if kind == "outliers":
        return torch.where(torch.rand(shape) < 0.01, 40 * normal, 0.02 * normal)
    if kind == "zero blocks":
        flat = normal.reshape(-1)
        flat[flat.numel() // 4 : 3 * flat.numel() // 4] = 0
        return flat.reshape(shape)
    if kind == "tiny":
        return normal * 1e-6
    if kind == "constant":
        return torch.full(shape, 0.37)
    return 0.02 * normal


def samples(dtype):
    return {
        f"{kind}.{'x'.join(map(str, shape))}": weights(shape, kind).to(dtype) for kind in KINDS for shape in SHAPES}


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_any_shape_are_packed_as_bitsandbytes_packs_them(nibble, work, dtype, quant_type, double):
    tensors = samples(DTYPES[dtype])
    save_file(tensors, work / "in.safetensors")
    for block_size in BLOCK_SIZES:
        nibble(
            "quantize", work / "in.safetensors", "-o", work / "out.safetensors", "--force", "--bnb-rules", "cpu",
            "--tensor", f".*={quant_type}", "--block-size", block_size, "--double-quant" if double else "--no-double-quant")
        written = load_file(work / "out.safetensors")
        packed = packed_tensors(written)
        assert packed.keys() == tensors.keys()
        assert written.keys() == set().union(*(parts_of(name, packed[name]) for name in packed))
        for name, tensor in tensors.items():
            theirs = by_bitsandbytes(tensor, block_size, quant_type, double)
            scales = by_bitsandbytes(tensor, block_size, quant_type, False).absmax
            try:
                assert_packed_alike(packed[name], theirs, scales)
            except AssertionError as error:
                pytest.fail(f"{name}, block {block_size}: {error}", pytrace=False)


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("container", ["packed.nbl", "packed.safetensors"])
def test_dequantize_is_code_times_scale_rounded_once(nibble, work, container, dtype, quant_type, double):
    tensors = samples(DTYPES[dtype])
    save_file(tensors, work / "in.safetensors")
    scales = "--double-quant" if double else "--no-double-quant"
    for block_size in (32, 64, 4096):
        nibble(
            "quantize", work / "in.safetensors", "-o", work / container, "--force", scales,
            "--tensor", f".*={quant_type}:block={block_size}")
        if container.endswith(".nbl"):
            nibble("convert", work / container, "-o", work / "parts.safetensors", "--format", "bnb", "--force")
        parts = packed_tensors(load_file(work / ("parts.safetensors" if container.endswith(".nbl") else container)))
        for wanted in (None, "fp32", "fp16", "bf16"):
            flags = ["--dtype", wanted] if wanted else []
            nibble("dequantize", work / container, "-o", work / "plain.safetensors", "--force", *flags)
            plain = load_file(work / "plain.safetensors")
            out = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, None: DTYPES[dtype]}[wanted]
            assert plain.keys() == tensors.keys()
            for name in tensors:
                expected = parts[name].dequantized(out)
                assert same_bits(plain[name], expected), f"{name}, block {block_size}, to {wanted or dtype}"


@pytest.mark.parametrize("codec", ["nf4", "fp4"])
def test_the_bundled_model_is_packed_as_bitsandbytes_packs_it(nibble, work, stories, codec):
    nibble("quantize", stories, "-o", work / "out", "--format", "bnb", "--bnb-rules", "cpu", "--codec", codec)
    source = load_file(stories / "model.safetensors")
    written = load_file(work / "out" / "model.safetensors")
    packed = packed_tensors(written)
    assert len(packed) == 5 * 7, "five layers of seven linear weights each"
    for name, ours in packed.items():
        theirs = by_bitsandbytes(source[name], quant_type=codec)
        assert_packed_alike(ours, theirs, by_bitsandbytes(source[name], quant_type=codec, double=False).absmax)
        # On this model the open last bit of the offset changes no scale code either.
        assert same_bits(ours.absmax, theirs.absmax)
        explained = (ours.offset - theirs.offset).abs() + theirs.nested_absmax * 2**-23
        assert ((ours.nested_absmax - theirs.nested_absmax).abs() <= explained).all()
    parts = set().union(*(parts_of(name, ours) for name, ours in packed.items()))
    for name in written.keys() - parts:
        assert same_bits(written[name], source[name]), f"{name} is not packed and must not change"
    assert written.keys() - parts == source.keys() - packed.keys()


def test_the_state_is_the_text_bitsandbytes_writes(nibble, work, stories):
    """Byte for byte where the offset is the same, so that a comparison of files finds nothing."""
    nibble("quantize", stories, "-o", work / "out", "--format", "bnb", "--bnb-rules", "cpu")
    source = load_file(stories / "model.safetensors")
    written = load_file(work / "out" / "model.safetensors")
    compared = 0
    for name, ours in packed_tensors(written).items():
        theirs = by_bitsandbytes(source[name])
        if ours.offset == theirs.offset:
            text = bytes(written[name + STATE + "nf4"].tolist())
            assert text == json.dumps(theirs.state).encode()
            compared += 1
        else:
            assert ulps_apart(ours.offset, theirs.offset) == 1
    assert compared > 0


def test_float64_is_packed_as_the_float32_nearest_to_it(nibble, work):
    wide = {"w": torch.randn(64, 64, dtype=torch.float64) * 0.02}
    save_file(wide, work / "in.safetensors")
    nibble(
        "quantize", work / "in.safetensors", "-o", work / "out.safetensors", "--bnb-rules", "cpu", "--tensor", ".*=nf4")
    narrow = wide["w"].float()
    assert_packed_alike(
        packed_tensors(load_file(work / "out.safetensors"))["w"], by_bitsandbytes(narrow),
        by_bitsandbytes(narrow, double=False).absmax)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_relative_error_is_what_bitsandbytes_has(nibble, work, quant_type, double):
    """The error `quantize` and `diff` report is that of the library's codes under the definition."""
    tensors = {"a.weight": torch.randn(300, 500) * 0.02, "b.weight": torch.randn(64, 172).to(torch.bfloat16)}
    save_file(tensors, work / "in.safetensors")
    report = nibble.json(
        "quantize", work / "in.safetensors", "-o", work / "out.nbl", "--bnb-rules", "cpu", "--codec", quant_type,
        "--double-quant" if double else "--no-double-quant")
    diff = nibble.json("diff", work / "in.safetensors", work / "out.nbl")
    said = {entry["name"]: entry["relative_error"] for entry in report["tensors"]}
    measured = {entry["name"]: entry["relative_rms"] for entry in diff["changed"]}
    for name, tensor in tensors.items():
        exact = tensor.double()
        error = by_bitsandbytes(tensor, quant_type=quant_type, double=double).dequantized(torch.float32).double() - exact
        before_rounding = float(error.norm() / exact.norm())
        assert said[name] == pytest.approx(before_rounding, rel=1e-4)
        assert measured[name] == pytest.approx(before_rounding, rel=1e-4)


def best_error(weight, quant_map, signs):
    """The squared error of `weight` in blocks of 64 under the best of many scales, none of them coded."""
    blocks = weight.reshape(-1, 64)
    middle = (quant_map[1:] + quant_map[:-1]) / 2
    least = torch.full(blocks.shape[:1], torch.inf)
    for ratio in torch.linspace(0.5, 1.5, 201):
        for sign in signs:
            scale = sign * ratio * blocks.abs().amax(1, keepdim=True)
            values = quant_map[torch.bucketize(blocks / scale, middle)]
            # Under these codes the best scale is the least squares one.
            fit = (blocks * values).sum(1, keepdim=True) / (values * values).sum(1, keepdim=True)
            least = torch.minimum(least, ((blocks - fit * values) ** 2).sum(1))
    return float(least.sum())


@pytest.mark.parametrize("encoder, signs, limit", [("mse", (1,), 0.0853), ("mse-signed", (1, -1), 0.0830)])
def test_searched_scales_are_nearly_the_best_there_are(nibble, work, encoder, signs, limit):
    weight = torch.randn(512, 1024) * 0.02
    save_file({"w.weight": weight}, work / "in.safetensors")
    nibble("quantize", work / "in.safetensors", "-o", work / "out.safetensors", "--encoder", encoder)
    packed = packed_tensors(load_file(work / "out.safetensors"))["w.weight"]
    error = float(((packed.dequantized(torch.float32) - weight) ** 2).sum())
    assert (error / float((weight**2).sum())) ** 0.5 <= limit
    # Scales are coded to 8 bits, which costs a little of it.
    best = best_error(weight, packed.quant_map, signs)
    # The bound is one of float32 sums.
    assert 0.9999 * best <= error <= 1.01 * best
    assert bool((packed.scales() < 0).any()) == (encoder == "mse-signed")


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bitsandbytes_decodes_scales_of_either_sign_as_nibble_does(nibble, work, dtype, quant_type, double):
    """The library itself, from the file's own parts. Rows are multiples of the block, where its CPU code is right."""
    weight = (torch.randn(96, 4096) * 0.02).to(DTYPES[dtype])
    save_file({"w.weight": weight}, work / "in.safetensors")
    for block_size in BLOCK_SIZES:
        nibble(
            "quantize", work / "in.safetensors", "-o", work / "out.safetensors", "--force", "--encoder", "mse-signed", "--codec",
            quant_type, "--block-size", block_size, "--double-quant" if double else "--no-double-quant")
        nibble("dequantize", work / "out.safetensors", "-o", work / "plain.safetensors", "--force")
        tensors = load_file(work / "out.safetensors")
        scales = packed_tensors(tensors)["w.weight"].scales()
        assert bool((scales < 0).any()) == (quant_type == "nf4")
        parts = {name.removeprefix("w.weight."): part for name, part in tensors.items() if name != "w.weight"}
        state = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
        theirs, ours = functional.dequantize_4bit(tensors["w.weight"], state), load_file(work / "plain.safetensors")["w.weight"]
        # Its code for processors without AVX-512 decodes fp4's second zero as −0.
        assert same_bits(theirs + 0.0, ours + 0.0) if quant_type == "fp4" else same_bits(theirs, ours), f"block {block_size}"
