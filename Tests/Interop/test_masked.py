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
    sizes |= {"vocab_size": SIZE, "max_position_embeddings": 40, "pad_token_id": 1, "tie_word_embeddings": draw.random() < 0.6}
    return transformers.AutoConfig.for_model(family, **sizes | changes)


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


@pytest.mark.parametrize("kind", ["TokenClassification", "QuestionAnswering"])
def test_modernbert_scores_tokens_and_answers(nibble, work, kind):
    for number in range(4):
        draw = random.Random(f"{SEED} {kind} {number}")
        torch.manual_seed(draw.randrange(2**32))
        labels = {"num_labels": draw.randint(2, 5)} if kind == "TokenClassification" else {}
        model = make(draw_config(draw, "modernbert", **labels), kind)
        model.save_pretrained(work / str(number))
        asked = question()
        if kind == "TokenClassification":
            asked["labels"] = torch.where(asked["labels"] < 0, asked["labels"], asked["labels"] % labels["num_labels"])
            assert_same(forward(nibble, work / str(number), work, **asked), expected(model, **asked), asked["attention_mask"])
            continue
        del asked["labels"]
        ours = forward(nibble, work / str(number), work, **asked)
        with torch.no_grad():
            theirs = model(**asked)
        for name in ("start_logits", "end_logits"):
            assert distance(ours[name], theirs[name], asked["attention_mask"]) < TOLERANCE


STORED = ["both", "only the decoder", "both biases", "two weights", "two biases"]


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "mpnet", "deberta-v2"])
@pytest.mark.parametrize("stored", STORED)
def test_a_file_may_hold_what_is_tied_under_either_name(nibble, work, family, stored):
    """As transformers reads it: two that differ are not tied."""
    draw = random.Random(f"{SEED} {family} {stored}")
    torch.manual_seed(draw.randrange(2**32))
    model = make(draw_config(draw, family, tie_word_embeddings=True, **({"legacy": True} if family == "deberta-v2" else {})))
    model.save_pretrained(work / "m")
    tensors = load_file(work / "m" / "model.safetensors")
    word = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    bias = next(name for name in tensors if name.endswith(("predictions.bias", "lm_head.bias")))
    decoder = bias.removesuffix("bias") + "decoder."
    if stored == "both":
        tensors[decoder + "weight"] = tensors[word].clone()
    elif stored == "only the decoder":
        tensors[decoder + "weight"], tensors[decoder + "bias"] = tensors.pop(word), tensors.pop(bias)
    elif stored == "both biases":
        tensors[decoder + "bias"] = tensors[bias].clone()
    elif stored == "two weights":
        tensors[decoder + "weight"] = torch.randn(tensors[word].shape)
    else:
        tensors[decoder + "bias"] = torch.randn(tensors[bias].shape)
    save_file(tensors, work / "m" / "model.safetensors", metadata={"format": "pt"})
    assert_answers(nibble, work / "m", type(model).from_pretrained(work / "m", attn_implementation="eager").eval(), work, question())


@pytest.mark.parametrize("kind", ["ElectraForPreTraining", "BertForPreTraining", "BertForNextSentencePrediction", "AlbertForPreTraining"])
def test_other_heads_of_pretraining_are_refused_by_name(nibble, work, kind):
    found = getattr(transformers, kind)
    family = found.config_class.model_type
    found(draw_config(random.Random(SEED), family)).save_pretrained(work / "m")
    save_file({"input_ids": torch.randint(3, SIZE, (1, 4))}, work / "ask.safetensors")
    line = nibble("forward", "--base", work / "m", "--ids", work / "ask.safetensors", "-o", work / "out.safetensors", exits=3).stderr
    assert kind in line


@pytest.mark.parametrize("changes, said", [
    ({"decoder_bias": "yes"}, "decoder_bias"), ({"sparse_pred_ignore_index": 3}, "sparse_pred_ignore_index"), ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"classifier_activation": "laplace"}, "classifier_activation"), ({"classifier_bias": True}, "head.dense.bias"), ({"norm_bias": True}, "bias"),
    ({"decoder_bias": True}, "decoder.bias"),
])
def test_configurations_that_are_wrong_are_refused(nibble, work, changes, said):
    draw = random.Random(SEED)
    make(draw_config(draw, "modernbert", decoder_bias=False, classifier_bias=False, norm_bias=False)).save_pretrained(work / "m")
    edit_config(work / "m", **changes)
    save_file({"input_ids": torch.randint(3, SIZE, (1, 4))}, work / "ask.safetensors")
    line = nibble("forward", "--base", work / "m", "--ids", work / "ask.safetensors", "-o", work / "out.safetensors", exits=3).stderr
    assert said in line and len(line.strip().splitlines()) == 1
