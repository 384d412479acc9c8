"""Drawn configurations of decoders beside Llama's nearest relatives: every key that each family's configuration has."""


def draw(case, family, plain, tools):
    """A configuration of `family`.

    - tools: configurations.py, whose parts these share
    """
    rng, maybe = case.rng, tools.maybe
    heads = rng.choice([1, 2, 3, 4, 6, 8])
    head_dim = rng.choice([4, 8, 10, 16, 20] if plain else [2, 4, 6, 8, 10, 16, 20])
    layers = rng.randint(1, 4)
    config = {
        "vocab_size": rng.randint(20, 140), "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": rng.choice(tools.divisors(heads)), "intermediate_size": rng.randint(5, 70),
        "hidden_size": heads * head_dim, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": rng.choice([None, 0, 2, 5])}
    maybe(case, config, "max_position_embeddings", rng.choice([40, 64, 128, 513]), 0.1)
    maybe(case, config, "tie_word_embeddings", case.chance(0.5))
    maybe(case, config, "hidden_act", tools.activation(case, plain))
    maybe(case, config, "rms_norm_eps", rng.choice([1e-6, 1e-5, 1e-3, 0.1]))
    maybe(case, config, "attention_bias", case.chance(0.4), 0.4)
    KINDS[family](case, config, plain, tools, head_dim)
    return config


def types(case, config, share=0.6, window=(2, 5, 9, 16)):
    """Kinds of layers, and the window that some see."""
    config["sliding_window"] = case.rng.choice(window)
    if case.chance(share):
        config["layer_types"] = [case.rng.choice(["full_attention", "sliding_attention"]) for _ in range(config["num_hidden_layers"])]


def own_head_size(case, config, head_dim, always=False, width=None):
    """Heads that do not share the width."""
    if always or case.chance(0.3):
        config |= {"head_dim": head_dim, "hidden_size": config["num_attention_heads"] * (width or case.rng.randint(2, 12))}


def ministral(case, config, plain, tools, head_dim):
    config.pop("attention_bias", None)
    own_head_size(case, config, head_dim, always=True)
    types(case, config)
    if case.chance(0.3):
        config["sliding_window"] = None
        config.pop("layer_types", None)
    tools.rotary(case, config, plain)


def qwen3(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim, always=True)
    if case.chance(0.4):
        config |= {"use_sliding_window": True, "sliding_window": case.rng.choice([2, 5, 9]), "max_window_layers": case.rng.randint(0, 3)}
        if case.chance(0.4):
            types(case, config, 1)
    tools.rotary(case, config, plain)


def smollm3(case, config, plain, tools, head_dim):
    rng, layers = case.rng, config["num_hidden_layers"]
    own_head_size(case, config, head_dim)
    tools.maybe(case, config, "mlp_bias", case.chance(0.4), 0.4)
    if case.chance(0.5):
        config["no_rope_layers"] = [rng.choice([0, 1]) for _ in range(layers + rng.choice([0, 0, 2]))]
    else:
        tools.maybe(case, config, "no_rope_layer_interval", rng.choice([1, 2, 3]), 0.3)
    if case.chance(0.4):
        config |= {"use_sliding_window": True, "sliding_window": rng.choice([2, 5, 9])}
        if case.chance(0.4):
            types(case, config, 1)
    tools.rotary(case, config, plain)


def olmo2(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim)
    tools.rotary(case, config, plain)


def by_kind(case, config, plain, tools, local):
    """Rotary positions of each kind of layers, in the two spellings there are; `local` is the old name of those with a window."""
    rng = case.rng
    if case.chance(0.5):
        if case.chance(0.6):
            config["rope_theta"] = rng.choice([10000.0, 1e6, 100.0])
        if local and case.chance(0.5):
            config[local] = rng.choice([10000.0, 500.0])
        if case.chance(0.4):
            config["rope_scaling"] = {"rope_type": "linear", "factor": rng.choice([2.0, 8.0])}
        return
    kinds = {}
    for kind in ("full_attention", "sliding_attention"):
        part = {"rope_type": "default"}
        if case.chance(0.7):
            part["rope_theta"] = rng.choice([10000.0, 1e6, 100.0])
        if case.chance(0.3):
            part |= {"rope_type": "linear", "factor": 4.0}
        elif case.chance(0.2):
            part |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
            if case.chance(0.5):
                part["attention_factor"] = 1.2
        kinds[kind] = part
    config["rope_parameters"] = kinds


def olmo3(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim)
    types(case, config)
    by_kind(case, config, plain, tools, None)


def gemma(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim, always=True)
    if case.chance(0.2):
        config["hidden_act"] = "gelu"
    tools.rotary(case, config, plain)


def later_gemma(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim, always=True)
    if "hidden_act" in config:
        config["hidden_activation"] = config.pop("hidden_act")
    tools.maybe(case, config, "query_pre_attn_scalar", case.rng.choice([4, 8, 16, 256]), 0.2)
    tools.maybe(case, config, "final_logit_softcapping", case.rng.choice([None, 0.5, 2.0, 30.0]), 0.2)
    tools.maybe(case, config, "attn_logit_softcapping", case.rng.choice([None, 0.5, 2.0, 50.0]), 0.2)
    types(case, config)


def gemma2(case, config, plain, tools, head_dim):
    later_gemma(case, config, plain, tools, head_dim)
    tools.rotary(case, config, plain)


def gemma3(case, config, plain, tools, head_dim):
    later_gemma(case, config, plain, tools, head_dim)
    if "layer_types" not in config:
        tools.maybe(case, config, "sliding_window_pattern", case.rng.choice([1, 2, 3]), 0.3)
    by_kind(case, config, plain, tools, "rope_local_base_freq")


def granite(case, config, plain, tools, head_dim):
    own_head_size(case, config, head_dim)
    tools.maybe(case, config, "mlp_bias", case.chance(0.4), 0.4)
    for key, values in (("embedding_multiplier", [12.0, 0.5]), ("residual_multiplier", [0.22, 1.5]), ("logits_scaling", [8.0, 0.25]),
                        ("attention_multiplier", [0.125, 0.5])):
        tools.maybe(case, config, key, case.rng.choice([1.0, *values]), 0.15)
    tools.rotary(case, config, plain)


def some_rotary(case, config, tools, size, key="partial_rotary_factor", parts=(0.25, 0.5, 0.75, 1.0)):
    """A part of each head that is turned, of an even number of numbers."""
    fitting = [part for part in parts if int(size * part) % 2 == 0 and int(size * part) > 0]
    if not fitting:
        return 0.5
    part = case.rng.choice(fitting)
    if case.chance(0.5) or int(size * 0.5) % 2 or key == "rotary_pct":
        config[key] = part
        return part
    return 0.5


def phi3(case, config, plain, tools, head_dim):
    rng = case.rng
    config.pop("attention_bias", None)
    part = some_rotary(case, config, tools, head_dim)
    if "partial_rotary_factor" not in config:
        part = 1.0
    if case.chance(0.4):
        config["sliding_window"] = rng.choice([2, 5, 9])
    if case.chance(0.5):
        half = int(head_dim * part) // 2
        factors = {"short_factor": [rng.choice([1.0, 1.2, 1.5]) for _ in range(half)], "long_factor": [rng.choice([2.0, 3.5, 8]) for _ in range(half)]}
        config["rope_scaling"] = {rng.choice(["type", "rope_type"]): "longrope", **factors}
        config["original_max_position_embeddings"] = rng.choice([4, 8, 16, 32])
    tools.maybe(case, config, "rope_theta", rng.choice([10000.0, 500.0]), 0.3)


def glm(case, config, plain, tools, head_dim):
    head_dim = case.rng.choice([4, 8, 12, 16])
    own_head_size(case, config, head_dim, always=True)
    some_rotary(case, config, tools, head_dim)
    tools.maybe(case, config, "rope_theta", case.rng.choice([10000.0, 500.0]), 0.3)


def starcoder2(case, config, plain, tools, head_dim):
    for key in ("rms_norm_eps", "attention_bias"):
        config.pop(key, None)
    layer_normed(case, config, plain, head_dim)
    tools.maybe(case, config, "norm_epsilon", case.rng.choice([1e-5, 1e-3, 0.1]))
    tools.maybe(case, config, "use_bias", case.chance(0.5))
    tools.maybe(case, config, "sliding_window", case.rng.choice([None, 2, 5, 9]), 0.4)
    tools.rotary(case, config, plain)


def layer_normed(case, config, plain, head_dim):
    """A layer norm of one or two numbers has no gradient but rounding."""
    if plain and config["hidden_size"] < 8:
        config["hidden_size"] *= 2


def gpt_neox(case, config, plain, tools, head_dim):
    rng = case.rng
    for key in ("rms_norm_eps", "num_key_value_heads"):
        config.pop(key, None)
    head_dim = rng.choice([4, 8, 12, 16])
    config["hidden_size"] = config["num_attention_heads"] * head_dim
    tools.maybe(case, config, "layer_norm_eps", rng.choice([1e-5, 1e-3, 0.1]))
    tools.maybe(case, config, "use_parallel_residual", case.chance(0.5))
    some_rotary(case, config, tools, head_dim, "rotary_pct")
    tools.maybe(case, config, "rotary_emb_base", rng.choice([10000, 500.0]), 0.5)


def falcon(case, config, plain, tools, head_dim):
    rng = case.rng
    for key in ("rms_norm_eps", "num_key_value_heads", "attention_bias"):
        config.pop(key, None)
    if "hidden_act" in config:
        config["activation"] = config.pop("hidden_act")
    config["ffn_hidden_size"] = config.pop("intermediate_size")
    head_dim = rng.choice([4, 8, 16])
    config["hidden_size"] = config["num_attention_heads"] * head_dim
    tools.maybe(case, config, "layer_norm_epsilon", rng.choice([1e-5, 1e-3, 0.1]))
    tools.maybe(case, config, "bias", case.chance(0.5))
    if case.chance(0.5):
        config |= {"new_decoder_architecture": True, "num_kv_heads": rng.choice(tools.divisors(config["num_attention_heads"]))}
        tools.maybe(case, config, "num_ln_in_parallel_attn", rng.choice([None, 1, 2]), 0.4)
    else:
        tools.maybe(case, config, "multi_query", case.chance(0.5))
        tools.maybe(case, config, "parallel_attn", case.chance(0.5))
    tools.maybe(case, config, "rope_theta", rng.choice([10000.0, 500.0]), 0.5)


def phi(case, config, plain, tools, head_dim):
    for key in ("rms_norm_eps", "attention_bias"):
        config.pop(key, None)
    head_dim = case.rng.choice([4, 8, 12, 16])
    config["hidden_size"] = config["num_attention_heads"] * head_dim
    tools.maybe(case, config, "layer_norm_eps", case.rng.choice([1e-5, 1e-3, 0.1]))
    tools.maybe(case, config, "qk_layernorm", case.chance(0.5), 0.3)
    some_rotary(case, config, tools, head_dim)
    tools.maybe(case, config, "rope_theta", case.rng.choice([10000.0, 500.0]), 0.5)


def mixtral(case, config, plain, tools, head_dim):
    rng = case.rng
    config.pop("attention_bias", None)
    own_head_size(case, config, head_dim)
    # Without it transformers computes default positions only.
    config.setdefault("head_dim", head_dim)
    count = rng.choice([1, 2, 3, 5, 8])
    config[rng.choice(["num_local_experts", "num_local_experts", "num_experts"])] = count
    config["num_experts_per_tok"] = rng.randint(1, count)
    if count == 8 and case.chance(0.4):
        del config["num_experts_per_tok"]
    tools.maybe(case, config, "sliding_window", rng.choice([None, 2, 5, 9, 20]), 0.3)
    tools.maybe(case, config, "router_jitter_noise", rng.choice([0.0, 0.1]), 0.5)
    of_router(case, config, plain)
    tools.rotary(case, config, plain)


def of_router(case, config, plain):
    if case.chance(0.3):
        config |= {"output_router_logits": not plain and case.chance(0.2), "router_aux_loss_coef": 0.02}


def olmoe(case, config, plain, tools, head_dim):
    count = case.rng.choice([1, 2, 3, 5, 9])
    config[case.rng.choice(["num_experts", "num_local_experts"])] = count
    config["num_experts_per_tok"] = case.rng.randint(1, count)
    tools.maybe(case, config, "norm_topk_prob", case.chance(0.5), 0.2)
    tools.maybe(case, config, "clip_qkv", 0.5 if not plain and case.chance(0.05) else None, 0.5)
    of_router(case, config, plain)
    tools.rotary(case, config, plain)


def qwen3_moe(case, config, plain, tools, head_dim):
    rng = case.rng
    own_head_size(case, config, head_dim)
    count = rng.choice([0, 1, 2, 3, 5, 9]) if not plain else rng.choice([2, 3, 5])
    config[rng.choice(["num_experts", "num_local_experts"])] = count
    config |= {"num_experts_per_tok": rng.randint(1, max(count, 1)), "moe_intermediate_size": rng.randint(5, 40)}
    tools.maybe(case, config, "norm_topk_prob", case.chance(0.5), 0.2)
    tools.maybe(case, config, "decoder_sparse_step", rng.choice([1, 1, 2, 3]), 0.4)
    tools.maybe(case, config, "mlp_only_layers", rng.choice([[], None, [0], [1], [0, 2], [7]]), 0.4)
    if case.chance(0.4):
        config |= {"use_sliding_window": case.chance(0.8), "sliding_window": rng.choice([2, 5, 9])}
        tools.maybe(case, config, "max_window_layers", rng.randint(0, 3))
    of_router(case, config, plain)
    tools.rotary(case, config, plain)


def qwen2_moe(case, config, plain, tools, head_dim):
    rng = case.rng
    config.pop("attention_bias", None)
    own_head_size(case, config, head_dim)
    count = rng.choice([0, 1, 2, 5, 9, 12]) if not plain else rng.choice([2, 3, 5, 11])
    config |= {
        "num_experts": count, "num_experts_per_tok": rng.randint(1, max(count, 1)), "moe_intermediate_size": rng.randint(8, 40),
        "shared_expert_intermediate_size": rng.randint(8, 60)}
    tools.maybe(case, config, "norm_topk_prob", case.chance(0.5), 0.2)
    tools.maybe(case, config, "qkv_bias", case.chance(0.6), 0.4)
    tools.maybe(case, config, "decoder_sparse_step", rng.choice([1, 1, 2, 3]), 0.4)
    tools.maybe(case, config, "mlp_only_layers", rng.choice([[], None, [0], [1], [0, 2], [7]]), 0.4)
    if case.chance(0.4):
        config |= {"use_sliding_window": case.chance(0.8), "sliding_window": rng.choice([2, 5, 9])}
        tools.maybe(case, config, "max_window_layers", rng.randint(0, 4))
        if config["use_sliding_window"] and case.chance(0.4):
            types(case, config, 1)
    of_router(case, config, plain)
    tools.rotary(case, config, plain)


def deepseek(case, config, plain, tools):
    """What V2 and V3 have in common: latent attention, and which layers have experts."""
    rng = case.rng
    turned, unturned = rng.choice([2, 4, 8, 12]), rng.choice([1, 4, 6, 16])
    config |= {
        "num_key_value_heads": config["num_attention_heads"], "hidden_size": config["num_attention_heads"] * rng.randint(4, 14),
        "qk_rope_head_dim": turned, "qk_nope_head_dim": unturned, "v_head_dim": rng.choice([1, 3, 8, 16, turned + unturned]),
        "q_lora_rank": rng.choice([None, None, 5, 24]), "kv_lora_rank": rng.choice([4, 9, 32]),
        "moe_intermediate_size": rng.randint(8, 40), "n_shared_experts": rng.choice([1, 2, 3])}
    # Rotary positions of the part that is turned.
    sizes = {**config, "head_dim": turned}
    tools.rotary(case, sizes, plain)
    config |= {key: value for key, value in sizes.items() if key.startswith("rope") or key == "original_max_position_embeddings"}
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) not in ("default", "longrope") and case.chance(0.5):
        scaling |= {"mscale_all_dim": rng.choice([1.0, 0.5, 0.707])}
        tools.maybe(case, scaling, "mscale", rng.choice([1.0, 0.7]), 0.3)
    tools.maybe(case, config, "first_k_dense_replace", rng.choice([0, 0, 1, 2]), 0 if plain else 0.1)
    tools.maybe(case, config, "routed_scaling_factor", rng.choice([1.0, 2.5, 0.5, 16.0]))
    of_router(case, config, plain)


