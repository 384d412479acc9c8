"""What PEFT's configurations can ask for beside factors of whole layers: excluded modules, rows of tables, biases of factors, DoRA on
embeddings, factors of parameters, layers that are repeated, vocabularies and heads of other sizes. Each is attached, merged and trained as
PEFT does it."""
import json

import peft
import pytest
import test_finetune
import torch
import transformers
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from safetensors.torch import load_file
from test_adapters_running import GPT2, LLAMA, TINY_BIAS, by_peft, class_and_type, packed_and_twin, save_adapter
from test_finetune import RUN, assert_same_steps, by_torch, rows

QWEN2 = "Qwen2ForCausalLM"
TIED = {"tie_word_embeddings": True}
LAST_LAYER_TWICE = [[0, 2], [1, 2]]


def ask(model):
    """Ids, those of tokens with rows of their own among them."""
    ids = random_ids(model, 3, 12)
    ids[0, :6] = torch.tensor([3, 7, 8, 9, 5, 6])
    return ids


# What PEFT makes, by name: the model, its configuration, the adapter's.
MADE = {
    "DoRA on an embedding": (LLAMA, {}, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "DoRA on a tied embedding": (LLAMA, TIED, {"target_modules": ["embed_tokens"], "use_dora": True, "use_rslora": True}),
    "DoRA on positions": (GPT2, {}, {"target_modules": ["c_attn", "wte", "wpe"], "use_dora": True, "fan_in_fan_out": True}),
    "parameters": (LLAMA, {}, {"target_modules": [], "target_parameters": ["q_proj.weight", "mlp.down_proj.weight"]}),
    "parameters beside modules": (LLAMA, {}, {"target_modules": ["v_proj"], "target_parameters": ["q_proj.weight"]}),
    "parameters, of an embedding and a head": (
        LLAMA, {}, {"target_modules": [], "target_parameters": ["embed_tokens.weight", "lm_head.weight"]}),
    "parameters, of a tied embedding": (LLAMA, TIED, {"target_modules": ["q_proj"], "target_parameters": ["embed_tokens.weight"]}),
    # Patterns are looked for in the parameter's name.
    "parameters, of Conv1D": (GPT2, {}, {
        "target_modules": [], "target_parameters": ["attn.c_attn.weight", "attn.c_proj.weight", "wte.weight"],
        "rank_pattern": {"c_attn": 2, "wte.weight": 3}, "alpha_pattern": {"c_proj.weight": 3}}),
    "repeated layers": (LLAMA, {}, {"target_modules": "all-linear", "layer_replication": LAST_LAYER_TWICE}),
    "layers in another order": (LLAMA, {}, {"target_modules": ["q_proj"], "layer_replication": [[1, 2], [0, 1]], "use_dora": True}),
    "fewer layers": ("MistralForCausalLM", {}, {"target_modules": ["q_proj"], "layer_replication": [[1, 2]]}),
    "repeated layers, bare GPT-2": ("GPT2Model", {}, {
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "layer_replication": LAST_LAYER_TWICE, "task_type": "FEATURE_EXTRACTION"}),
    "repeated layers, BERT": ("BertForSequenceClassification", {}, {
        "target_modules": ["query"], "layer_replication": [[0, 2], [0, 1]], "task_type": "SEQ_CLS"}),
    "factors of a tied embedding, kept tied": (
        LLAMA, TIED, {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "rows of a head": (LLAMA, {}, {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [5, 6]}}),
    "rows of both, apart": (LLAMA, TIED, {
        "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 7], "lm_head": [5, 6]}}),
}


@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
@pytest.mark.parametrize("name", MADE)
def test_attached_and_merged_they_are_peft_s(nibble, work, name, base):
    kind, config, settings = MADE[name]
    model_class, model_type = class_and_type(kind)
    save_random(model_class, model_type, work / "m", **config)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    adapter = save_adapter(model_class, theirs, work / "a", **settings)
    attached = by_peft(model_class, theirs, adapter)
    ids = ask(attached)
    wanted = expected(attached, input_ids=ids)
    assert_same(forward(nibble, ours, work, "--adapter", adapter, input_ids=ids), wanted)
    if kind == "GPT2Model" and base != "plain":
        return
    nibble("merge", "--base", ours, "--adapter", adapter, "-o", work / "merged", "--format", "safetensors", "--dtype", "fp32", "--min-survival", 0)
    # transformers runs what was written, with as many layers as it has.
    assert_same(expected(as_float32(model_class, work / "merged"), input_ids=ids), wanted, tolerance=5e-5)


@pytest.mark.parametrize("name", [name for name in MADE if not any(word in name for word in ("BERT", "bare", "kept tied"))])
def test_training_steps_are_pytorch_s(nibble, work, name, monkeypatch):
    # PEFT puts weights with factors in and takes them out again around each pass: where another module has the same weight, PyTorch can go
    # back through one pass only.
    batch = 1 if name.startswith("parameters") else test_finetune.BATCH
    monkeypatch.setattr(test_finetune, "BATCH", batch)
    kind, config, settings = MADE[name]
    model_class, model_type = class_and_type(kind)
    save_random(model_class, model_type, work / "m", **config)
    adapter = save_adapter(model_class, work / "m", work / "start", **settings)
    model = peft.PeftModel.from_pretrained(as_float32(model_class, work / "m"), adapter, is_trainable=True)
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN,
           "--batch-size", batch)
    assert_same_steps(work / "out", by_torch(model, made))
    final = by_peft(model_class, work / "m", work / "out")
    ids = ask(final)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=2e-4)


# Options of a new adapter, and what its configuration says.
NEW = [
    (LLAMA, {}, ["--lora-bias"], {"lora_bias": True}),
    (QWEN2, {}, ["--lora-bias", "--target-modules", "q_proj,v_proj", "--init-lora", "pissa", "--method", "rslora"], {"lora_bias": True}),
    (LLAMA, {}, ["--exclude-modules", "down_proj,o_proj"], {
        "exclude_modules": ["down_proj", "o_proj"], "target_modules": ["gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"]}),
    (LLAMA, {}, ["--target-modules", "q_proj,v_proj", "--exclude-modules", r".*layers\.0\..*"], {
        "target_modules": ["q_proj", "v_proj"],
        "exclude_modules": ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]}),
    (LLAMA, {}, ["--target-modules", "q_proj,embed_tokens,lm_head"], {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    (LLAMA, TIED, ["--target-modules", "q_proj,embed_tokens", "--method", "dora"], {"target_modules": ["embed_tokens", "q_proj"]}),
    (GPT2, {}, ["--target-modules", "c_attn,wte,wpe", "--rank-pattern", "wte=2"], {"target_modules": ["c_attn", "wpe", "wte"]}),
    (LLAMA, {}, ["--trainable-token-indices", "3,7-9"], {"trainable_token_indices": {"model.embed_tokens": [3, 7, 8, 9]}}),
    (LLAMA, {}, ["--trainable-token-indices", "embed_tokens=3,7-9", "--trainable-token-indices", "lm_head=5,6"], {
        "trainable_token_indices": {"model.embed_tokens": [3, 7, 8, 9], "lm_head": [5, 6]}}),
    # As in PEFT: the same rows of both of a tied pair are one, others are two.
    (LLAMA, TIED, ["--trainable-token-indices", "3,7", "--trainable-token-indices", "lm_head=3,7"], {
        "trainable_token_indices": {"model.embed_tokens": [3, 7]}}),
    (LLAMA, TIED, ["--trainable-token-indices", "3,7", "--trainable-token-indices", "lm_head=5,6"], {
        "trainable_token_indices": {"model.embed_tokens": [3, 7], "lm_head": [5, 6]}}),
    (LLAMA, TIED, ["--trainable-token-indices", "lm_head=5,6"], {"trainable_token_indices": {"lm_head": [5, 6]}}),
    (GPT2, {}, ["--trainable-token-indices", "5", "--trainable-token-indices", "wpe=0-3"], {
        "trainable_token_indices": {"transformer.wte": [5], "transformer.wpe": [0, 1, 2, 3]}}),
    (LLAMA, {}, ["--layer-replication", "[[0,2],[1,2]]", "--target-modules", "q_proj,down_proj"], {"layer_replication": LAST_LAYER_TWICE}),
]


@pytest.mark.parametrize("kind, config, words, says", NEW, ids=[" ".join([kind, *map(str, config), *words]) for kind, config, words, _ in NEW])
def test_new_adapters_are_what_peft_s_options_make(nibble, work, kind, config, words, says):
    model_class, model_type = class_and_type(kind)
    model = save_random(model_class, model_type, work / "m", **config)
    rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *RUN, "--lora-r", 3, *words)
    written = json.loads((work / "out" / "adapter_config.json").read_text())
    assert {key: written[key] for key in says} == says
    final = by_peft(model_class, work / "m", work / "out")
    ids = ask(final)
    wanted = expected(final, input_ids=ids)
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids), wanted)
    assert (wanted["logits"] - expected(model, input_ids=ids)["logits"]).abs().max() > 1e-3
    if "--lora-bias" in words and kind == LLAMA:
        # There is no bias to merge it into; PEFT does not merge it either.
        refused = nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged", exits=5)
        assert "has a bias, and the base has none" in refused.stderr
        return
    nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged", "--min-survival", 0)
    assert_same(expected(as_float32(model_class, work / "merged"), input_ids=ids), wanted, tolerance=5e-5)


