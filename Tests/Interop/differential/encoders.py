"""Drawn configurations of encoders beside BERT and RoBERTa: every key that each family's configuration has."""


def draw(case, family, plain, tools):
    """A configuration of `family`.

    - tools: configurations.py, whose parts these share
    """
    heads = case.rng.choice([1, 2, 3, 4, 6])
    config = {"vocab_size": case.rng.randint(20, 140), "num_attention_heads": heads, "num_hidden_layers": case.rng.randint(1, 3)}
    KINDS[family](case, config, plain, tools, heads)
    return config


def distilbert(case, config, plain, tools, heads):
    rng, maybe = case.rng, tools.maybe
    config |= {"n_heads": config.pop("num_attention_heads"), "n_layers": config.pop("num_hidden_layers")}
    config |= {"dim": heads * tools.head_size(case, plain), "hidden_dim": rng.randint(5, 70)}
    maybe(case, config, "max_position_embeddings", rng.choice([45, 66, 80]), 0.05)
    maybe(case, config, "activation", tools.activation(case, plain))
    maybe(case, config, "sinusoidal_pos_embds", case.chance(0.3), 0.5)
    maybe(case, config, "pad_token_id", rng.choice([0, 1, 1, 4]), 0.3)


def deberta(case, config, plain, tools, heads):
    rng, maybe = case.rng, tools.maybe
    config |= {"hidden_size": heads * tools.head_size(case, plain), "intermediate_size": rng.randint(5, 70)}
    maybe(case, config, "max_position_embeddings", rng.choice([45, 66, 80]), 0.05)
    maybe(case, config, "hidden_act", tools.activation(case, plain))
    maybe(case, config, "layer_norm_eps", rng.choice([1e-12, 1e-7, 1e-3, 0.1]))
    maybe(case, config, "type_vocab_size", rng.choice([0, 2, 3]), 0.2)
    maybe(case, config, "pad_token_id", rng.choice([0, 1, 4]), 0.3)
    maybe(case, config, "relative_attention", case.chance(0.9), 0.1)
    maybe(case, config, "position_buckets", rng.choice([-1, 8, 16, 256]), 0.3)
    maybe(case, config, "max_relative_positions", rng.choice([-1, 20, 64]), 0.3)
    maybe(case, config, "pos_att_type", rng.choice([["p2c", "c2p"], "p2c|c2p", ["c2p"], ["p2c"], "c2p"]), 0.1)
    maybe(case, config, "share_att_key", case.chance(0.7), 0.2)
    maybe(case, config, "position_biased_input", case.chance(0.4), 0.2)
    maybe(case, config, "norm_rel_ebd", rng.choice(["layer_norm", "none"]), 0.3)
    maybe(case, config, "pooler_hidden_act", tools.activation(case, plain), 0.5)


def modernbert(case, config, plain, tools, heads):
    rng, maybe, layers = case.rng, tools.maybe, config["num_hidden_layers"]
    config |= {"hidden_size": heads * rng.choice([4, 8, 10, 16]), "intermediate_size": rng.randint(5, 70)}
    config |= {"pad_token_id": rng.choice([0, 1, 4]), "eos_token_id": 2, "bos_token_id": 1, "cls_token_id": 1, "sep_token_id": 2}
    maybe(case, config, "max_position_embeddings", rng.choice([45, 66, 80, 513]), 0.1)
    maybe(case, config, "hidden_activation", tools.activation(case, plain))
    maybe(case, config, "norm_eps", rng.choice([1e-12, 1e-5, 1e-3, 0.1]))
    for key in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"):
        maybe(case, config, key, case.chance(0.5), 0.3)
    maybe(case, config, "local_attention", rng.choice([2, 4, 7, 12, 128]), 0.1)
    maybe(case, config, "classifier_pooling", rng.choice(["cls", "mean"]), 0.2)
    maybe(case, config, "classifier_activation", tools.activation(case, plain), 0.5)
    if case.chance(0.3):
        config["layer_types"] = [rng.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    else:
        maybe(case, config, "global_attn_every_n_layers", rng.choice([1, 2, 3]))
    if case.chance(0.5):
        maybe(case, config, "global_rope_theta", rng.choice([100.0, 10000, 160000.0]), 0.3)
        maybe(case, config, "local_rope_theta", rng.choice([100.0, 10000.0]), 0.3)
    else:
        config["rope_parameters"] = {
            kind: {"rope_type": "default", "rope_theta": rng.choice([100.0, 5000.0])} for kind in ("full_attention", "sliding_attention")}


def electra(case, config, plain, tools, heads):
    rng = case.rng
    width = heads * tools.head_size(case, plain)
    config |= {"hidden_size": width, "intermediate_size": rng.randint(5, 70), "embedding_size": rng.choice([width, rng.randint(4, 40)])}
    common(case, config, plain, tools)


def albert(case, config, plain, tools, heads):
    rng, maybe = case.rng, tools.maybe
    config |= {"hidden_size": heads * tools.head_size(case, plain), "intermediate_size": rng.randint(5, 70), "embedding_size": rng.randint(4, 40)}
    config["num_hidden_layers"] = rng.randint(1, 5)
    maybe(case, config, "num_hidden_groups", rng.randint(1, config["num_hidden_layers"]), 0.5)
    maybe(case, config, "inner_group_num", rng.choice([1, 2, 3]), 0.5)
    common(case, config, plain, tools)


def mpnet(case, config, plain, tools, heads):
    rng, maybe = case.rng, tools.maybe
    config |= {"hidden_size": heads * tools.head_size(case, plain), "intermediate_size": rng.randint(5, 70)}
    maybe(case, config, "relative_attention_num_buckets", rng.choice([32, 40, 100]), 0.4)
    common(case, config, plain, tools)
    config.pop("type_vocab_size", None)


def masked(case, config, tools):
    """What only heads for masked tokens ask for."""
    tools.maybe(case, config, "tie_word_embeddings", case.chance(0.6), 0.3)
    if config["model_type"] == "deberta-v2":
        tools.maybe(case, config, "legacy", case.chance(0.6), 0.2)
    if config["model_type"] == "modernbert":
        tools.maybe(case, config, "decoder_bias", case.chance(0.5), 0.3)
        tools.maybe(case, config, "sparse_prediction", case.chance(0.5), 0.5)


def common(case, config, plain, tools):
    """What BERT's relatives have alike."""
    rng, maybe = case.rng, tools.maybe
    maybe(case, config, "max_position_embeddings", rng.choice([45, 66, 80]), 0.05)
    maybe(case, config, "hidden_act", tools.activation(case, plain))
    maybe(case, config, "layer_norm_eps", rng.choice([1e-12, 1e-5, 1e-3, 0.1]))
    maybe(case, config, "type_vocab_size", rng.choice([1, 2, 3]), 0.1)
    maybe(case, config, "pad_token_id", rng.choice([0, 1, 4]), 0.3)


KINDS = {"electra": electra, "albert": albert, "mpnet": mpnet, "distilbert": distilbert, "deberta-v2": deberta, "modernbert": modernbert}