def deepseek_v2(case, config, plain, tools, head_dim):
    rng = case.rng
    deepseek(case, config, plain, tools)
    # Complex numbers, which transformers turns V2's heads as, want even places.
    config |= {"qk_nope_head_dim": 2 * rng.choice([1, 2, 8]), "kv_lora_rank": 2 * rng.choice([2, 5, 16])}
    tools.maybe(case, config, "mlp_bias", case.chance(0.5))
    groups, size = rng.choice([(1, 5), (2, 3), (3, 4), (4, 1), (2, 6)])
    config["n_routed_experts" if case.chance(0.7) else "num_experts"] = groups * size
    if case.chance(0.5):
        used = rng.randint(1, groups)
        config |= {"topk_method": "group_limited_greedy", "n_group": groups, "topk_group": used, "num_experts_per_tok": rng.randint(1, used * size)}
    else:
        tools.maybe(case, config, "topk_method", "greedy")
        config["num_experts_per_tok"] = rng.randint(1, groups * size)
    tools.maybe(case, config, "norm_topk_prob", not plain and case.chance(0.1), 0.5)


def deepseek_v3(case, config, plain, tools, head_dim):
    rng = case.rng
    deepseek(case, config, plain, tools)
    tools.maybe(case, config, "rope_interleave", case.chance(0.6), 0.4)
    sigmoid_router(case, config, tools)


