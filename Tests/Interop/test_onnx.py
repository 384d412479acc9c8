"""Weights for ONNX Runtime: codes are bitsandbytes' byte for byte, and MatMulBnb4 gives what nibble's own values give."""
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file

from models import make, small_config


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(3)
    config = small_config("llama", hidden_size=128, intermediate_size=320, head_dim=32, tie_word_embeddings=False)
    make(transformers.LlamaForCausalLM, config, torch.float16).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("options", [(), ("--codec", "fp4", "--block-size", "32"), ("--no-double-quant", "--block-size", "256"), ("--encoder", "mse-signed")])
def test_layers_run(nibble, source, tmp_path, options):
    block, folder, plain = tmp_path / "model.nbl", tmp_path / "onnx", tmp_path / "plain"
    nibble("quantize", source, "-o", block, "-q", *options)
    nibble("convert", block, "-o", folder, "--format", "onnx", "-q")
    nibble("quantize", source, "-o", tmp_path / "bnb", "--format", "bnb", "-q", *options)
    nibble("dequantize", block, "-o", plain, "--dtype", "fp32", "-q")
    codes, values = load_file(tmp_path / "bnb" / "model.safetensors"), load_file(plain / "model.safetensors")
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(str(folder / "model.onnx"))
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert len(model.graph.node) == 14 and {node.op_type for node in model.graph.node} == {"MatMulBnb4"}
    random = np.random.default_rng(4)
    for node in model.graph.node:
        layer = node.name
        assert (held[layer + ".weight"] == codes[layer + ".weight"].numpy().reshape(-1)).all()
        one = tmp_path / "one.onnx"
        onnx.utils.extract_model(str(folder / "model.onnx"), str(one), [layer + ".input"], [layer + ".output"])
        weight = values[layer + ".weight"].numpy()
        x = random.standard_normal((3, weight.shape[1])).astype(np.float32)
        found = onnxruntime.InferenceSession(str(one)).run(None, {layer + ".input": x})[0]
        wanted = x.astype(np.float64) @ weight.astype(np.float64).T
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    embedding = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    assert (held["model.embed_tokens.weight"] == embedding.numpy()).all()


@pytest.mark.parametrize("options, why", [
    (("--codec", "int8"), "int8"), (("--codec", "int4", "--group-size", "32"), "int4"), (("--block-size", "512"), "blocks of 512"),
])
def test_other_codecs_are_refused(nibble, source, tmp_path, options, why):
    result = nibble("quantize", source, "-o", tmp_path / "onnx", "--format", "onnx", *options, exits=2)
    assert why in result.stderr and not (tmp_path / "onnx").exists()