def test_factor_biases_merge_where_layers_have_biases(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m", **TINY_BIAS)
    adapter = save_adapter(model_class, work / "m", work / "a", target_modules="all-linear", lora_bias=True)
    nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged")
    model = by_peft(model_class, work / "m", adapter)
    ids = ask(model)
    assert_same(expected(as_float32(model_class, work / "merged"), input_ids=ids), expected(model.merge_and_unload(), input_ids=ids))


# MARK: - Repeated layers

def test_a_run_on_repeated_layers_knows_its_base_and_goes_on(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    model = save_random(model_class, model_type, work / "m")
    rows(model, work / "rows.jsonl")
    run = ["finetune", "--base", work / "m", "--data", work / "rows.jsonl", *RUN]
    nibble(*run, "--layer-replication", "[[0, 2], [1, 2]]", "-o", work / "out")
    # Neither a merge nor a further run takes the base for another one.
    nibble(*run, "--init-adapter", work / "out", "-o", work / "again")
    assert json.loads((work / "again" / "adapter_config.json").read_text())["layer_replication"] == LAST_LAYER_TWICE
    nibble("merge", "--base", work / "m", "--adapter", work / "again", "-o", work / "merged", "--format", "bnb", "--min-survival", 0)
    assert json.loads((work / "merged" / "config.json").read_text())["num_hidden_layers"] == 3


def test_repeated_layers_are_not_what_others_have(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    more = save_adapter(model_class, work / "m", work / "more", target_modules=["q_proj"], layer_replication=LAST_LAYER_TWICE)
    plain = save_adapter(model_class, work / "m", work / "plain", target_modules=["q_proj"])
    said = nibble("merge", "--base", work / "m", "--adapter", more, "--adapter", plain, "-o", work / "merged", exits=2)
    assert "different orders of layers" in said.stderr
    said = nibble("adapter", "combine", more, plain, "-o", work / "both", exits=2)
    assert "different orders of layers" in said.stderr
    nibble("adapter", "combine", f"{more}:0.5", f"{more}:0.5", "-o", work / "both")
    ids = ask(as_float32(model_class, work / "m"))
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "both", input_ids=ids),
                expected(by_peft(model_class, work / "m", more), input_ids=ids))
    nibble("adapter", "inspect", more, "--base", work / "m")
    said = nibble("adapter", "convert", more, "--to", "mlx", "-o", work / "mlx", exits=2)
    assert "repeated layers" in said.stderr


@pytest.mark.parametrize("key, value, code, saying", [
    ("layer_replication", [[0, 9]], 5, "names layer 2"), ("layer_replication", [[0]], 3, "expected pairs of layers"),
    ("layer_replication", [[0, 10**9]], 3, "expected pairs of layers"), ("layer_replication", "all", 3, "expected pairs of layers"),
    ("layer_replication", [[-1, 2]], 3, "expected pairs of layers"), ("layer_replication", [[0, 1]], 5, "match nothing"),
    ("target_parameters", ["experts.up"], 3, "target_parameters"), ("target_parameters", "q_proj.weight", 3, "expected a list"),
])
def test_what_cannot_be_is_refused(nibble, work, key, value, code, saying):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    adapter = save_adapter(model_class, work / "m", work / "a", target_modules=["q_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    said = nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "out", exits=code)
    assert saying in said.stderr and len(said.stderr.strip().splitlines()) == 1
    assert not (work / "out").exists()


# MARK: - Parameters

@pytest.mark.parametrize("settings, saying", [
    ({"use_dora": True}, "use_dora does not go with"), ({"lora_dropout": 0.1}, "lora_dropout does not go with"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out does not go with"),
])
def test_what_peft_does_not_define_for_parameters_is_refused(nibble, work, settings, saying):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    adapter = save_adapter(model_class, work / "m", work / "a", target_modules=[], target_parameters=["q_proj.weight"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert saying in nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "out", exits=3).stderr


def test_factors_of_parameters_are_not_combined(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    adapter = save_adapter(model_class, work / "m", work / "a", target_modules=[], target_parameters=["q_proj.weight"])
    nibble("adapter", "inspect", adapter, "--base", work / "m")
    for words in (["combine", adapter, adapter], ["resize", adapter, "--rank", 2], ["convert", adapter, "--to", "mlx"]):
        assert "factors of parameters" in nibble("adapter", *words, "-o", work / "out", exits=2).stderr


# MARK: - Other sizes

def resized(model_class, base, folder, size, **settings):
    """An adapter that PEFT made beside a vocabulary of another size, and PEFT's model with it."""
    model = as_float32(model_class, base)
    model.resize_token_embeddings(size)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("by", [3, -5])
@pytest.mark.parametrize("tied, settings", [
    (False, {}), (True, {}), (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
], ids=["untied", "tied", "untied and trained", "tied and trained"])
@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
def test_a_vocabulary_of_another_size_is_attached_merged_and_trained_on(nibble, work, tied, settings, by, base):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=tied)
    options = ["--tensor", "embed_tokens=nf4"] if base != "plain" else []
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base, *options)
    model = resized(model_class, theirs, work / "a", as_float32(model_class, theirs).config.vocab_size + by, **settings)
    ids = ask(model)
    wanted = expected(model, input_ids=ids)
    assert_same(forward(nibble, ours, work, "--adapter", work / "a", input_ids=ids), wanted)
    nibble("merge", "--base", ours, "--adapter", work / "a", "-o", work / "merged", "--format", "safetensors", "--dtype", "fp32",
           "--min-survival", 0)
    assert_same(expected(as_float32(model_class, work / "merged"), input_ids=ids), wanted, tolerance=5e-5)


@pytest.mark.parametrize("base_name, head_name, module", [
    ("LlamaForCausalLM", "LlamaForSequenceClassification", "q_proj"), ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "c_attn"),
    ("RobertaForMaskedLM", "RobertaForSequenceClassification", "query"),
])
def test_a_head_the_base_lacks_is_attached_too(nibble, work, base_name, head_name, module):
    model_class, model_type = class_and_type(base_name)
    save_random(model_class, model_type, work / "m")
    model = getattr(transformers, head_name).from_pretrained(work / "m", num_labels=3)
    model.config.pad_token_id = 0
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[module], task_type="SEQ_CLS"))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    adapted.save_pretrained(work / "a")
    ids = ask(model)
    said = forward(nibble, work / "m", work, "--adapter", work / "a", input_ids=ids)
    assert_same(said, expected(adapted.eval(), input_ids=ids))


def test_rows_of_tables_take_no_copies(nibble, work):
    """Two adapters with rows of the same table: one at a time."""
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    settings = {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}
    one = save_adapter(model_class, work / "m", work / "one", **settings)
    two = save_adapter(model_class, work / "m", work / "two", **settings)
    ids = ask(as_float32(model_class, work / "m"))
    save = ["--ids", work / "ask.safetensors", "-o", work / "x.safetensors"]
    forward(nibble, work / "m", work, "--adapter", one, input_ids=ids)
    said = nibble("forward", "--base", work / "m", "--adapter", one, "--adapter", two, *save, exits=2)
    assert "both replace" in said.stderr
    assert len(load_file(one / "adapter_model.safetensors")) == 5
