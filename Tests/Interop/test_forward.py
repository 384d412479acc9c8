"""`nibble forward` computes what transformers computes: logits, hidden states and losses of every family and every
configuration nibble says it can run, whatever holds the weights."""
import os
import subprocess
import sys

import pytest
import torch
import transformers
from conftest import ROOT
from safetensors.torch import load_file, save_file
from running import (
    TOLERANCE, as_float32, assert_forward, assert_same, distance, edit_config, expected, forward, padded, random_ids, save_random)

IGNORED = -100

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, betas": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, attention factor": {**YARN, "attention_factor": 1.3},
    "yarn, no truncation": {**YARN, "truncate": False},
    "yarn, mscale": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.4},
    "yarn, one mscale": {**YARN, "mscale": 0.707},
}

LANGUAGE = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama, every query its own key": ("LlamaForCausalLM", {"num_key_value_heads": 4}),
    "llama, one key": ("LlamaForCausalLM", {"num_key_value_heads": 1}),
    "llama, biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama, attention bias": ("LlamaForCausalLM", {"attention_bias": True}),
    "llama, wide heads": ("LlamaForCausalLM", {"head_dim": 32}),
    "llama, narrow heads": ("LlamaForCausalLM", {"head_dim": 8}),
    "llama, odd sizes": ("LlamaForCausalLM", {"hidden_size": 72, "intermediate_size": 109, "head_dim": 18, "vocab_size": 131}),
    "llama, another epsilon": ("LlamaForCausalLM", {"rms_norm_eps": 0.05}),
    "llama, gelu": ("LlamaForCausalLM", {"hidden_act": "gelu"}),
    "llama, relu": ("LlamaForCausalLM", {"hidden_act": "relu"}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "mistral, window": ("MistralForCausalLM", {"sliding_window": 5}),
    "mistral, window of one": ("MistralForCausalLM", {"sliding_window": 1}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2, tied": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen2, windows above": (
        "Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen2, windows by layer": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "qwen2, window switched off": ("Qwen2ForCausalLM", {"use_sliding_window": False, "sliding_window": 4}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2, untied": ("GPT2LMHeadModel", {"tie_word_embeddings": False}),
    "gpt2, n_inner": ("GPT2LMHeadModel", {"n_inner": 100}),
    **{f"gpt2, {name}": ("GPT2LMHeadModel", {"activation_function": name})
       for name in ("gelu", "relu", "silu", "tanh", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "swish", "relu2", "sigmoid",
                    "mish", "gelu_python", "gelu_python_tanh", "gelu_10", "gelu_accurate", "linear", "leaky_relu")},
    **{f"llama, {name}": ("LlamaForCausalLM", {"hidden_act": name}) for name in ("relu2", "mish", "sigmoid", "leaky_relu")},
    "gpt2, attention by layer": ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2, attention not scaled": ("GPT2LMHeadModel", {"scale_attn_weights": False}),
    "gpt2, attention by layer only": (
        "GPT2LMHeadModel", {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}),
    "gpt2, another epsilon": ("GPT2LMHeadModel", {"layer_norm_epsilon": 0.05}),
}


def inverse_frequencies(base, size, llama3):
    """In float64, rounded once before llama3's three ranges are distinguished and once after."""
    plain = (base ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)).float().double()
    wavelength = 2 * torch.pi / plain
    trained, low, high = (llama3[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    smooth = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return ((1 - smooth) * plain / llama3["factor"] + smooth * plain).float()


def class_and_type(name):
    model_class = getattr(transformers, name)
    return model_class, model_class.config_class.model_type


def labels_for(ids, hidden_share=0.3):
    labels = torch.where(torch.rand(ids.shape) < hidden_share, torch.tensor(IGNORED), ids)
    labels[0, 1] = ids[0, 1]
    return labels


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", LANGUAGE)
def test_language_models(nibble, work, case, seed):
    torch.manual_seed(seed)
    name, changes = LANGUAGE[case]
    model = save_random(*class_and_type(name), work / "m", **changes)
    ids = random_ids(model)
    assert_forward(nibble, work / "m", model, work, input_ids=ids, labels=labels_for(ids))


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("case", ["llama", "mistral, window", "gpt2"])
def test_lengths(nibble, work, case, length):
    """One token, and as many as the context has."""
    name, changes = LANGUAGE[case]
    model = save_random(*class_and_type(name), work / "m", **changes)
    assert_forward(nibble, work / "m", model, work, input_ids=random_ids(model, 2, length))


def test_a_long_sequence(nibble, work):
    """Longer than one pass of rows, and than any tile of a kernel."""
    model = save_random(transformers.LlamaForCausalLM, "llama", work / "m", max_position_embeddings=2048, rope_parameters={
        "rope_theta": 500000.0, **LLAMA3, "original_max_position_embeddings": 512})
    ids = random_ids(model, 1, 1100)
    # torch makes the frequencies in float32, two units off the nearest; far out that turns a head by 1e-4.
    assert_forward(nibble, work / "m", model, work, input_ids=ids, labels=ids, tolerance=1e-4)
    # With the nearest frequencies in both, the usual tolerance holds.
    rotary = model.model.rotary_emb
    exact = inverse_frequencies(500000.0, model.config.head_dim, LLAMA3 | {"original_max_position_embeddings": 512})
    assert (rotary.inv_freq - exact).abs().max() < 1e-6
    rotary.inv_freq = exact
    assert_forward(nibble, work / "m", model, work, input_ids=ids, labels=ids)


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions(nibble, work, rope, spelling):
    """The new spelling, where everything is in rope_parameters, the one before, and the oldest."""
    parameters = {"rope_theta": 700.0, **ROPES[rope]}
    model = save_random(transformers.LlamaForCausalLM, "llama", work / "m", rope_parameters=parameters)
    if spelling != "rope_parameters":
        scaling = dict(ROPES[rope])
        if spelling == "type":
            scaling["type"] = scaling.pop("rope_type")
        edit_config(
            work / "m", rope_parameters=None, rope_theta=700.0, rope_scaling=None if rope == "default" else scaling)
    ids = random_ids(model, 2, 60)
    _, theirs = assert_forward(nibble, work / "m", model, work, input_ids=ids)

    # The test could tell: with plain rotation the model says something else.
    if rope not in ("default", "dynamic"):
        edit_config(
            work / "m", rope_scaling=None, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 700.0})
        assert distance(forward(nibble, work / "m", work, input_ids=ids)["logits"], theirs["logits"]) > 100 * TOLERANCE


@pytest.mark.parametrize("changes", [
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "rope_theta": 300.0},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0, "rope_theta": 900.0}, "rope_theta": 300.0},
    {"rope_scaling": {}, "rope_theta": 300.0}, {"rope_parameters": {**LLAMA3, "rope_theta": 700.0},
     "original_max_position_embeddings": 20},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 700.0}, "original_max_position_embeddings": 20},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 700.0}},
    {"rope_parameters": {name: value for name, value in LLAMA3.items() if "original" not in name} | {"rope_theta": 700.0}}],
    ids=str)
