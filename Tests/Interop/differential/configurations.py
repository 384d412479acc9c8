"""Drawn configurations, in every spelling transformers accepts: keys that are absent, null, at their old place or under an old name."""
import sys

import transformers

from . import decoders, encoders, pairs, wholes

# What nibble runs, and the classes it runs them as.
DECODERS = {
    "llama": ("LlamaForCausalLM", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralForCausalLM", "MistralForSequenceClassification", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"),
    "gpt2": ("GPT2LMHeadModel", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2Model"),
    **decoders.CLASSES, **wholes.CLASSES,
}
ENCODERS = {
    "bert": ("BertForSequenceClassification", "BertForTokenClassification", "BertForMaskedLM", "BertModel"),
    "roberta": ("RobertaForSequenceClassification", "RobertaForTokenClassification", "RobertaForMaskedLM", "RobertaModel"),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", "XLMRobertaForTokenClassification", "XLMRobertaForMaskedLM", "XLMRobertaModel"),
    "camembert": ("CamembertForSequenceClassification", "CamembertForTokenClassification", "CamembertForMaskedLM", "CamembertModel"),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertForTokenClassification", "DistilBertForMaskedLM", "DistilBertModel"),
    "deberta-v2": ("DebertaV2ForSequenceClassification", "DebertaV2ForTokenClassification", "DebertaV2ForMaskedLM", "DebertaV2Model"),
    "modernbert": ("ModernBertForSequenceClassification", "ModernBertForTokenClassification", "ModernBertForMaskedLM", "ModernBertModel"),
    "electra": ("ElectraForSequenceClassification", "ElectraForTokenClassification", "ElectraForMaskedLM", "ElectraModel"),
    "albert": ("AlbertForSequenceClassification", "AlbertForTokenClassification", "AlbertForMaskedLM", "AlbertModel"),
    "mpnet": ("MPNetForSequenceClassification", "MPNetForTokenClassification", "MPNetForMaskedLM", "MPNetModel"),
}
PAIRS = pairs.CLASSES
# What can be merged and packed without being run: the fuzzer asks transformers to run the result.
OTHERS = {
    "opt": "OPTForCausalLM", "bloom": "BloomForCausalLM", "gpt_neo": "GPTNeoForCausalLM", "gptj": "GPTJForCausalLM",
    "cohere": "CohereForCausalLM", "stablelm": "StableLmForCausalLM",
    "convbert": "ConvBertForSequenceClassification",
}
MASKED = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "xlm-roberta": "XLMRobertaForMaskedLM"}