def sigmoid_router(case, config, tools):
    rng = case.rng
    groups, size = rng.choice([(1, 5), (2, 3), (3, 4), (4, 2), (2, 6)])
    used = rng.randint(1, groups)
    config |= {"n_routed_experts": groups * size, "n_group": groups, "topk_group": used, "num_experts_per_tok": rng.randint(1, used * size)}
    tools.maybe(case, config, "norm_topk_prob", case.chance(0.5))


def glm4_moe(case, config, plain, tools, head_dim):
    rng = case.rng
    head_dim = rng.choice([4, 8, 12, 16])
    own_head_size(case, config, head_dim, always=True)
    some_rotary(case, config, tools, head_dim)
    tools.maybe(case, config, "rope_theta", rng.choice([10000.0, 500.0]), 0.3)
    tools.maybe(case, config, "use_qk_norm", case.chance(0.6))
    config |= {"moe_intermediate_size": rng.randint(8, 40), "n_shared_experts": rng.choice([1, 2])}
    tools.maybe(case, config, "first_k_dense_replace", rng.choice([0, 0, 1, 2]))
    tools.maybe(case, config, "routed_scaling_factor", rng.choice([1.0, 2.5, 0.5]))
    sigmoid_router(case, config, tools)
    of_router(case, config, plain)


