"""Drawn configurations of decoders beside Llama's nearest relatives: every key that each family's configuration has."""
from . import mixtures
from .parts import own_head_size, some_rotary, types


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


def granite4(case, config, plain, tools, head_dim):
    rng = case.rng
    granite(case, config, plain, tools, head_dim)
    config.pop("mlp_bias", None)
    config["shared_intermediate_size"] = config.pop("intermediate_size")
    # What layers of Mamba would be has to fit, too.
    config |= {"num_local_experts": 0, "mamba_n_heads": 1, "layer_types": [rng.choice(["attention", "full_attention"]) for _ in range(config["num_hidden_layers"])]}
    tools.maybe(case, config, "num_experts_per_tok", 0, 0.5)
    tools.maybe(case, config, "position_embedding_type", rng.choice(["rope", "rope", "rope", "nope", None]), 0.1)
    if not plain and case.chance(0.04):
        config["layer_types"][-1] = rng.choice(["mamba", "linear_attention"])
    elif not plain and case.chance(0.04):
        config |= {"num_local_experts": 2, "num_experts_per_tok": 1}


def ministral3(case, config, plain, tools, head_dim):
    rng = case.rng
    config.pop("attention_bias", None)
    own_head_size(case, config, head_dim, always=True)
    tools.maybe(case, config, "sliding_window", rng.choice([None, 2, 5, 9]), 0.5)
    if case.chance(0.15):
        tools.maybe(case, config, "rope_parameters", None)
        return
    tools.rotary(case, config, plain)
    if config.get("rope_scaling") is None and "rope_parameters" not in config:
        config["rope_scaling"] = {"type": "default"}
    scaling = config.get("rope_scaling") or config["rope_parameters"]
    scaling["llama_4_scaling_beta"] = rng.choice([0.1, 0.1, 1.0, 0, -0.3])
    scaling.setdefault("original_max_position_embeddings", rng.choice([2, 4, 8, 16]))


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


KINDS = {
    "ministral": ministral, "qwen3": qwen3, "smollm3": smollm3, "olmo2": olmo2, "olmo3": olmo3, "gemma": gemma, "gemma2": gemma2,
    "gemma3_text": gemma3, "granite": granite, "granitemoehybrid": granite4, "ministral3": ministral3, "phi3": phi3, "glm": glm, "glm4": glm, "starcoder2": starcoder2, "gpt_neox": gpt_neox,
    "falcon": falcon, "phi": phi, **mixtures.KINDS}

CLASSES = {
    family: (f"{stem}ForCausalLM", f"{stem}ForCausalLM", f"{stem}ForSequenceClassification", f"{stem}Model")
    for family, stem in (
        ("ministral", "Ministral"), ("qwen3", "Qwen3"), ("smollm3", "SmolLM3"), ("olmo2", "Olmo2"), ("olmo3", "Olmo3"), ("gemma", "Gemma"),
        ("gemma2", "Gemma2"), ("granite", "Granite"), ("ministral3", "Ministral3"), ("phi3", "Phi3"), ("glm", "Glm"), ("glm4", "Glm4"), ("starcoder2", "Starcoder2"),
        ("gpt_neox", "GPTNeoX"), ("falcon", "Falcon"), ("phi", "Phi"), ("mixtral", "Mixtral"), ("qwen2_moe", "Qwen2Moe"), ("qwen3_moe", "Qwen3Moe"), ("olmoe", "Olmoe"),
        ("deepseek_v2", "DeepseekV2"), ("deepseek_v3", "DeepseekV3"), ("glm4_moe", "Glm4Moe"), ("gpt_oss", "GptOss"))}
CLASSES["olmoe"] = ("OlmoeForCausalLM", "OlmoeForCausalLM", "OlmoeModel")
CLASSES["glm4_moe"] = ("Glm4MoeForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeModel")
CLASSES["granite"] = ("GraniteForCausalLM", "GraniteForCausalLM", "GraniteModel")
CLASSES["granitemoehybrid"] = ("GraniteMoeHybridForCausalLM", "GraniteMoeHybridForCausalLM", "GraniteMoeHybridModel")
CLASSES["llama4_text"] = ("Llama4ForCausalLM", "Llama4ForCausalLM", "Llama4TextModel")
CLASSES["gemma3_text"] = ("Gemma3ForCausalLM", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", "Gemma3TextModel")