def test_rotary_positions_said_twice_or_in_part(nibble, work, changes):
    save_random(transformers.LlamaForCausalLM, "llama", work / "m", rope_parameters={"rope_type": "default", "rope_theta": 700.0})
    edit_config(work / "m", **changes)
    model = as_float32(transformers.LlamaForCausalLM, work / "m")
    assert_forward(nibble, work / "m", model, work, input_ids=random_ids(model, 2, 60))


def test_the_window_of_a_mistral_that_says_nothing_of_it(nibble, work):
    """4096 tokens; null is none."""
    model = save_random(
        transformers.MistralForCausalLM, "mistral", work / "m", max_position_embeddings=4400, sliding_window=4096,
        num_hidden_layers=1)
    ids = random_ids(model, 1, 4400)
    edit_config(work / "m", sliding_window=None)
    assert_forward(nibble, work / "m", as_float32(type(model), work / "m"), work, input_ids=ids)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
@pytest.mark.parametrize("head", ["its own", "one number apart", "the same", "the only one"])
def test_the_head_a_tied_file_holds(nibble, work, name, head):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=True)
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    embedding = next(key for key in tensors if "embed_tokens" in key or "wte" in key)
    tensors["lm_head.weight"] = tensors[embedding].clone() if head != "its own" else torch.randn_like(tensors[embedding])
    if head == "one number apart":
        tensors["lm_head.weight"][-1, -1] += 1
    if head == "the only one":
        del tensors[embedding]
    save_file(tensors, path, metadata={"format": "pt"})
    model = as_float32(model_class, work / "m")
    ids = random_ids(model)
    assert_forward(nibble, work / "m", model, work, input_ids=ids)
    # What is written of it says the same.
    nibble("quantize", work / "m", "-o", work / "p.nbl", "--keep", ".")
    assert_forward(nibble, work / "p.nbl", model, work, input_ids=ids)


