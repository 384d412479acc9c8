"""Drawn configurations of mixtures of experts: every key that each family's configuration has."""
from .parts import own_head_size, some_rotary, types


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


def llama4(case, config, plain, tools, head_dim):
    rng, layers = case.rng, config["num_hidden_layers"]
    own_head_size(case, config, head_dim, always=True)
    count = rng.choice([1, 2, 3, 5, 12])
    config |= {"num_local_experts": count, "intermediate_size_mlp": rng.randint(5, 70), "attention_chunk_size": rng.choice([2, 3, 5, 9, 8192])}
    tools.maybe(case, config, "num_experts_per_tok", rng.randint(1, count))
    tools.maybe(case, config, "interleave_moe_layer_step", rng.choice([1, 1, 2, 3]))
    tools.maybe(case, config, "moe_layers", rng.choice([None, [0], [], [1], [0, 2]]), 0.6)
    tools.maybe(case, config, "use_qk_norm", case.chance(0.5), 0.4)
    tools.maybe(case, config, "attn_temperature_tuning", case.chance(0.6), 0.4)
    tools.maybe(case, config, "floor_scale", rng.choice([1, 2, 4, 9]), 0.1)
    tools.maybe(case, config, "attn_scale", rng.choice([0.1, 1.0, -0.2, 0.0]))
    if case.chance(0.5):
        config["no_rope_layers"] = [rng.choice([0, 1]) for _ in range(layers)] if case.chance(0.8) else []
    else:
        tools.maybe(case, config, "no_rope_layer_interval", rng.choice([1, 2, 3]), 0.3)
    if case.chance(0.3):
        config["layer_types"] = [rng.choice(["full_attention", "chunked_attention"]) for _ in range(layers)]
    of_router(case, config, plain)
    tools.rotary(case, config, plain)


KINDS = {
    "llama4_text": llama4, "mixtral": mixtral, "qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "olmoe": olmoe, "deepseek_v2": deepseek_v2, "deepseek_v3": deepseek_v3,
    "glm4_moe": glm4_moe, "gpt_oss": gpt_oss}
