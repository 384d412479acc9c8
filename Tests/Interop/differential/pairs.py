"""Drawn configurations of an encoder and a decoder: every key that T5's has, under both names where it has two."""
import math

import torch
from .wholes import numbers

CLASSES = {"t5": ("T5ForConditionalGeneration",), "mt5": ("MT5ForConditionalGeneration",)}


def rounds_alike(buckets, longest):
    """Whether PyTorch's logarithm, which is not always rounded to the nearest number, puts no distance on the other side of a border between buckets."""
    for count in (buckets, buckets // 2):
        exact = count // 2
        if longest <= exact:
            return False
        x = torch.arange(exact, longest + 1).float() / exact
        parts = [logarithm / math.log(longest / exact) * (count - exact) for logarithm in (x.log(), x.double().log().float())]
        if not torch.equal(*(part.long() for part in parts)):
            return False
    return True


def draw(case, family, plain, tools):
    """A configuration of `family`.

    - tools: configurations.py, whose parts these share
    """
    rng, maybe = case.rng, tools.maybe

    def key(one, other):
        return other if not plain and case.chance(0.15) else one
    config = {
        "vocab_size": rng.randint(20, 140), key("d_model", "hidden_size"): rng.randint(3, 64), key("d_kv", "head_dim"): rng.choice([1, 2, 5, 8, 12, 16]),
        "d_ff": rng.randint(5, 70), key("num_heads", "num_attention_heads"): rng.randint(1, 6), key("num_layers", "num_hidden_layers"): rng.randint(1, 3),
        "pad_token_id": rng.choice([0, 1, 4]), "eos_token_id": 2, "decoder_start_token_id": rng.choice([0, 0, 3]), "is_encoder_decoder": True}
    maybe(case, config, "num_decoder_layers", rng.choice([None, 1, 2, 3, 4]))
    while True:
        buckets, longest = rng.choice([32, rng.randint(4, 40)]), rng.choice([128, rng.randint(3, 100)])
        if rounds_alike(buckets, longest) and rounds_alike(buckets, 128) and rounds_alike(32, longest):
            break
    maybe(case, config, "relative_attention_num_buckets", buckets)
    maybe(case, config, "relative_attention_max_distance", longest)
    maybe(case, config, "layer_norm_epsilon", rng.choice([1e-6, 1e-5, 1e-3, 0.1]))
    maybe(case, config, "feed_forward_proj", rng.choice(["relu", "gated-gelu", "gated-silu", "gated-relu", tools.activation(case, plain)]))
    maybe(case, config, "tie_word_embeddings", case.chance(0.5))
    if not plain:
        maybe(case, config, "scale_decoder_outputs", case.chance(0.5), 0.9)
        maybe(case, config, "dense_act_fn", tools.activation(case, plain), 0.9)
        maybe(case, config, "n_positions", 8, 0.7)
    return config


def question(case, model, asked, simple):
    """What the decoder reads, or labels that say so, beside what the encoder reads."""
    rng, size = case.rng, numbers(model).vocab_size
    shape = (asked["input_ids"].shape[0], rng.choice([1, 2, 5, 17, 70]))
    ids = torch.randint(0, size, shape)
    if simple or case.chance(0.5):
        asked["decoder_input_ids"] = ids
    else:
        asked["labels"] = torch.where(torch.rand(shape) < 0.2, -100, ids)
        asked["labels"][0, 0] = ids[0, 0]
    return asked


def rows(rng, size, count):
    """Rows of ids, some of whose labels count for nothing."""
    made = []
    for _ in range(count):
        ids, labels = ([rng.randrange(size) for _ in range(rng.randint(1, 20))] for _ in range(2))
        made.append({"ids": ids, "labels": [-100 if place and rng.random() < 0.2 else one for place, one in enumerate(labels)]})
    return made


def scored(model, row):
    """Scores of what a row's decoder writes, and the labels they are judged by."""
    labels = torch.tensor(row["labels"])
    return model(input_ids=torch.tensor([row["ids"]]), labels=labels[None]).logits[0], labels
