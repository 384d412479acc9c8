"""MXFP4 and FP8 checkpoints: every value is the one transformers makes of it, and the folders run, pack anew, and are refused where they do not fit."""
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from models import make, small_config

IDS = torch.tensor([[5, 6, 7, 8, 20, 33, 2, 9, 11, 4]])


def write(folder, config, tensors, **quantization):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**json.loads(config.to_json_string()), "quantization_config": quantization}))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def mxfp4(folder, change=lambda tensors: None, **changes):
    """A tiny gpt-oss whose experts are in MXFP4, as the published ones are."""
    torch.manual_seed(4)
    config = small_config("gpt_oss", num_local_experts=3, num_experts_per_tok=2, intermediate_size=96, dtype="bfloat16", **changes)
    model = make(transformers.GptOssForCausalLM, config, torch.bfloat16)
    config.architectures = ["GptOssForCausalLM"]
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = value.shape
            tensors[name + "_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            tensors[name + "_scales"] = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
        else:
            tensors[name] = value.contiguous()
    change(tensors)
    return write(folder, config, tensors, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router"])


def fp8(folder, change=lambda tensors: None, tile=(128, 128), scale_name="weight_scale_inv", scales=None, **quantization):
    """A tiny Qwen3 whose linear layers are in FP8."""
    torch.manual_seed(5)
    config = small_config("qwen3", hidden_size=128, intermediate_size=256, head_dim=32, dtype="bfloat16")
    model = make(transformers.Qwen3ForCausalLM, config, torch.bfloat16)
    config.architectures = ["Qwen3ForCausalLM"]
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        rows, columns = tensors[name].shape
        tensors[name] = (torch.randn(rows, columns) * 60).clamp(-448, 448).to(torch.float8_e4m3fn)
        grid = scales(rows, columns) if scales else (-(-rows // tile[0]), -(-columns // tile[1]))
        tensors[name.replace("weight", scale_name)] = torch.rand(grid) * 1e-3 + 1e-5
    change(tensors)
    return write(folder, config, tensors, **(quantization or {"quant_method": "fp8", "weight_block_size": list(tile), "activation_scheme": "dynamic"}))


def ours(nibble, base, tmp_path):
    save_file({"input_ids": IDS}, tmp_path / "ids.safetensors")
    nibble("forward", "--base", base, "--ids", tmp_path / "ids.safetensors", "-o", tmp_path / "logits.safetensors", "-q", "--force")
    return load_file(tmp_path / "logits.safetensors")["logits"].float()


def theirs(folder, **options):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", **options)
    with torch.no_grad():
        return model.eval()(IDS).logits


def close(one, other):
    assert (one - other).abs().max() <= 2e-5 * other.abs().max()


def test_mxfp4_is_what_transformers_makes_of_it(nibble, tmp_path):
    def every(tensors):
        # Every code, every scale but NaN, those among them whose products no bfloat16 has but as zero or infinity.
        blocks = tensors["model.layers.0.mlp.experts.down_proj_blocks"]
        blocks.view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
        scales = tensors["model.layers.0.mlp.experts.down_proj_scales"]
        scales.view(-1)[:250] = torch.arange(2, 252).to(torch.uint8)[: scales.numel()]

    source = mxfp4(tmp_path / "source", every)
    nibble("dequantize", source, "-o", tmp_path / "plain", "-q")
    read, stored = load_file(tmp_path / "plain" / "model.safetensors"), load_file(source / "model.safetensors")
    packed = [name.removesuffix("_blocks") for name in stored if name.endswith("_blocks")]
    assert len(packed) == 4
    for name in packed:
        expected = convert_moe_packed_tensors(stored[name + "_blocks"], stored[name + "_scales"], dtype=torch.bfloat16)
        assert read[name].dtype == torch.bfloat16
        assert torch.equal(read[name].view(torch.int16), expected.view(torch.int16)), name
    assert set(read) == {name for name in stored if not name.endswith(("_blocks", "_scales"))} | set(packed)
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_mxfp4_runs_packs_and_is_verified(nibble, tmp_path):
    source = mxfp4(tmp_path / "source")
    nibble("dequantize", source, "-o", tmp_path / "plain", "-q")
    expected = theirs(tmp_path / "plain")
    close(theirs(source), expected)
    close(ours(nibble, source, tmp_path), expected)
    close(ours(nibble, tmp_path / "plain", tmp_path), expected)
    nibble("verify", source)
    assert "mxfp4" in nibble("inspect", source).stdout
    packed = nibble("quantize", source, "-o", tmp_path / "packed.nbl")
    assert "12 of them a second time" in packed.stderr
    nibble("quantize", tmp_path / "plain", "-o", tmp_path / "same.nbl", "-q")
    assert torch.equal(ours(nibble, tmp_path / "packed.nbl", tmp_path), ours(nibble, tmp_path / "same.nbl", tmp_path))
    nibble("convert", source, "-o", tmp_path / "whole.nbl", "-q")
    close(ours(nibble, tmp_path / "whole.nbl", tmp_path), expected)
    nibble("diff", source, tmp_path / "plain")


TILES = [(128, 128), (64, 32), (100, 48)]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_fp8_is_what_transformers_makes_of_it(nibble, tmp_path, tile):
    def every(tensors):
        codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
        weight = tensors["model.layers.0.mlp.down_proj.weight"]
        weight.view(torch.uint8).view(-1)[:256] = torch.where(codes.float().isnan(), torch.zeros((), dtype=torch.uint8), codes.view(torch.uint8))

    source = fp8(tmp_path / "source", every, tile)
    nibble("dequantize", source, "-o", tmp_path / "plain", "-q")
    read, stored = load_file(tmp_path / "plain" / "model.safetensors"), load_file(source / "model.safetensors")
    for name in [name for name in stored if name.endswith("_inv")]:
        weight = name.removesuffix("_scale_inv")
        rows, columns = stored[weight].shape
        if rows % tile[0] == 0 and columns % tile[1] == 0:
            expected = Fp8Dequantize(None)._dequantize_one(stored[weight], stored[name], torch.bfloat16)
        else:
            # transformers refuses tiles that are cut off at an edge.
            whole = stored[name].repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[:rows, :columns]
            expected = (stored[weight].float() * whole).bfloat16()
        assert torch.equal(read[weight].view(torch.int16), expected.view(torch.int16)), weight
    close(ours(nibble, tmp_path / "plain", tmp_path), theirs(tmp_path / "plain"))


def test_fp8_runs_in_float32_and_packs(nibble, tmp_path):
    source = fp8(tmp_path / "source")
    nibble("dequantize", source, "-o", tmp_path / "plain", "--dtype", "fp32", "-q")
    expected = theirs(tmp_path / "plain")
    close(ours(nibble, source, tmp_path), expected)
    packed = nibble("quantize", source, "-o", tmp_path / "packed.nbl")
    assert "14 of them a second time" in packed.stderr
    nibble("quantize", tmp_path / "plain", "-o", tmp_path / "same.nbl", "-q")
    close(ours(nibble, tmp_path / "packed.nbl", tmp_path), ours(nibble, tmp_path / "same.nbl", tmp_path))
    nibble("verify", source)


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_compressed_fp8_is_what_the_library_makes_of_it(nibble, tmp_path, strategy):
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    grids = {"tensor": lambda rows, columns: (1,), "channel": lambda rows, columns: (rows, 1), "block": None}
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False}
    if strategy == "block":
        weights["block_structure"] = [64, 32]
    settings = {
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}

    def narrow(tensors):
        for name in [name for name in tensors if name.endswith("_scale")]:
            tensors[name] = tensors[name].bfloat16()

    source = fp8(tmp_path / "source", narrow, (64, 32), "weight_scale", grids[strategy], **settings)
    nibble("dequantize", source, "-o", tmp_path / "plain", "-q")
    read, stored = load_file(tmp_path / "plain" / "model.safetensors"), load_file(source / "model.safetensors")
    for name in [name for name in stored if name.endswith("_scale")]:
        weight = name.removesuffix("_scale")
        expected = dequantize(stored[weight], stored[name], args=QuantizationArgs(**weights))
        assert torch.equal(read[weight].view(torch.int16), expected.bfloat16().view(torch.int16)), weight


BLOCKS, SCALES = "model.layers.1.mlp.experts.down_proj_blocks", "model.layers.1.mlp.experts.down_proj_scales"
WEIGHT, INVERSE = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight_scale_inv"


@pytest.mark.parametrize("change, expected", [
    (lambda t: t.pop(SCALES), "its scales, 'model.layers.1.mlp.experts.down_proj_scales', are missing"),
    (lambda t: t.pop(BLOCKS), "the blocks it belongs to are missing"),
    (lambda t: t.update({SCALES: t[SCALES][:, :-1].contiguous()}), "its scales are U8 of shape"),
    (lambda t: t.update({BLOCKS: t[BLOCKS][..., :8].contiguous()}), "expected U8 of [experts, outputs, blocks, 16]"),
    (lambda t: t.update({BLOCKS: t[BLOCKS].to(torch.int16)}), "expected U8 of [experts, outputs, blocks, 16]"),
])
def test_broken_mxfp4_is_refused(nibble, tmp_path, change, expected):
    source = mxfp4(tmp_path / "source", change)
    for verb in ("inspect", "verify"):
        failed = nibble(verb, source, exits=3)
        assert expected in failed.stderr and len(failed.stderr.splitlines()) == 1 and str(source) in failed.stderr


@pytest.mark.parametrize("change, expected", [
    (lambda t: t.pop(INVERSE), "are missing"), (lambda t: t.pop(WEIGHT), "its weight is missing"),
    (lambda t: t.update({INVERSE: torch.ones(1, 1)}), "expected F32 of shape [2, 1]"),
    (lambda t: t.update({WEIGHT: t[WEIGHT].bfloat16()}), "expected F8_E4M3 of two dimensions"),
    # Stacked experts, whose scales would be lost.
    (lambda t: t.update({"model.layers.0.mlp.experts.up": torch.ones(2, 4, 8).to(torch.float8_e4m3fn)}), "no weight of a linear layer with its scales"),
    (lambda t: t.update({"model.layers.0.mlp.experts.up_scale_inv": torch.ones(2, 1, 1)}), "no weight of a linear layer with its scales"),
])
def test_broken_fp8_is_refused(nibble, tmp_path, change, expected):
    source = fp8(tmp_path / "source", change)
    failed = nibble("verify", source, exits=3)
    assert expected in failed.stderr and len(failed.stderr.splitlines()) == 1 and str(source) in failed.stderr


@pytest.mark.parametrize("key, value", [
    ("transform_config", {"config_groups": {"R1": {"type": "hadamard", "apply": []}}}), ("sparsity_config", {"format": "sparse-24-bitmask"})])
def test_weights_that_are_not_the_stored_ones_are_refused(nibble, tmp_path, key, value):
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    settings = {
        "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, key: value}
    source = fp8(tmp_path / "source", lambda tensors: None, (64, 32), "weight_scale", lambda rows, columns: (1,), **settings)
    failed = nibble("verify", source, exits=3)
    assert f"quantization_config: {key} = " in failed.stderr and len(failed.stderr.splitlines()) == 1


def nan_scale(tensors):
    tensors[SCALES][0, 0, 0] = 255


def nan_code(tensors):
    tensors[WEIGHT].view(torch.uint8)[0, 0] = 0x7F


@pytest.mark.parametrize("make_source, change, count", [(mxfp4, nan_scale, 32), (fp8, nan_code, 1)])
def test_nan_is_counted_and_not_packed(nibble, tmp_path, make_source, change, count):
    source = make_source(tmp_path / "source", change)
    assert f"{count} NaN or infinite values in 1 tensors" in nibble("verify", source, exits=6).stderr
    failed = nibble("quantize", source, "-o", tmp_path / "out.nbl", exits=6)
    assert "NaN" in failed.stderr and not (tmp_path / "out.nbl").exists()


def test_unknown_methods_are_refused_by_name(nibble, tmp_path):
    source = fp8(tmp_path / "source", quant_method="fbgemm_fp8", activation_scheme="dynamic")
    failed = nibble("quantize", source, "-o", tmp_path / "out.nbl", exits=3)
    assert "quantized with 'fbgemm_fp8', which nibble does not read" in failed.stderr
