"""LLM.int8: folders that transformers and bitsandbytes make and folders that nibble makes are the same, both ways."""
import json

import bitsandbytes.functional as functional
import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from models import answer, load, make, raw_bytes_of, small_config, tensors_of
from safetensors.torch import save_file
from transformers import (
    BertModel, BitsAndBytesConfig, GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, RobertaForSequenceClassification)

MODELS = {
    "llama, tied": (LlamaForCausalLM, "llama", torch.bfloat16, {"tie_word_embeddings": True}),
    "llama, untied": (LlamaForCausalLM, "llama", torch.float16, {"tie_word_embeddings": False}),
    "llama, biases": (LlamaForCausalLM, "llama", torch.float32, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2ForCausalLM, "qwen2", torch.bfloat16, {}),
    "gpt2": (GPT2LMHeadModel, "gpt2", torch.float16, {}),
    "bert": (BertModel, "bert", torch.float32, {}),
    "roberta, classifier": (RobertaForSequenceClassification, "roberta", torch.float32, {}),
}


@pytest.fixture(params=MODELS)
def model(request, work):
    """A model in `work / 'source'`, and what the libraries make of it in `work / 'theirs'`."""
    model_class, model_type, dtype, changes = MODELS[request.param]
    make(model_class, small_config(model_type, **changes), dtype).save_pretrained(work / "source")
    model_class.from_pretrained(
        work / "source", device_map={"": "cpu"}, dtype="auto", quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    ).save_pretrained(work / "theirs")
    return model_class, dtype


def config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("shards", [[], ["--max-shard-size", "40KB"]], ids=["one file", "shards"])
def test_nibble_makes_the_folder_the_libraries_make(nibble, work, model, shards):
    model_class, _ = model
    nibble("quantize", work / "source", "-o", work / "ours", "--codec", "int8", "--format", "bnb", *shards)
    assert raw_bytes_of(work / "ours") == raw_bytes_of(work / "theirs")
    assert config(work / "ours") == config(work / "theirs")
    assert len(list((work / "ours").glob("*.safetensors"))) == 1 or shards
    ours, theirs = load(work / "ours", model_class), load(work / "theirs", model_class)
    assert any(isinstance(layer, Linear8bitLt) for layer in ours.modules())
    assert answer(ours).equal(answer(theirs))


def test_what_the_libraries_made_comes_back_byte_for_byte(nibble, work, model):
    nibble("convert", work / "theirs", "-o", work / "a.nbl")
    nibble("convert", work / "a.nbl", "-o", work / "back", "--format", "bnb")
    assert raw_bytes_of(work / "back") == raw_bytes_of(work / "theirs")
    assert config(work / "back") == config(work / "theirs")
    nibble("convert", work / "back", "-o", work / "b.nbl")
    assert (work / "a.nbl").read_bytes() == (work / "b.nbl").read_bytes()


def test_values_are_those_of_the_library(nibble, work, model):
    model_class, dtype = model
    nibble("dequantize", work / "theirs", "-o", work / "plain")
    packed, plain = tensors_of(work / "theirs"), tensors_of(work / "plain")
    seen = 0
    for name, tensor in plain.items():
        scales = packed.get(name.removesuffix(".weight") + ".SCB")
        if scales is None:
            assert tensor.equal(packed[name])
            continue
        expected = functional.int8_vectorwise_dequant(packed[name], scales)
        expected = expected.T if model_class is GPT2LMHeadModel else expected
        assert tensor.dtype == dtype
        # One rounding less or more of a product of three.
        torch.testing.assert_close(tensor.float(), expected.to(dtype).float(), rtol={
            torch.float32: 3e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype], atol=0)
        seen += 1
    assert seen == sum(name.endswith(".SCB") for name in packed) > 0


def test_a_type_that_the_configuration_does_not_tell_comes_back(nibble, work):
    save_file({"a.weight": torch.randn(5, 32), "b.weight": torch.randn(6, 32).bfloat16()}, work / "mixed.safetensors")
    nibble("quantize", work / "mixed.safetensors", "-o", work / "a.nbl", "--codec", "int8")
    nibble("convert", work / "a.nbl", "-o", work / "mixed-8.safetensors", "--format", "bnb")
    nibble("convert", work / "mixed-8.safetensors", "-o", work / "b.nbl")
    assert (work / "a.nbl").read_bytes() == (work / "b.nbl").read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_codes_are_those_of_the_library(nibble, work, seed):
    """On a coarse grid, where many values lie half way between two codes, and on one of everything float16 holds."""
    random = torch.Generator().manual_seed(seed)
    grid = torch.randint(-254, 255, (400, 320), generator=random).float() / 254 * 2.0 ** torch.randint(-9, 9, (400, 1), generator=random)
    halves = torch.randint(0, 65536, (300, 70), generator=random).to(torch.uint16).view(torch.float16)
    weights = {
        "grid.weight": grid, "short.weight": grid.bfloat16(), "normal.weight": torch.randn(500, 333, generator=random),
        "halves.weight": torch.where(halves.isfinite(), halves, 0)}
    save_file(weights, work / "weights.safetensors")
    (work / "out").mkdir()
    nibble("quantize", work / "weights.safetensors", "-o", work / "out" / "codes.safetensors", "--codec", "int8", "--format", "bnb")
    found = {name: (shape, data) for name, (_, shape, data) in raw_bytes_of(work / "out").items()}
    for name, weight in weights.items():
        codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
        assert found[name] == (list(weight.shape), codes.numpy().tobytes())
        assert found[name.removesuffix("weight") + "SCB"] == ([len(weight)], scales.numpy().tobytes())
