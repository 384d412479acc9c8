"""Heads for masked tokens, and ModernBERT's heads for tokens and answers, compared with transformers and PEFT."""
import copy
import json
import random

import peft
import pytest
import torch
import transformers
from masked import BATCH, FAMILIES, RUN, SEED, SIZE, SLOW, STEPS, assert_steps, draw_config, draw_rows, make, save_rows
from running import TOLERANCE, assert_same, distance, edit_config, expected, forward
from safetensors.torch import load_file, save_file


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


# MARK: - Training

def targets_of(family):
    return {"distilbert": ["q_lin", "v_lin"], "mpnet": ["q", "v"], "deberta-v2": ["query_proj", "value_proj"], "modernbert": ["Wqkv", "Wo"]}.get(
        family, ["query", "value"])


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_attach_and_merge_as_in_peft(nibble, work, family):
    draw = random.Random(f"{SEED} training {family}")
    torch.manual_seed(draw.randrange(2**32))
    model = make(draw_config(draw, family))
    model.save_pretrained(work / "m")
    rows = draw_rows(draw, STEPS * BATCH)
    save_rows(work / "rows.jsonl", rows)
    dense = {"distilbert": "vocab_transform", "electra": "generator_predictions.dense", "albert": "predictions.dense", "modernbert": "head.dense"}.get(
        family, "dense")
    targets = targets_of(family) + ([dense] if draw.random() < 0.6 else [])
    theirs = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=3, target_modules=targets, init_lora_weights=False, bias=draw.choice(["none", "all", "lora_only"])))
    theirs.save_pretrained(work / "start")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "a", "--init-adapter", work / "start", "--any-base", *RUN)
    assert_steps(work / "a", theirs, rows)
    learned = peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a").eval()
    asked = {"input_ids": torch.randint(3, SIZE, (2, 11))}
    wanted = expected(learned, **asked)
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "a", **asked), wanted)
    nibble("merge", work / "m", work / "a", "-o", work / "merged", "--check-model")
    merged = type(model).from_pretrained(work / "merged", attn_implementation="eager").eval()
    assert distance(expected(merged, **asked)["logits"], wanted["logits"]) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_trains(nibble, work, family):
    draw = random.Random(f"{SEED} full {family}")
    torch.manual_seed(draw.randrange(2**32))
    model = make(draw_config(draw, family))
    model.save_pretrained(work / "m")
    rows = draw_rows(draw, STEPS * BATCH)
    save_rows(work / "rows.jsonl", rows)
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--method", "full", *RUN)
    assert_steps(work / "out", model, rows)
    written = type(model).from_pretrained(work / "out", attn_implementation="eager").eval()
    asked = {"input_ids": torch.randint(3, SIZE, (2, 11))}
    assert distance(expected(written, **asked)["logits"], expected(model, **asked)["logits"]) < 5e-4


def test_what_a_file_holds_twice_is_trained_once(nibble, work):
    torch.manual_seed(SEED)
    model = make(draw_config(random.Random(SEED), "bert", tie_word_embeddings=True))
    model.save_pretrained(work / "m")
    tensors = load_file(work / "m" / "model.safetensors")
    for own, other in (("bert.embeddings.word_embeddings.weight", "decoder.weight"), ("cls.predictions.bias", "decoder.bias")):
        tensors["cls.predictions." + other] = tensors[own].clone()
    save_file(tensors, work / "m" / "model.safetensors", metadata={"format": "pt"})
    rows = draw_rows(random.Random(SEED), STEPS * BATCH)
    save_rows(work / "rows.jsonl", rows)
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--method", "full", *RUN)
    assert_steps(work / "out", model, rows)
    found = load_file(work / "out" / "model.safetensors")
    for own, other in (("bert.embeddings.word_embeddings.weight", "decoder.weight"), ("cls.predictions.bias", "decoder.bias")):
        assert torch.equal(found[own], found["cls.predictions." + other]) and not torch.equal(found[own], tensors[own])


def test_a_new_adapter_is_one_for_peft(nibble, work):
    torch.manual_seed(SEED)
    model = make(draw_config(random.Random(SEED), "bert"))
    model.save_pretrained(work / "m")
    rows = draw_rows(random.Random(SEED), STEPS * BATCH)
    save_rows(work / "rows.jsonl", rows)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("finetune", work / "m.nbl", work / "rows.jsonl", "-o", work / "a", "--target-modules", "query,value", *RUN)
    config = json.loads((work / "a" / "adapter_config.json").read_text())
    assert config["task_type"] is None and config["modules_to_save"] is None and config["target_modules"] == ["query", "value"]
    peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a")


