"""A folder written with `--format bnb` loads in transformers on a CPU and computes what its dequantized twin computes;
a checkpoint transformers and bitsandbytes made themselves comes back from a block file byte for byte.

Rows are multiples of the block here (K % 64 == 0): the library's own AVX-512 dequantizer is wrong where they are not.
"""
import json

import pytest
import torch
from models import (
    answer, assert_packed_answers_like_plain, linear4bit, load, make, metadata_of, raw_bytes_of, small_config, tensors_of)
from reference import assert_packed_alike, by_bitsandbytes, packed_tensors, parts_of, same_bits
from transformers import (
    AutoModelForCausalLM, BertForMaskedLM, BertModel, BitsAndBytesConfig, GPT2LMHeadModel, LlamaForCausalLM,
    Qwen2ForCausalLM, RobertaForMaskedLM, RobertaForSequenceClassification)

MODELS = {
    "llama, tied": (LlamaForCausalLM, "llama", torch.float32, {"tie_word_embeddings": True}),
    "llama, untied": (LlamaForCausalLM, "llama", torch.float32, {"tie_word_embeddings": False}),
    "llama, bfloat16": (LlamaForCausalLM, "llama", torch.bfloat16, {"tie_word_embeddings": False}),
    "llama, float16": (LlamaForCausalLM, "llama", torch.float16, {}),
    "llama, biases": (LlamaForCausalLM, "llama", torch.float32, {"attention_bias": True, "mlp_bias": True}),
    "qwen2, tied, bfloat16": (Qwen2ForCausalLM, "qwen2", torch.bfloat16, {"tie_word_embeddings": True}),
    "gpt2": (GPT2LMHeadModel, "gpt2", torch.float32, {}),
    "gpt2, bfloat16": (GPT2LMHeadModel, "gpt2", torch.bfloat16, {}),
    "bert": (BertModel, "bert", torch.float32, {}),
    "bert, masked": (BertForMaskedLM, "bert", torch.float32, {}),
    "roberta, masked": (RobertaForMaskedLM, "roberta", torch.float32, {}),
    "roberta, classifier": (RobertaForSequenceClassification, "roberta", torch.float32, {}),
}


@pytest.fixture
def saved(work):
    """Makes a model, saves it in `work / 'source'` and returns its class."""

    def save(name, **options):
        model_class, model_type, dtype, changes = MODELS[name]
        make(model_class, small_config(model_type, **changes), dtype).save_pretrained(work / "source", **options)
        return model_class

    return save


PACKINGS = {
    "default": [], "fp4": ["--no-double-quant", "--codec", "fp4", "--block-size", "32"], "mse": ["--encoder", "mse"],
    "signed": ["--encoder", "mse-signed"], "signed, single": ["--encoder", "mse-signed", "--no-double-quant"],
}


