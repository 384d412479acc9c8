"""Every decoder beside Llama's nearest relatives: logits of the float model, of its block file and of its bitsandbytes folder, and 20 tokens
written from the block file, against transformers. Odd configurations, adapters, training and merging are the differential fuzzer's."""
import pytest
import transformers
from differential.decoders import CLASSES
from running import TOLERANCE, as_float32, distance, expected, forward, random_ids
from test_generate import MODELS, continued, generate, prompt_of, save_model

# Wide enough that some rows are several blocks, with what each family is known for switched on.
OWN = {
    "smollm3": {"no_rope_layers": [1, 0]}, "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}, "olmo3": {"sliding_window": 6},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.1, "logits_scaling": 2.0},
    "phi3": {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 64},
             "original_max_position_embeddings": 64},
    "gpt_neox": {"rotary_pct": 0.5}, "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}, "phi": {"qk_layernorm": True},
    "mixtral": {"num_local_experts": 4, "sliding_window": 6, "head_dim": 16},
    "glm4_moe": {"use_qk_norm": True, "partial_rotary_factor": 0.5},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 6},
    # As the published ones scale positions, each in its own way.
    **{family: {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": scale, "mscale_all_dim": scale, "original_max_position_embeddings": 16}}
       for family, scale in (("deepseek_v2", 0.707), ("deepseek_v3", 1.0))},
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "mlp_only_layers": [0], "norm_topk_prob": True},
    "olmoe": {"num_experts": 5, "num_experts_per_tok": 3},
    "granitemoehybrid": {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.1, "logits_scaling": 2.0},
    "ministral3": {"sliding_window": None, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.5}},
    "llama4_text": {
        "num_experts_per_tok": 2, "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1], "moe_layers": [0, 2], "attention_chunk_size": 6, "floor_scale": 4, "attn_scale": 0.5},
}


@pytest.mark.parametrize("family", list(CLASSES))
def test_it_runs_from_every_layout(nibble, work, monkeypatch, family):
    model_class = getattr(transformers, CLASSES[family][0])
    monkeypatch.setitem(MODELS, family, (model_class, family, OWN.get(family, {})))
    model = save_model(work / "m", family)
    asked = {"input_ids": random_ids(model, 2, 24)}
    assert distance(forward(nibble, work / "m", work, **asked)["logits"], expected(model, **asked)["logits"]) < TOLERANCE
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("convert", work / "m.nbl", "-o", work / "bnb", "--format", "bnb")
    nibble("dequantize", work / "m.nbl", "-o", work / "twin", "--dtype", "fp32")
    twin = as_float32(model_class, work / "twin")
    theirs = expected(twin, **asked)["logits"]
    for packed in ("m.nbl", "bnb"):
        assert distance(forward(nibble, work / packed, work, **asked)["logits"], theirs) < TOLERANCE
    prompt = prompt_of(9)
    assert generate(nibble, work / "m.nbl", prompt, new=20)["ids"] == continued(twin, prompt, 20)[0]
