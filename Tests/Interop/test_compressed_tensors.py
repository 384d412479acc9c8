"""Folders in compressed-tensors' layout: transformers loads what nibble writes, and nibble reads what the library writes."""
import json

import pytest
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors.torch import load_file, save_file

from models import make, small_config

MODELS = [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("mistral", "MistralForCausalLM")]
IDS = torch.tensor([[5, 6, 7, 8, 20, 33, 2, 9]])


@pytest.fixture
def source(request, tmp_path):
    """A tiny model's folder."""
    torch.manual_seed(3)
    (model_type, name), dtype = request.param
    # Rows of 128 and 256: a group of 128 divides both.
    config = small_config(model_type, hidden_size=128, intermediate_size=256, head_dim=32, tie_word_embeddings=model_type == "qwen2")
    make(getattr(transformers, name), config, dtype).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        return model, model(IDS).logits.float()


def ours(nibble, folder, tmp_path):
    save_file({"input_ids": IDS}, tmp_path / "ids.safetensors")
    nibble("forward", "--base", folder, "--ids", tmp_path / "ids.safetensors", "-o", tmp_path / "logits.safetensors", "-q")
    return load_file(tmp_path / "logits.safetensors")["logits"].float()


@pytest.mark.parametrize("source", [(one, torch.float32) for one in MODELS] + [(MODELS[0], torch.bfloat16)], indirect=True)
@pytest.mark.parametrize("options", [
    (), ("--group-size", "32", "--encoder", "absmax"), ("--group-size", "row"), ("--calibration", "ids.jsonl"),
    ("--calibration", "ids.jsonl", "--encoder", "gptq", "--group-size", "32")])
def test_transformers_loads_it(nibble, source, tmp_path, options):
    folder = tmp_path / "packed"
    rows = [{"input_ids": torch.randint(3, 40, (32,)).tolist()} for _ in range(20)]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [tmp_path / one if one.endswith(".jsonl") else one for one in options]
    nibble("quantize", source, "-o", folder, "--format", "compressed-tensors", "-q", *options)
    nibble("dequantize", folder, "-o", tmp_path / "plain", "-q")
    model, theirs = logits(folder)
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    layers = [name for name in plain if name.endswith("proj.weight")]
    assert len(layers) == 14
    for name in layers:
        weight = model.get_parameter(name)
        # The library multiplies in the scales' type: values are those, to the bit.
        assert torch.equal(weight.float(), plain[name].to(weight.dtype).float()), name
    tolerance = 1e-5 if model.dtype == torch.float32 else 0.1
    found = ours(nibble, folder, tmp_path)
    assert (theirs - found.view_as(theirs)).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("source", [(MODELS[0], torch.bfloat16)], indirect=True)
@pytest.mark.parametrize("group", [32, 128])
def test_it_reads_what_the_library_writes(nibble, source, tmp_path, group):
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    config = QuantizationConfig(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"], format="pack-quantized")
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.detach().float().view(module.weight.shape[0], -1, group)
            module.weight_scale.data = (groups.abs().amax(-1) / 7.5).to(module.weight_scale.dtype)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "theirs.safetensors",
              {"format": "pt"})
    nibble("dequantize", tmp_path / "theirs.safetensors", "-o", tmp_path / "plain.safetensors", "-q")
    found = load_file(tmp_path / "plain.safetensors")
    compressor.decompress_model(model)
    for name, value in model.state_dict().items():
        if name.endswith("proj.weight"):
            assert torch.equal(found[name].float(), value.float()), name


@pytest.mark.parametrize("source", [(MODELS[0], torch.float32)], indirect=True)
def test_its_configuration_says_what_is_packed(nibble, source, tmp_path):
    folder = tmp_path / "packed"
    nibble("quantize", source, "-o", folder, "--format", "compressed-tensors", "--keep", "down_proj", "-q")
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "compressed-tensors" and said["format"] == "pack-quantized"
    assert said["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert {"lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"} <= set(said["ignore"])
    model, _ = logits(folder)
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight,
                       load_file(source / "model.safetensors")["model.layers.0.mlp.down_proj.weight"])