@pytest.mark.parametrize("options", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("name", MODELS)
def test_packed_folder_answers_like_its_dequantized_twin(nibble, work, saved, name, options):
    model_class = saved(name)
    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb", *options)
    nibble("dequantize", work / "packed", "-o", work / "plain")
    assert_packed_answers_like_plain(work / "packed", work / "plain", model_class)
    original = load(work / "source", model_class)
    for loaded, kept in zip(load(work / "plain", model_class).named_parameters(), original.named_parameters()):
        assert (loaded[0], loaded[1].dtype, loaded[1].shape) == (kept[0], kept[1].dtype, kept[1].shape)


def test_the_bundled_model(nibble, work, stories):
    nibble("quantize", stories, "-o", work / "packed", "--format", "bnb", "--bnb-rules", "cpu")
    nibble("dequantize", work / "packed", "-o", work / "plain")
    layers = assert_packed_answers_like_plain(work / "packed", work / "plain", AutoModelForCausalLM)
    assert len(layers) == 35
    # It is still a model: 4 bits moved its answers, but not far.
    kept, packed = answer(load(stories, AutoModelForCausalLM)), answer(load(work / "packed", AutoModelForCausalLM))
    assert 1e-3 < float((packed - kept).norm() / kept.norm()) < 0.3


@pytest.mark.parametrize("name", ["llama, untied", "gpt2", "roberta, classifier"])
def test_shards_in_shards_out(nibble, work, saved, name):
    model_class = saved(name, max_shard_size="100KB")
    assert len(list((work / "source").glob("model-*.safetensors"))) > 2
    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb", "--max-shard-size", "30KB")
    nibble("dequantize", work / "packed", "-o", work / "plain", "--max-shard-size", "90KB")
    for folder in ("packed", "plain"):
        assert len(list((work / folder).glob("model-*.safetensors"))) > 2
    assert_packed_answers_like_plain(work / "packed", work / "plain", model_class)
    nibble("quantize", work / "source", "-o", work / "whole", "--format", "bnb")
    whole, sharded = raw_bytes_of(work / "whole"), raw_bytes_of(work / "packed")
    assert whole == sharded, "sharding changed a tensor"


CHOICES = {
    "head packed": ("llama, untied", ["--tensor", "lm_head=nf4"], {"lm_head"}, set()),
    "one layer kept": ("llama, tied", ["--keep", r"layers\.1\."], set(), {"model.layers.1."}),
    "one kind kept": ("llama, untied", ["--keep", "down_proj"], set(), {"down_proj"}),
    "one weight packed": (
        "llama, tied", ["--tensor", r"layers\.0\.mlp\.up_proj=nf4", "--keep", "."], {"model.layers.0.mlp.up_proj"},
        {"down_proj"}),
    "gpt2, one layer kept": ("gpt2", ["--keep", r"h\.0\."], set(), {"h.0."}),
    "gpt2, one kind kept": ("gpt2", ["--keep", r"attn\.c_proj"], set(), {"attn.c_proj"}),
    "bert, pooler kept": ("bert", ["--keep", "pooler"], set(), {"pooler"}),
    "bert masked, layer kept": ("bert, masked", ["--keep", r"layer\.0\."], {"cls.predictions.transform.dense"}, {"layer.0."}),
    "roberta masked, layer kept": ("roberta, masked", ["--keep", r"layer\.0\."], {"lm_head.dense"}, {"layer.0."}),
    "roberta, classifier kept": ("roberta, classifier", ["--keep", "classifier"], set(), {"classifier"}),
    "roberta, head out kept": (
        "roberta, classifier", ["--keep", r"classifier\.out_proj"], {"classifier.dense"}, {"classifier.out_proj"}),
    "blocks of different sizes": ("llama, untied", ["--tensor", "mlp=nf4:block=32"], set(), set()),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_that_are_not_transformers_own_still_load(nibble, work, saved, choice):
    name, options, packed, kept = CHOICES[choice]
    model_class = saved(name)
    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb", *options)
    nibble("dequantize", work / "packed", "-o", work / "plain")
    layers = assert_packed_answers_like_plain(work / "packed", work / "plain", model_class)
    assert packed <= layers
    assert not [layer for layer in layers for part in kept if part in layer + "."]


MADE = {
    "llama nf4 double": ("llama, untied", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "llama nf4 single": ("llama, tied", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False}),
    "llama fp4 double": ("llama, bfloat16", {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True}),
    "llama fp4 single": ("llama, float16", {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False}),
    "gpt2 nf4 double": ("gpt2", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "roberta nf4 double": ("roberta, classifier", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "stored as bfloat16": (
        "llama, bfloat16",
        {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": torch.bfloat16}),
    "head skipped by list": (
        "llama, untied", {"bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["lm_head", "model.layers.0"]}),
}


@pytest.mark.parametrize("case", MADE)
def test_what_the_library_made_comes_back_byte_for_byte(nibble, work, saved, case):
    name, settings = MADE[case]
    model_class = saved(name)
    quantized = model_class.from_pretrained(
        work / "source", device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=MODELS[name][2], **settings))
    assert linear4bit(quantized)
    quantized.save_pretrained(work / "theirs")

    nibble("convert", work / "theirs", "-o", work / "a.nbl", "--format", "nbl")
    nibble("verify", work / "a.nbl")
    nibble("convert", work / "a.nbl", "-o", work / "back", "--format", "bnb")
    assert raw_bytes_of(work / "back") == raw_bytes_of(work / "theirs")
    assert json.loads((work / "back" / "config.json").read_text()) == json.loads((work / "theirs" / "config.json").read_text())
    assert answer(load(work / "back", model_class)).equal(answer(load(work / "theirs", model_class)))
    nibble("convert", work / "back", "-o", work / "b.nbl", "--format", "nbl")
    assert (work / "a.nbl").read_bytes() == (work / "b.nbl").read_bytes()

    nibble("dequantize", work / "theirs", "-o", work / "plain")
    assert_packed_answers_like_plain(work / "theirs", work / "plain", model_class)


@pytest.mark.parametrize("case", [case for case in MADE if "stored" not in case and "skipped" not in case])
def test_nibble_makes_the_checkpoint_the_library_makes(nibble, work, saved, case):
    """Same tensors by name, type, shape and bytes, but for the last bit of each offset and what follows from it."""
    name, settings = MADE[case]
    model_class = saved(name)
    model_class.from_pretrained(
        work / "source", device_map={"": "cpu"},
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=MODELS[name][2], **settings),
    ).save_pretrained(work / "theirs")
    double = settings["bnb_4bit_use_double_quant"]
    nibble(
        "quantize", work / "source", "-o", work / "ours", "--format", "bnb", "--bnb-rules", "cpu",
        "--codec", settings["bnb_4bit_quant_type"], "--double-quant" if double else "--no-double-quant")
    source, ours, theirs = (tensors_of(work / folder) for folder in ("source", "ours", "theirs"))
    assert ours.keys() == theirs.keys()
    packed, expected = packed_tensors(ours), packed_tensors(theirs)
    assert packed.keys() == expected.keys()
    parts = set()
    for name, tensor in packed.items():
        # GPT-2 keeps its weights [in, out]; they are turned before they are packed.
        weight = source[name].T if model_class is GPT2LMHeadModel else source[name]
        scales = by_bitsandbytes(weight, quant_type=settings["bnb_4bit_quant_type"], double=False).absmax
        assert_packed_alike(tensor, expected[name], scales)
        parts |= parts_of(name, tensor)
    for name in ours.keys() - parts:
        assert same_bits(ours[name], theirs[name]), f"{name} differs"
    ours, theirs = (json.loads((work / folder / "config.json").read_text()) for folder in ("ours", "theirs"))
    assert ours == theirs, "config.json differs"


@pytest.mark.parametrize(
    "options", [[], ["--no-double-quant"], ["--codec", "fp4"], ["--encoder", "mse-signed"], ["--keep", r"\.0\."]], ids=" ".join)
@pytest.mark.parametrize("name", ["llama, untied", "gpt2", "llama, bfloat16"])
def test_block_file_to_bitsandbytes_and_back_is_the_same_file(nibble, work, saved, name, options):
    saved(name, max_shard_size="100KB")
    nibble("quantize", work / "source", "-o", work / "a.nbl", *options)
    for folder, words in (("whole", []), ("shards", ["--max-shard-size", "50KB"])):
        nibble("convert", work / "a.nbl", "-o", work / folder, "--format", "bnb", *words)
        nibble("convert", work / folder, "-o", work / f"{folder}.nbl", "--format", "nbl")
        assert (work / f"{folder}.nbl").read_bytes() == (work / "a.nbl").read_bytes()
    assert metadata_of(work / "whole" / "model.safetensors")["format"] == "pt"


def test_a_foreign_checkpoint_that_transformers_saves_again(nibble, work, saved):
    """Loading our folder and saving it with the library (save_original_format=False) gives our tensors back."""
    model_class = saved("llama, untied")
    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb", "--bnb-rules", "cpu")
    load(work / "packed", model_class).save_pretrained(work / "again", save_original_format=False)
    assert raw_bytes_of(work / "again") == raw_bytes_of(work / "packed")
    nibble("verify", work / "again")


CALIBRATED = {"default": [], "fp4": ["--no-double-quant", "--codec", "fp4", "--block-size", "32"]}


@pytest.mark.parametrize("options", CALIBRATED.values(), ids=CALIBRATED)
@pytest.mark.parametrize("name", ["llama, bfloat16", "qwen2, tied, bfloat16", "gpt2", "bert"])
def test_calibrated_codes_load_and_answer_as_their_dequantized_twin(nibble, work, saved, name, options):
    model_class = saved(name)
    rows = [{"input_ids": torch.randint(3, 128, (48,)).tolist()} for _ in range(40)]
    (work / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    calibrated = ["--encoder", "calibrated", "--calibration", work / "rows.jsonl", "--format", "bnb"]
    nibble("quantize", work / "source", "-o", work / "packed", *calibrated, *options)
    nibble("dequantize", work / "packed", "-o", work / "plain")
    assert_packed_answers_like_plain(work / "packed", work / "plain", model_class)
    # Scales are what mse-signed makes them, or one of the 8-bit codes near by; codes are bitsandbytes' own sixteen.
    nibble("quantize", work / "source", "-o", work / "signed", "--format", "bnb", "--encoder", "mse-signed", *options)
    signed, packed = tensors_of(work / "signed"), tensors_of(work / "packed")
    assert signed.keys() == packed.keys()
    # A state is a text with a decimal number in it.
    sizes = [(t.dtype, t.shape) for pack in (signed, packed) for key, t in pack.items() if "quant_state" not in key]
    assert sizes[: len(sizes) // 2] == sizes[len(sizes) // 2 :]
    assert any(not torch.equal(signed[key], packed[key]) for key in signed)