def embedding_settings(model, draw):
    """Adapters of the embedding and of the decoder, of which transformers ties the weights or does not."""
    def path(module):
        return next(name for name, other in model.named_modules() if other is module)

    embedding, inner = path(model.get_input_embeddings()), targets_of(model.config.model_type)[:1]
    rows = {"trainable_token_indices": {embedding: sorted(draw.sample(range(SIZE), 3))}}
    kinds = {"factors": {"target_modules": [*inner, embedding]}, "whole": {"target_modules": inner, "modules_to_save": [embedding]},
             "rows": {"target_modules": inner, **rows}}
    if getattr(model.config, "legacy", True):
        decoder = path(model.get_output_embeddings())
        kinds |= {"decoder's factors": {"target_modules": [*inner, decoder]}, "decoder whole": {"target_modules": inner, "modules_to_save": [decoder]}}
    return kinds


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_layers_are_those_of_peft(nibble, work, family):
    torch.manual_seed(SEED)
    model = make(draw_config(random.Random(f"{SEED} all {family}"), family))
    model.save_pretrained(work / "m")
    save_rows(work / "rows.jsonl", draw_rows(random.Random(SEED), 6))
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--lora-r", 2, "--target-modules", "all-linear", "--max-steps", 1)
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules="all-linear"))
    assert load_file(work / "a" / "adapter_model.safetensors").keys() == peft.get_peft_model_state_dict(theirs).keys()
    asked = {"input_ids": torch.randint(3, SIZE, (2, 9))}
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "a", **asked), expected(
        peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "a").eval(), **asked))
    # Biases that transformers ties are stored under both names.
    words = ["--lora-r", 2, "--target-modules", ",".join(targets_of(family)), "--bias", "all", "--max-steps", 1]
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "b", *words)
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=targets_of(family), bias="all"))
    def biases(keys):
        return {key for key in keys if key.endswith(("lm_head.bias", "predictions.bias", "decoder.bias", "vocab_projector.bias"))}
    if model.config.tie_word_embeddings:
        assert biases(load_file(work / "b" / "adapter_model.safetensors")) == biases(peft.get_peft_model_state_dict(theirs))


def with_bias(adapted):
    """PEFT's rows of tokens leave out the bias of a head that shares them: here it counts."""
    head = adapted.base_model.model.get_output_embeddings()
    if type(head).__name__ == "TrainableTokensWrapper" and head.original_module.bias is not None:
        head.register_forward_hook(lambda module, taken, given: given + module.original_module.bias)
    return adapted.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_the_embedding_and_the_decoder_are_peft_s(nibble, work, family):
    draw = random.Random(f"{SEED} embedding {family}")
    torch.manual_seed(draw.randrange(2**32))
    model = make(draw_config(draw, family))
    model.save_pretrained(work / "m")
    asked = {"input_ids": torch.randint(3, SIZE, (2, 11))}
    rows = draw_rows(draw, STEPS * BATCH)
    save_rows(work / "rows.jsonl", rows)
    for number, (kind, settings) in enumerate(embedding_settings(model, draw).items()):
        own = work / str(number)
        adapted = with_bias(peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, init_lora_weights=False, **settings)))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
        adapted.save_pretrained(own / "a")
        wanted = expected(with_bias(peft.PeftModel.from_pretrained(copy.deepcopy(model), own / "a")), **asked)
        assert_same(forward(nibble, work / "m", work, "--adapter", own / "a", **asked), wanted)
        if kind in ("factors", "whole") and not getattr(model.config, "legacy", True):
            # The head multiplies with the embedding's own weight, and nothing takes the two apart.
            assert "can only be attached" in nibble("merge", work / "m", own / "a", "-o", own / "merged", exits=3).stderr
        else:
            nibble("merge", work / "m", own / "a", "-o", own / "merged")
            merged = type(model).from_pretrained(own / "merged", attn_implementation="eager").eval()
            assert distance(expected(merged, **asked)["logits"], wanted["logits"]) < TOLERANCE, kind
        nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", own / "more", "--init-adapter", own / "a", "--any-base", *RUN)
        assert_steps(own / "more", adapted, rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_models_are_what_transformers_makes_of_them(nibble, work, family):
    """Block files and bitsandbytes folders, which transformers loads and computes alike."""
    draw = random.Random(f"{SEED} packed {family}")
    torch.manual_seed(draw.randrange(2**32))
    wide = {"dim": 64, "n_heads": 2} if family == "distilbert" else {"hidden_size": 64, "num_attention_heads": 2}
    model = make(draw_config(draw, family, **wide))
    model.save_pretrained(work / "m")
    nibble("quantize", work / "m", "-o", work / "bnb", "--format", "bnb")
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "bnb", "-o", work / "plain")
    theirs = type(model).from_pretrained(work / "plain", attn_implementation="eager").eval()
    for base in ("bnb", "m.nbl"):
        assert_answers(nibble, work / base, theirs, work, question())
