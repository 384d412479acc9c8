"""Granite 4, Ministral 3 and Llama 4: new adapters in PEFT, folders and configurations that are refused or warned of. What they compute, the
differential fuzzer compares on drawn configurations."""
import json

import peft
import pytest
import torch
import transformers
from differential.decoders import CLASSES
from models import make, small_config
from running import TOLERANCE, as_float32, distance, edit_config, expected, forward, random_ids
from safetensors.torch import load_file, save_file
from test_generate import MODELS, continued, generate, prompt_of, save_model

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.5}
OWN = {"ministral3": {"rope_parameters": YARN}, "llama4_text": {"no_rope_layers": [1, 0], "attention_chunk_size": 6, "floor_scale": 4, "num_experts_per_tok": 2}}


def save(folder, family, **changes):
    model = make(getattr(transformers, CLASSES[family][0]), small_config(family, **{**OWN.get(family, {}), **changes}))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", OWN)
def test_beams_grow_over_chunks_and_positions(nibble, work, monkeypatch, family):
    monkeypatch.setitem(MODELS, family, (getattr(transformers, CLASSES[family][0]), family, OWN[family]))
    model, prompt = save_model(work / "m", family), prompt_of(9)
    said = generate(nibble, work / "m", prompt, "--num-beams", 3, new=20)
    ids, score = continued(model, prompt, 20, num_beams=3)
    assert said["ids"] == ids and said["score"] == pytest.approx(score, rel=1e-4, abs=1e-5)


# MARK: - Adapters

def finetune(nibble, work, *words, exits=0):
    (work / "rows.jsonl").write_text(json.dumps({"input_ids": [3, 4, 5, 6, 7, 8, 9, 10], "labels": [3, 4, 5, 6, 7, 8, 9, 10]}) + "\n")
    return nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--max-steps", 2, "--learning-rate", 0.05, *words, exits=exits)


@pytest.mark.parametrize("family, targets", [
    ("granitemoehybrid", "all-linear"), ("granitemoehybrid", "input_linear,q_proj"), ("ministral3", "all-linear"), ("llama4_text", "attention"),
    ("llama4_text", "q_proj,experts.*"), ("llama4_text", "gate_up_proj,shared_expert.up_proj")])
def test_a_new_adapter_says_in_peft_what_it_says_here(nibble, work, family, targets):
    model = save(work / "m", family)
    if targets == "q_proj,experts.*":
        targets = r".*(q_proj|experts\.\d+\.(gate_up|down)_proj)"
    said = finetune(nibble, work, "--target-modules", targets)
    assert "does not load" not in said.stderr
    asked = {"input_ids": random_ids(model, 2, 13)}
    adapted = peft.PeftModel.from_pretrained(as_float32(type(model), work / "m"), work / "out")
    theirs = expected(adapted, **asked)["logits"]
    assert distance(theirs, expected(as_float32(type(model), work / "m"), **asked)["logits"]) > 10 * TOLERANCE
    assert distance(forward(nibble, work / "m", work, "--adapter", work / "out", **asked)["logits"], theirs) < TOLERANCE
    nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged", "--format", "safetensors", "--min-survival", 0)
    merged = as_float32(type(model), work / "merged")
    assert distance(expected(merged, **asked)["logits"], theirs) < 2 * TOLERANCE


def test_peft_does_not_adapt_the_router_of_a_llama4(nibble, work):
    save(work / "m", "llama4_text")
    assert "does not load the factors of" in finetune(nibble, work, "--target-modules", "all-linear").stderr


# MARK: - Folders