ACTIVATIONS = ["silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "tanh", "quick_gelu"]
RARE_ACTIVATIONS = ["relu2", "sigmoid", "mish", "gelu_python", "gelu_10", "gelu_accurate", "linear", "leaky_relu", "relu6", "laplace"]


def activation(case, plain):
    return case.rng.choice(RARE_ACTIVATIONS if not plain and case.chance(0.06) else ACTIVATIONS)


def configuration(case, family, class_name, plain):
    if family in ("llama", "mistral", "qwen2"):
        config = llama_like(case, family, plain)
    elif family == "gpt2":
        config = gpt2(case, plain)
    elif family in wholes.WHOLES:
        config = wholes.draw(case, family, plain, sys.modules[__name__])
    elif family in decoders.KINDS:
        config = decoders.draw(case, family, plain, sys.modules[__name__])
    elif family in encoders.KINDS:
        config = encoders.draw(case, family, plain, sys.modules[__name__])
    elif family in PAIRS:
        config = pairs.draw(case, family, plain, sys.modules[__name__])
    elif family in ENCODERS:
        config = bert_like(case, family, plain)
    else:
        config = other(case, family)
    config |= {"model_type": family, "architectures": [class_name]}
    if "SequenceClassification" in class_name:
        labels(case, config, plain)
    if "TokenClassification" in class_name:
        config["num_labels"] = case.rng.randint(2, 6)
    if "MaskedLM" in class_name and family in ENCODERS:
        encoders.masked(case, config, sys.modules[__name__])
    return config


def maybe(case, config, key, value, absent=0.25, plain=False):
    """The key with a value, or (sometimes) without it, which means the library's default."""
    if plain or not case.chance(absent):
        config[key] = value


def divisors(number):
    return [one for one in range(1, number + 1) if number % one == 0]


def llama_like(case, family, plain):
    rng = case.rng
    heads = rng.choice([1, 2, 3, 4, 6, 8])
    head_dim = rng.choice([2, 4, 6, 8, 10, 16, 20])
    config = {
        "vocab_size": rng.randint(20, 140), "num_hidden_layers": rng.randint(1, 3), "num_attention_heads": heads,
        "num_key_value_heads": rng.choice(divisors(heads)), "intermediate_size": rng.randint(5, 70),
        "hidden_size": heads * head_dim, "bos_token_id": 1, "eos_token_id": 2}
    if case.chance(0.3):
        config |= {"head_dim": head_dim, "hidden_size": heads * rng.randint(2, 12)}
    elif case.chance(0.1) and family != "qwen2":
        config["head_dim"] = None
    if not plain and case.chance(0.02):
        # Only llama, of these, does without.
        config["hidden_size"] += 1
    if not plain and family == "llama" and case.chance(0.1):
        del config["num_key_value_heads"]
    maybe(case, config, "hidden_act", activation(case, plain))
    maybe(case, config, "rms_norm_eps", rng.choice([1e-6, 1e-5, 1e-12, 1e-3, 0.1]))
    maybe(case, config, "tie_word_embeddings", case.chance(0.5))
    maybe(case, config, "max_position_embeddings", rng.choice([40, 64, 128, 513, 8192]), 0.1)
    maybe(case, config, "pad_token_id", rng.choice([0, 2, 5]), 0.2, plain)
    if family == "llama":
        maybe(case, config, "attention_bias", case.chance(0.4), 0.4)
        maybe(case, config, "mlp_bias", case.chance(0.4), 0.4)
        maybe(case, config, "pretraining_tp", 1, 0.7)
    if family == "mistral":
        maybe(case, config, "sliding_window", rng.choice([None, 1, 2, 5, 9, 20, 4096]), 0.25)
    if family == "qwen2":
        maybe(case, config, "use_sliding_window", case.chance(0.5), 0.3)
        maybe(case, config, "sliding_window", rng.choice([None, 2, 5, 9]), 0.2)
        maybe(case, config, "max_window_layers", rng.randint(0, 3), 0.2)
        if plain and config.get("use_sliding_window") and config.get("sliding_window", 4096) is None:
            config["use_sliding_window"] = False
        if case.chance(0.15) and not (plain and not (config.get("use_sliding_window") and config.get("sliding_window"))):
            config["layer_types"] = [rng.choice(["full_attention", "sliding_attention"]) for _ in range(config["num_hidden_layers"])]
    rotary(case, config, plain)
    return config


def rotary(case, config, plain):
    """Rotary positions as files of all years spell them."""
    rng = case.rng
    theta = rng.choice([10000, 10000.0, 500000.0, 1e6, 100.0, 7])
    kind = rng.choices(["default", "linear", "dynamic", "llama3", "yarn", "longrope"], [40, 15, 8, 18, 18, 0 if plain else 1])[0]
    context = config.get("max_position_embeddings", 2048)
    trained = rng.choice([8, 16, 32, max(1, context // 2), max(1, context // 4)])
    values = {}
    if kind != "default":
        values["factor"] = rng.choice([1.0, 1.5, 2, 4.0, 8.0])
    if kind == "llama3":
        low = rng.choice([0.5, 1, 1.0, 2.0])
        values |= {"low_freq_factor": low, "high_freq_factor": low * rng.choice([2, 4, 1.5]), "original_max_position_embeddings": trained}
    if kind == "longrope":
        half = (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) // 2
        values |= {"short_factor": [1.5] * half, "long_factor": [3.0] * half, "original_max_position_embeddings": trained}
    if kind == "yarn":
        maybe(case, values, "original_max_position_embeddings", trained, 0.2)
        maybe(case, values, "beta_fast", rng.choice([32, 16.0, 4]), 0.5)
        maybe(case, values, "beta_slow", rng.choice([1, 2.0, 0.5]), 0.5)
        maybe(case, values, "attention_factor", rng.choice([1.0, 0.8, 1.3]), 0.7)
        maybe(case, values, "truncate", case.chance(0.5), 0.6)
        if not plain and case.chance(0.06):
            values |= {"mscale": 0.7, "mscale_all_dim": rng.choice([1.0, 0.5])}
    spelling = rng.choice(["new", "new", "new, theta outside", "old", "older", "beside", "original outside"])
    if plain and spelling in ("beside", "original outside"):
        spelling = "new"
    case.note(rotary=f"{kind}, {spelling}")
    if spelling.startswith("new"):
        config["rope_parameters"] = {"rope_type": kind, **values}
        if spelling == "new":
            config["rope_parameters"]["rope_theta"] = theta
        else:
            maybe(case, config, "rope_theta", theta, 0.3, plain)
        return
    maybe(case, config, "rope_theta", theta, 0.3, plain)
    scaling = {"type" if spelling == "older" else "rope_type": kind, **values} if kind != "default" else None
    if spelling == "original outside" and "original_max_position_embeddings" in values:
        if scaling and case.chance(0.7):
            del scaling["original_max_position_embeddings"]
        config["original_max_position_embeddings"] = trained
    if spelling == "beside":
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    config["rope_scaling"] = scaling


def head_size(case, plain):
    # A layer norm of one or two numbers has no gradient but rounding.
    return case.rng.choice([4, 5, 8, 11, 16] if plain else [1, 2, 5, 8, 11, 16])


def gpt2(case, plain):
    rng = case.rng
    heads = rng.choice([1, 2, 3, 4, 6])
    config = {
        "vocab_size": rng.randint(20, 140), "n_embd": heads * head_size(case, plain), "n_head": heads,
        "n_layer": rng.randint(1, 3), "bos_token_id": 1, "eos_token_id": 2}
    maybe(case, config, "n_positions", rng.choice([40, 64, 77]), 0.05)
    maybe(case, config, "n_inner", rng.choice([None, rng.randint(5, 70)]), 0.3)
    maybe(case, config, "activation_function", activation(case, plain))
    maybe(case, config, "layer_norm_epsilon", rng.choice([1e-5, 1e-12, 1e-3, 0.1]))
    maybe(case, config, "tie_word_embeddings", case.chance(0.5))
    maybe(case, config, "pad_token_id", rng.choice([0, 2, 5]), 0.2, plain)
    if not plain:
        maybe(case, config, "scale_attn_by_inverse_layer_idx", True, 0.95)
        maybe(case, config, "scale_attn_weights", False, 0.95)
        maybe(case, config, "reorder_and_upcast_attn", True, 0.9)
    return config


def bert_like(case, family, plain):
    rng = case.rng
    heads = rng.choice([1, 2, 3, 4, 6])
    config = {
        "vocab_size": rng.randint(20, 140), "hidden_size": heads * head_size(case, plain), "num_attention_heads": heads,
        "num_hidden_layers": rng.randint(1, 3), "intermediate_size": rng.randint(5, 70)}
    maybe(case, config, "max_position_embeddings", rng.choice([45, 66, 80]), 0.05)
    maybe(case, config, "hidden_act", activation(case, plain))
    maybe(case, config, "layer_norm_eps", rng.choice([1e-12, 1e-5, 1e-3, 0.1]))
    maybe(case, config, "type_vocab_size", rng.choice([1, 2, 3]), 0.1)
    maybe(case, config, "pad_token_id", rng.choice([0, 1, 1, 4]), 0.3)
    maybe(case, config, "position_embedding_type", "absolute", 0.6)
    return config


def other(case, family):
    """A family that only transformers runs here: plain sizes under every name there is for them."""
    rng = case.rng
    heads = rng.choice([2, 4])
    sizes = {
        "vocab_size": rng.randint(40, 140), "hidden_size": heads * 8, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": rng.choice(divisors(heads)), "head_dim": 8, "max_position_embeddings": 64,
        "n_embd": heads * 8, "n_layer": 2, "n_head": heads, "n_positions": 64, "num_layers": 2, "num_heads": heads, "n_inner": None,
        "ffn_dim": 40, "word_embed_proj_dim": heads * 8, "embedding_size": rng.choice([heads * 8, 12]), "dim": heads * 8,
        "n_heads": heads, "n_layers": 2, "hidden_dim": 40, "rotary_dim": 4, "sliding_window": 16, "query_pre_attn_scalar": 8,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    plain = transformers.AutoConfig.for_model(family)
    config = {key: value for key, value in sizes.items() if key in plain.to_dict() or hasattr(plain, key)}
    for key in set(config) & set(type(plain).attribute_map):
        del config[key]
    if family == "gpt_neo":
        config |= {"attention_types": [[["global", "local"], 1]], "window_size": 8}
    if case.chance(0.6):
        config["tie_word_embeddings"] = case.chance(0.6)
    return config


def labels(case, config, plain):
    rng = case.rng
    count = rng.choice([1, 2, 3, 5])
    if count == 2 and case.chance(0.3) and not plain:
        pass  # the default
    elif case.chance(0.7):
        config |= {"id2label": {str(one): f"L{one}" for one in range(count)}, "label2id": {f"L{one}": one for one in range(count)}}
    else:
        config["num_labels"] = count
    kinds = ["regression"] if count == 1 else ["single_label_classification", "multi_label_classification"]
    if count > 1:
        kinds.append("regression")
    # DeBERTa has losses of its own where the configuration does not say.
    maybe(case, config, "problem_type", rng.choice(kinds), 0 if config["model_type"] == "deberta-v2" else 0.6)
