"""Heads for masked tokens, and ModernBERT's heads for tokens and answers, compared with transformers and PEFT."""
import copy
import json
import os
import random

import peft
import pytest
import torch
import transformers
from running import TOLERANCE, assert_same, distance, edit_config, expected, forward
from safetensors.torch import load_file, save_file

SEED = int(os.environ["NIBBLE_SEED"])
SLOW = bool(os.environ.get("NIBBLE_SLOW"))
FAMILIES = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert", "mpnet", "modernbert", "deberta-v2"]
SIZE = 71


def draw_config(draw, family, **changes):
    """A small configuration with every key of the head drawn, and those of the body that a head has to do with."""
    heads = draw.choice([1, 2, 4])
    width = heads * draw.choice([4, 8, 10])
    activation = draw.choice(["gelu", "gelu_new", "relu", "tanh", "silu"])
    if family == "distilbert":
        sizes = {"dim": width, "n_heads": heads, "n_layers": draw.randint(1, 2), "hidden_dim": draw.randint(5, 30), "activation": activation}
    else:
        sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": draw.randint(1, 2), "intermediate_size": draw.randint(5, 30)}
        sizes["hidden_activation" if family == "modernbert" else "hidden_act"] = activation
        sizes["norm_eps" if family == "modernbert" else "layer_norm_eps"] = draw.choice([1e-12, 1e-5, 1e-2])
    if family in ("electra", "albert"):
        sizes["embedding_size"] = draw.choice([width, draw.randint(4, 24)])
    if family == "modernbert":
        sizes |= {key: draw.random() < 0.5 for key in ("decoder_bias", "classifier_bias", "norm_bias", "sparse_prediction")}
        sizes |= {"classifier_activation": draw.choice(["gelu", "relu", "silu"]), "local_attention": draw.choice([4, 128])}
        sizes |= {"eos_token_id": 2, "bos_token_id": 0, "cls_token_id": 0, "sep_token_id": 2}
    if family == "deberta-v2":
        sizes |= {"legacy": draw.random() < 0.5, "relative_attention": draw.random() < 0.5, "pos_att_type": ["p2c", "c2p"]}
    return transformers.AutoConfig.for_model(
        family, vocab_size=SIZE, max_position_embeddings=40, pad_token_id=1, tie_word_embeddings=draw.random() < 0.6, **sizes | changes)


def make(config, kind="MaskedLM"):
    """A model whose every parameter is random, whose ties are its configuration's."""
    auto = {"MaskedLM": transformers.AutoModelForMaskedLM, "TokenClassification": transformers.AutoModelForTokenClassification,
            "QuestionAnswering": transformers.AutoModelForQuestionAnswering}[kind]
    model = auto.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.2 if "norm" not in name.lower() else 0.1))
    return model.eval()


def question(padding=1):
    asked = {"input_ids": torch.randint(3, SIZE, (3, 14)), "labels": torch.randint(0, SIZE, (3, 14))}
    asked["labels"][torch.rand(3, 14) < 0.6] = -100
    if padding:
        asked["attention_mask"] = torch.ones(3, 14, dtype=torch.long)
        asked["attention_mask"][1, 9:] = 0
        asked["labels"][1, 9:] = -100
    return asked


def assert_answers(nibble, base, model, work, asked, *options):
    """nibble's logits of every token, and the loss. (With `sparse_prediction` transformers gives those of tokens with labels only.)"""
    ours = forward(nibble, base, work, *options, **asked)
    plain = expected(model, **{name: value for name, value in asked.items() if name != "labels"})
    assert_same(ours, {"logits": plain["logits"], "loss": expected(model, **asked)["loss"]}, asked.get("attention_mask"))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_loss_are_transformers_own(nibble, work, family):
    for number in range(8 if SLOW else 3):
        draw = random.Random(f"{SEED} masked {family} {number}")
        torch.manual_seed(draw.randrange(2**32))
        model = make(draw_config(draw, family))
        model.save_pretrained(work / str(number))
        assert_answers(nibble, work / str(number), model, work, question())