def test_transformers_loads_no_packed_folder_with_stacked_experts(nibble, work):
    model = save(work / "m", "llama4_text")
    said = nibble("quantize", work / "m", "-o", work / "bnb", "--format", "bnb").stderr
    assert "transformers does not load the folder" in said
    assert load_file(work / "bnb" / "model.safetensors")["model.layers.0.feed_forward.experts.gate_up_proj"].shape == (5, 64, 96)
    asked = {"input_ids": random_ids(model, 2, 13)}
    nibble("dequantize", work / "bnb", "-o", work / "plain", "--dtype", "fp32")
    theirs = expected(as_float32(type(model), work / "plain"), **asked)["logits"]
    assert distance(forward(nibble, work / "bnb", work, **asked)["logits"], theirs) < TOLERANCE


# MARK: - Refusals

GRANITE, MINISTRAL, LLAMA = "granitemoehybrid", "ministral3", "llama4_text"
REFUSED = [
    (GRANITE, {"layer_types": ["attention", "mamba"]}, "Mamba"), (GRANITE, {"layer_types": None}, "layer_types"), (GRANITE, {"layer_types": "attention"}, "layer_types"),
    (GRANITE, {"layer_types": ["attention"]}, "layer_types"), (GRANITE, {"layer_types": ["attention", 7]}, "layer_types"), (GRANITE, {"layer_types": []}, "layer_types"),
    (GRANITE, {"num_local_experts": 4}, "num_local_experts"), (GRANITE, {"num_local_experts": None}, "num_local_experts"),
    (GRANITE, {"num_local_experts": -1}, "num_local_experts"), (GRANITE, {"num_local_experts": 1e30}, "num_local_experts"),
    (GRANITE, {"position_embedding_type": "alibi"}, "position_embedding_type"), (GRANITE, {"position_embedding_type": 1}, "position_embedding_type"),
    (GRANITE, {"output_router_logits": True}, "output_router_logits"), (GRANITE, {"shared_intermediate_size": 0}, "shared_intermediate_size"),
    (GRANITE, {"shared_intermediate_size": 95}, "shared_mlp"), (GRANITE, {"residual_multiplier": 0}, "residual_multiplier"),
    (GRANITE, {"attention_multiplier": "1"}, "attention_multiplier"), (GRANITE, {"logits_scaling": -3}, "logits_scaling"),
    (GRANITE, {"layers_block_type": ["mamba", "attention"]}, "layers_block_type"), (GRANITE, {"num_hidden_layers": 1e18}, "num_hidden_layers"),
    (MINISTRAL, {"rope_parameters": {**YARN, "llama_4_scaling_beta": None}}, "llama_4_scaling_beta"), (MINISTRAL, {"rope_parameters": {"rope_type": "default"}}, "llama_4_scaling_beta"),
    (MINISTRAL, {"rope_parameters": {**YARN, "llama_4_scaling_beta": "0.1"}}, "llama_4_scaling_beta"),
    (MINISTRAL, {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}}, "original_max_position_embeddings"),
    (MINISTRAL, {"rope_parameters": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings"),
    (MINISTRAL, {"rope_parameters": {**YARN, "original_max_position_embeddings": 1e20}}, "original_max_position_embeddings"),
    (MINISTRAL, {"rope_parameters": 4}, "rope_parameters"), (MINISTRAL, {"rope_parameters": {**YARN, "factor": None}, "max_position_embeddings": 0}, "max_position_embeddings"),
    (MINISTRAL, {"sliding_window": 0}, "sliding_window"), (MINISTRAL, {"head_dim": 1 << 40}, "head_dim"), (MINISTRAL, {"use_qk_norm": True}, "use_qk_norm"),
    (LLAMA, {"attention_chunk_size": 0}, "attention_chunk_size"),
    (LLAMA, {"attention_chunk_size": "8"}, "attention_chunk_size"), (LLAMA, {"no_rope_layers": [1]}, "no_rope_layers"), (LLAMA, {"no_rope_layers": {"a": 1}}, "no_rope_layers"),
    (LLAMA, {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval"), (LLAMA, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    (LLAMA, {"layer_types": "chunked_attention"}, "layer_types"), (LLAMA, {"floor_scale": 0}, "floor_scale"), (LLAMA, {"attn_scale": "big"}, "attn_scale"),
    (LLAMA, {"attn_temperature_tuning": "yes"}, "attn_temperature_tuning"), (LLAMA, {"use_qk_norm": 3}, "use_qk_norm"), (LLAMA, {"moe_layers": [0.5]}, "moe_layers"),
    (LLAMA, {"moe_layers": 3}, "moe_layers"), (LLAMA, {"moe_layers": None, "interleave_moe_layer_step": 0}, "interleave_moe_layer_step"),
    (LLAMA, {"num_local_experts": 0}, "num_local_experts"), (LLAMA, {"num_local_experts": 6}, "router.weight"), (LLAMA, {"num_local_experts": 4}, "router.weight"),
    (LLAMA, {"num_experts_per_tok": 6}, "num_experts_per_tok"), (LLAMA, {"num_experts_per_tok": 0}, "num_experts_per_tok"), (LLAMA, {"num_experts": 5}, "num_experts"),
    (LLAMA, {"intermediate_size": 24}, "gate_up_proj"), (LLAMA, {"intermediate_size_mlp": -2, "moe_layers": [0]}, "intermediate_size_mlp"),
    (LLAMA, {"head_dim": 15}, "odd"), (LLAMA, {"attention_bias": True}, "q_proj.bias"), (LLAMA, {"moe_layers": [0]}, "layers.1"),
]


@pytest.mark.parametrize("family, changes, named", REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_implemented_or_makes_no_sense_is_one_line(nibble, work, family, changes, named):
    save(work / "m", family)
    edit_config(work / "m", **changes)
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert named in said.stderr and len(said.stderr.splitlines()) == 1, said.stderr


GGUF_REFUSED = [
    (GRANITE, {"layer_types": ["attention", "mamba"]}, 2, "mamba"), (GRANITE, {"num_local_experts": 3}, 2, "num_local_experts"),
    (GRANITE, {"position_embedding_type": "alibi"}, 2, "position_embedding_type"), (GRANITE, {"mamba_expand": 1 << 31}, 3, "mamba_expand"),
    (MINISTRAL, {"rope_parameters": {**YARN, "rope_type": "linear"}}, 2, "rope_type"), (MINISTRAL, {"rope_parameters": {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0}}, 2, "mscale"),
    (MINISTRAL, {"rope_parameters": {**YARN, "attention_factor": 1.5}}, 2, "attention_factor"), (MINISTRAL, {"rope_parameters": {**YARN, "llama_4_scaling_beta": None}}, 3, "llama_4_scaling_beta"),
    (LLAMA, {}, 2, "no_rope_layers"), (LLAMA, {"no_rope_layers": []}, 2, "attention_chunk_size"),
    (LLAMA, {"no_rope_layers": [], "attention_chunk_size": 8192}, 2, "floor_scale"),
    (LLAMA, {"no_rope_layers": [], "attention_chunk_size": 8192, "floor_scale": 8192, "use_qk_norm": False}, 2, "use_qk_norm"),
    (LLAMA, {"no_rope_layers": [], "attention_chunk_size": 8192, "floor_scale": 8192, "moe_layers": [0]}, 2, "moe_layers"),
    (LLAMA, {"no_rope_layers": [], "attention_chunk_size": 8192, "floor_scale": 8192, "attn_temperature_tuning": False, "max_position_embeddings": 9000, "layer_types": None}, 2, "attn_temperature_tuning"),
]


@pytest.mark.parametrize("family, changes, code, named", GGUF_REFUSED, ids=lambda value: str(value)[:40])
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(nibble, work, family, changes, code, named):
    save(work / "m", family)
    edit_config(work / "m", **changes)
    said = nibble("convert", work / "m", "-o", work / "m.gguf", exits=code)
    assert named in said.stderr and len(said.stderr.splitlines()) == 1 and not (work / "m.gguf").exists(), said.stderr