def test_layer_norms_of_old_files(nibble, work):
    """They say gamma and beta."""
    model = save_random(transformers.BertModel, "bert", work / "m")
    path = work / "m" / "model.safetensors"
    save_file({
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    assert_forward(nibble, work / "m", model, work, input_ids=random_ids(model))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("case", ["llama", "mistral, window", "qwen2", "gpt2"])
def test_padding_of_language_models(nibble, work, case, side):
    name, changes = LANGUAGE[case]
    model = save_random(*class_and_type(name), work / "m", **changes)
    ids, mask = padded(random_ids(model, 4, 20), model, [20, 13, 6, 1], side)
    labels = torch.where(mask == 1, ids, torch.tensor(IGNORED))
    # What a hidden token says about the first visible one means nothing.
    labels[:, 1:][mask[:, :-1] == 0] = IGNORED
    assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=mask, labels=labels)


def test_a_mask_with_holes(nibble, work):
    model = save_random(transformers.BertModel, "bert", work / "m")
    ids = random_ids(model, 3, 20)
    mask = (torch.rand(ids.shape) < 0.6).long()
    mask[:, 3] = 1
    assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=mask)


# Encoders and classifiers.

@pytest.mark.parametrize("name", [
    "BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel", "LlamaModel", "MistralModel", "Qwen2Model", "GPT2Model"])
def test_bare_models(nibble, work, name):
    model_class, model_type = class_and_type(name)
    model = save_random(model_class, model_type, work / "m")
    ids, mask = padded(random_ids(model, 4, 20), model, [20, 13, 6, 1])
    tensors = {"input_ids": ids, "attention_mask": mask}
    if model_type == "bert":
        tensors["token_type_ids"] = torch.randint(0, 2, ids.shape)
    ours, theirs = assert_forward(nibble, work / "m", model, work, **tensors)
    weights = mask.unsqueeze(-1).float()
    means = (theirs["last_hidden_state"] * weights).sum(1) / weights.sum(1)
    assert distance(ours["mean_pooled"], means) <= TOLERANCE
    # Without a mask everything counts.
    ours, theirs = assert_forward(nibble, work / "m", model, work, input_ids=random_ids(model, 2, 9))
    assert distance(ours["mean_pooled"], theirs["last_hidden_state"].mean(1)) <= TOLERANCE


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel"])
@pytest.mark.parametrize("changes", [
    {"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.03}, {"intermediate_size": 77},
    {"hidden_size": 72, "num_attention_heads": 6}, {"type_vocab_size": 1}], ids=str)
def test_encoders_of_other_shapes(nibble, work, name, changes):
    model = save_random(*class_and_type(name), work / "m", **changes)
    assert_forward(nibble, work / "m", model, work, input_ids=random_ids(model))


@pytest.mark.parametrize("padding_id", [0, 1, 5])
@pytest.mark.parametrize("side", ["right", "left"])
def test_roberta_counts_positions_past_padding(nibble, work, padding_id, side):
    model = save_random(transformers.RobertaModel, "roberta", work / "m", pad_token_id=padding_id)
    ids, mask = padded(random_ids(model, 4, 20, low=6), model, [20, 13, 6, 1], side)
    assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=mask)


PROBLEMS = {
    "one label": ("single_label_classification", 3, lambda n: torch.randint(0, 3, (n,))),
    "many labels": ("multi_label_classification", 5, lambda n: (torch.rand(n, 5) < 0.4).float()),
    "regression": ("regression", 1, lambda n: torch.randn(n)),
    "regression of many": ("regression", 2, lambda n: torch.randn(n, 2)),
    "not said, three labels": (None, 3, lambda n: torch.randint(0, 3, (n,))),
    "not said, one label": (None, 1, lambda n: torch.randn(n)),
    "not said, labels of floats": (None, 3, lambda n: (torch.rand(n, 3) < 0.4).float()),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", [
    "BertForSequenceClassification", "RobertaForSequenceClassification", "LlamaForSequenceClassification",
    "GPT2ForSequenceClassification", "MistralForSequenceClassification", "Qwen2ForSequenceClassification"])
def test_classifiers(nibble, work, name, problem):
    kind, count, targets = PROBLEMS[problem]
    model = save_random(*class_and_type(name), work / "m", problem_type=kind, num_labels=count)
    ids, mask = padded(random_ids(model, 5, 20), model, [20, 13, 6, 1, 19])
    ours, theirs = assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=mask, labels=targets(5))
    assert ours["logits"].shape == (5, count) and theirs["loss"].isfinite()