def gpt_oss(case, config, plain, tools, head_dim):
    rng = case.rng
    own_head_size(case, config, head_dim, always=True)
    count = rng.choice([1, 2, 3, 5, 12]) if not plain else rng.choice([2, 3, 5])
    config[rng.choice(["num_local_experts", "num_local_experts", "num_experts"])] = count
    config["num_experts_per_tok"] = rng.randint(1, count)
    types(case, config)
    tools.maybe(case, config, "swiglu_alpha", rng.choice([1.702, 1.0, 0.5, 3.0]), 0.5)
    tools.maybe(case, config, "swiglu_limit", rng.choice([7.0, 0.5, 0.05, 2.0]), 0.3)
    of_router(case, config, plain)
    if case.chance(0.3):
        if case.chance(0.5):
            config["rope_theta"] = rng.choice([150000.0, 1000.0])
        return
    tools.rotary(case, config, plain)


KINDS = {
    "ministral": ministral, "qwen3": qwen3, "smollm3": smollm3, "olmo2": olmo2, "olmo3": olmo3, "gemma": gemma, "gemma2": gemma2,
    "gemma3_text": gemma3, "granite": granite, "phi3": phi3, "glm": glm, "glm4": glm, "starcoder2": starcoder2, "gpt_neox": gpt_neox,
    "falcon": falcon, "phi": phi, "mixtral": mixtral, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "olmoe": olmoe,
    "deepseek_v2": deepseek_v2, "deepseek_v3": deepseek_v3, "glm4_moe": glm4_moe, "gpt_oss": gpt_oss}