@pytest.mark.parametrize("name", ["XLMRobertaForSequenceClassification", "CamembertForSequenceClassification"])
def test_relatives_of_roberta(nibble, work, name):
    model = save_random(*class_and_type(name), work / "m", num_labels=4)
    ids, mask = padded(random_ids(model, 5, 20), model, [20, 13, 6, 1, 19])
    assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=mask, labels=torch.randint(0, 4, (5,)))


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "GPT2ForSequenceClassification"])
def test_decoders_that_classify_look_at_the_last_token_that_is_no_padding(nibble, work, name):
    model = save_random(*class_and_type(name), work / "m")
    padding = model.config.pad_token_id
    ids = random_ids(model, 5, 12)
    ids[1, 7:] = padding
    ids[2, 3] = padding
    ids[3, :5] = padding
    ids[4, 4:9] = padding
    # By ids only, and with a mask that agrees.
    assert_forward(nibble, work / "m", model, work, input_ids=ids)
    assert_forward(nibble, work / "m", model, work, input_ids=ids, attention_mask=(ids != padding).long())


# What holds the weights.

STORED = ["llama", "llama, tied", "llama, odd sizes", "qwen2", "gpt2", "gpt2, untied"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", STORED)
def test_weights_of_sixteen_bits(nibble, work, case, dtype):
    name, changes = LANGUAGE[case]
    model = save_random(*class_and_type(name), work / "m", dtype, **changes)
    ids = random_ids(model)
    assert_forward(nibble, work / "m", model, work, input_ids=ids, labels=ids)


PACKED = {
    "nf4": [], "nf4, single": ["--no-double-quant"], "fp4": ["--codec", "fp4"], "small blocks": ["--block-size", "32"],
    "large blocks": ["--block-size", "256", "--no-double-quant"], "signed scales": ["--encoder", "mse-signed"],
    "signed scales, single": ["--encoder", "mse-signed", "--no-double-quant"],
}


@pytest.mark.parametrize("container", ["packed.nbl", "packed"])
@pytest.mark.parametrize("options", PACKED)
@pytest.mark.parametrize("name, dtype", [
    ("LlamaForCausalLM", torch.float32), ("LlamaForCausalLM", torch.bfloat16), ("GPT2LMHeadModel", torch.float32),
    ("RobertaForSequenceClassification", torch.float16), ("BertModel", torch.float32)],
    ids=["llama", "llama-bf16", "gpt2", "roberta-fp16", "bert"])
def test_packed_models(nibble, work, name, dtype, options, container):
    """As transformers on the weights the codes stand for, in float32."""
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", dtype)
    form = [] if container.endswith(".nbl") else ["--format", "bnb"]
    nibble("quantize", work / "m", "-o", work / container, *form, *PACKED[options])
    nibble("dequantize", work / container, "-o", work / "plain", "--dtype", "fp32")
    twin = as_float32(model_class, work / "plain")
    ids = random_ids(twin)
    assert_forward(nibble, work / container, twin, work, input_ids=ids)


@pytest.mark.parametrize("container, tied", [("packed.nbl", True), ("packed.nbl", False), ("packed", False)])
def test_packed_embeddings_and_heads(nibble, work, container, tied):
    """A bitsandbytes folder keeps its embedding, so a tied head, too."""
    save_random(transformers.LlamaForCausalLM, "llama", work / "m", torch.bfloat16, tie_word_embeddings=tied)
    is_folder = container == "packed"
    rules = ["--format", "bnb"] if is_folder else ["--tensor", "embed_tokens=nf4"]
    rules += [] if tied else ["--tensor", "lm_head=nf4:block=32"]
    nibble("quantize", work / "m", "-o", work / container, *rules)
    nibble("dequantize", work / container, "-o", work / "plain", "--dtype", "fp32")
    twin = as_float32(transformers.LlamaForCausalLM, work / "plain")
    ids = random_ids(twin)
    assert_forward(nibble, work / container, twin, work, input_ids=ids, labels=ids)


@pytest.mark.parametrize("container", ["packed.nbl", "packed"])
def test_the_bundled_model(nibble, work, stories, container):
    form = [] if container.endswith(".nbl") else ["--format", "bnb"]
    plain = as_float32(transformers.AutoModelForCausalLM, stories)
    ids = torch.randint(3, plain.config.vocab_size, (2, 200))
    assert_forward(nibble, stories, plain, work, input_ids=ids, labels=ids)
    nibble("quantize", stories, "-o", work / container, *form)
    nibble("dequantize", work / container, "-o", work / "plain", "--dtype", "fp32")
    twin = as_float32(transformers.AutoModelForCausalLM, work / "plain")
    assert_forward(nibble, work / container, twin, work, input_ids=ids, labels=ids)


def test_shards(nibble, work):
    model = save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    model.save_pretrained(work / "shards", max_shard_size="60KB")
    assert len(list((work / "shards").glob("*.safetensors"))) > 2
    assert_forward(nibble, work / "shards", model, work, input_ids=random_ids(model))


# Ways of computing.

@pytest.mark.parametrize("case", ["llama", "llama, odd sizes", "gpt2", "qwen2"])
@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_products_stay_within_a_percent_of_the_loss(nibble, work, case, packed):
    name, changes = LANGUAGE[case]
    model_class, model_type = class_and_type(name)
    model = save_random(model_class, model_type, work / "m", torch.bfloat16, **changes)
    base = work / "m"
    if packed:
        base = work / "packed.nbl"
        nibble("quantize", work / "m", "-o", base)
        nibble("dequantize", base, "-o", work / "plain", "--dtype", "fp32")
        model = as_float32(model_class, work / "plain")
    ids = random_ids(model, 4, 40)
    ours = forward(nibble, base, work, "--compute-dtype", "bf16", input_ids=ids, labels=ids)
    theirs = expected(model, input_ids=ids, labels=ids)
    assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=0.01)
    # And bfloat16 it is: 8 bits of a factor are left, no more.
    assert 1e-5 < distance(ours["logits"], theirs["logits"]) < 0.06


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_threads_change_nothing(nibble, work, compute):
    model = save_random(transformers.LlamaForCausalLM, "llama", work / "m", torch.bfloat16)
    nibble("quantize", work / "m", "-o", work / "packed.nbl")
    ids = random_ids(model, 3, 33)
    said = [forward(nibble, work / "packed.nbl", work, "--compute-dtype", compute, "-j", threads, input_ids=ids)["logits"]
            for threads in (1, 2, 3)]
    assert all(one.equal(said[0]) for one in said)


@pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="NIBBLE_SLOW is not set: makes a model of 2.47 GB")
def test_a_model_of_a_billion_weights(nibble, work):
    subprocess.run([sys.executable, ROOT / "tools" / "make-model", work / "m"], check=True)
    ids = torch.randint(0, 128256, (1, 24))
    ours = forward(nibble, work / "m", work, input_ids=ids, labels=ids)
    model = as_float32(transformers.AutoModelForCausalLM, work / "m")
    torch.set_num_threads(os.cpu_count() or 1)
    # 16 layers of 2048: sums are longer, errors grow with their square root.
    assert_same(ours, expected(model, input_ids=ids, labels=ids), tolerance=5e-5)


def test_ids_and_masks_that_make_no_sense_name_their_file_and_row(nibble, work):
    save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    ids = torch.randint(0, 20, (3, 5))
    mask = torch.ones_like(ids)
    wrong, hidden = ids.clone(), mask.clone()
    wrong[1, 3] = 10**6
    hidden[2] = 0
    ask = ["forward", "--base", work / "m", "--ids", work / "in.safetensors", "-o", work / "out.safetensors"]
    for tensors, words in (({"input_ids": wrong}, ["input_ids", "1000000", "row 2"]), ({"input_ids": ids, "attention_mask": hidden}, ["attention_mask", "row 3"])):
        save_file(tensors, work / "in.safetensors")
        line = nibble(*ask, exits=3).stderr
        assert all(word in line for word in ["in.safetensors", *words]) and len(line.strip().splitlines()) == 1, line
        assert not (work / "out.safetensors").exists()


def test_broken_weights_are_said_to_be_the_model_s(nibble, work):
    save_random(transformers.LlamaForCausalLM, "llama", work / "broken")
    path = work / "broken" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    save_file({"input_ids": torch.randint(0, 20, (1, 5))}, work / "in.safetensors")
    line = nibble("forward", "--base", work / "broken", "--ids", work / "in.safetensors", "-o", work / "out.safetensors", exits=6).stderr
    assert "broken: layer 0 gives NaN" in line and not (work / "out.safetensors").exists(), line