CLASSES = {
    family: (f"{stem}ForCausalLM", f"{stem}ForCausalLM", f"{stem}ForSequenceClassification", f"{stem}Model")
    for family, stem in (
        ("ministral", "Ministral"), ("qwen3", "Qwen3"), ("smollm3", "SmolLM3"), ("olmo2", "Olmo2"), ("olmo3", "Olmo3"), ("gemma", "Gemma"),
        ("gemma2", "Gemma2"), ("granite", "Granite"), ("phi3", "Phi3"), ("glm", "Glm"), ("glm4", "Glm4"), ("starcoder2", "Starcoder2"),
        ("gpt_neox", "GPTNeoX"), ("falcon", "Falcon"), ("phi", "Phi"), ("mixtral", "Mixtral"), ("qwen2_moe", "Qwen2Moe"), ("qwen3_moe", "Qwen3Moe"), ("olmoe", "Olmoe"),
        ("deepseek_v2", "DeepseekV2"), ("deepseek_v3", "DeepseekV3"), ("glm4_moe", "Glm4Moe"), ("gpt_oss", "GptOss"))}
CLASSES["olmoe"] = ("OlmoeForCausalLM", "OlmoeForCausalLM", "OlmoeModel")
CLASSES["glm4_moe"] = ("Glm4MoeForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeModel")
CLASSES["granite"] = ("GraniteForCausalLM", "GraniteForCausalLM", "GraniteModel")
CLASSES["gemma3_text"] = ("Gemma3ForCausalLM", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", "Gemma3TextModel")
