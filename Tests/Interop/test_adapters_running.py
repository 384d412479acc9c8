"""Adapters that PEFT makes, active under `nibble forward --adapter`: the logits are those of PEFT on the same base, plain
or packed. Adapters that do not fit, or are broken, are refused with the documented exit code and one line."""
import json
import math
import shutil

import peft
import pytest
import torch
import transformers
from running import as_float32, assert_same, distance, expected, forward, padded, random_ids, save_random
from safetensors.torch import load_file, save_file


def class_and_type(name):
    model_class = getattr(transformers, name)
    return model_class, model_class.config_class.model_type


def save_adapter(model_class, base, folder, **settings):
    """An adapter whose every trained tensor is random, as if training had moved it; `folder` as PEFT writes it."""
    model = peft.get_peft_model(as_float32(model_class, base), peft.LoraConfig(**{"r": 4, "lora_alpha": 6} | settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "token_adapter" in name:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
            elif "magnitude" in name:
                # They start at the rows' lengths.
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.15)
            else:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    model.save_pretrained(folder)
    return folder


def by_peft(model_class, base, *adapters):
    """The base in float32 with the adapters active."""
    model = peft.PeftModel.from_pretrained(as_float32(model_class, base), adapters[0], adapter_name="a0")
    for number, folder in enumerate(adapters[1:], 1):
        model.load_adapter(folder, adapter_name=f"a{number}")
    if len(adapters) > 1:
        model.base_model.set_adapter([f"a{number}" for number in range(len(adapters))])
    return model.eval()


LLAMA = "LlamaForCausalLM"
GPT2 = "GPT2LMHeadModel"
TINY_BIAS = {"attention_bias": True, "mlp_bias": True}
CASES = {
    "queries and values": (LLAMA, {}, {"target_modules": ["q_proj", "v_proj"]}),
    "all linear": (LLAMA, {}, {"target_modules": "all-linear"}),
    "rank one": (LLAMA, {}, {"target_modules": "all-linear", "r": 1}),
    "rank above the width": (LLAMA, {}, {"target_modules": ["k_proj", "down_proj"], "r": 80}),
    "odd rank": (LLAMA, {}, {"target_modules": "all-linear", "r": 7, "lora_alpha": 5}),
    "rank stabilised": (LLAMA, {}, {"target_modules": "all-linear", "r": 7, "use_rslora": True}),
    "patterns": (LLAMA, {}, {
        "target_modules": "all-linear",
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 3, "down_proj": 9, "^model.layers.1.mlp.(up|gate).*": 2},
        "alpha_pattern": {"o_proj": 11, r"layers\.1\..*\.v_proj": 1}}),
    "patterns, rank stabilised": (LLAMA, {}, {
        "target_modules": ["q_proj", "up_proj"], "use_rslora": True, "rank_pattern": {"up_proj": 9}, "alpha_pattern": {"q_proj": 2}}),
    "DoRA": (LLAMA, {}, {"target_modules": "all-linear", "use_dora": True}),
    "DoRA on biases": (LLAMA, TINY_BIAS, {"target_modules": "all-linear", "use_dora": True}),
    "DoRA, rank stabilised": (LLAMA, {}, {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "use_rslora": True}),
    "factor biases": (LLAMA, TINY_BIAS, {"target_modules": "all-linear", "lora_bias": True}),
    "all biases": (LLAMA, TINY_BIAS, {"target_modules": ["q_proj", "o_proj"], "bias": "all"}),
    "biases of adapted layers": (LLAMA, TINY_BIAS, {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    "head trained whole": (LLAMA, {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "embedding trained whole": (LLAMA, {}, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    # PEFT leaves the head as it was, unless it is asked to keep the two together.
    "embedding trained whole, tied": (LLAMA, {"tie_word_embeddings": True}, {
        "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "embedding trained whole, kept tied": (LLAMA, {"tie_word_embeddings": True}, {
        "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "norms trained whole": (LLAMA, {}, {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "norm"]}),
    "a layer trained whole": (LLAMA, {}, {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}),
    "head and embedding trained whole": (LLAMA, {}, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "embedding adapted": (LLAMA, {}, {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding adapted, tied": (LLAMA, {"tie_word_embeddings": True}, {"target_modules": ["q_proj", "embed_tokens"]}),
    "rows of tokens": (LLAMA, {}, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7, 20]}),
    "rows of tokens, tied": (LLAMA, {"tie_word_embeddings": True}, {
        "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [4, 5]}}),
    "gpt2, rows of tokens": (GPT2, {}, {
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "trainable_token_indices": {"wte": [9, 4]}}),
    "gpt2, positions trained whole": (GPT2, {}, {
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["wpe"]}),
    "gpt2, rows of positions": (GPT2, {}, {
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "trainable_token_indices": {"wpe": [0, 3, 9]}}),
    "gpt2, positions adapted": (GPT2, {}, {"target_modules": ["c_attn", "wpe"], "fan_in_fan_out": True}),
    "gpt2, tokens trained whole, rows of positions": (GPT2, {}, {
        "target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["wte"],
        "trainable_token_indices": {"wpe": [0, 3, 9]}}),
    "bert, positions and token types trained whole": ("BertModel", {}, {
        "target_modules": ["query"], "modules_to_save": ["position_embeddings", "token_type_embeddings"],
        "task_type": "FEATURE_EXTRACTION"}),
    "bert, positions and token types adapted": ("BertModel", {}, {
        "target_modules": ["query", "position_embeddings", "token_type_embeddings"], "task_type": "FEATURE_EXTRACTION"}),
    "roberta classifier, rows of positions": ("RobertaForSequenceClassification", {}, {
        "target_modules": ["query"], "task_type": "SEQ_CLS", "trainable_token_indices": {"position_embeddings": [2, 3, 4, 7]}}),
    "head adapted": (LLAMA, {}, {"target_modules": ["q_proj", "lm_head"]}),
    "one layer": (LLAMA, {}, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}),
    "all but some": (LLAMA, {}, {"target_modules": "all-linear", "exclude_modules": ["v_proj", "down_proj"]}),
    "bare bert, without its pooler": ("BertModel", {}, {
        "target_modules": ["query", "dense"], "exclude_modules": ["pooler.dense"], "task_type": "FEATURE_EXTRACTION"}),
    "regular expression": (LLAMA, {}, {"target_modules": r".*layers\.1\..*_proj"}),
    "no dropout when asked": (LLAMA, {}, {"target_modules": "all-linear", "lora_dropout": 0.5}),
    "qwen2": ("Qwen2ForCausalLM", {}, {"target_modules": "all-linear"}),
    "qwen2, DoRA": ("Qwen2ForCausalLM", {}, {"target_modules": "all-linear", "use_dora": True}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 5}, {"target_modules": "all-linear"}),
    "gpt2": (GPT2, {}, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "gpt2, all linear": (GPT2, {}, {"target_modules": "all-linear", "fan_in_fan_out": True}),
    "gpt2, DoRA": (GPT2, {}, {"target_modules": "all-linear", "fan_in_fan_out": True, "use_dora": True}),
    "gpt2, all biases": (GPT2, {}, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"}),
    "gpt2, biases of adapted layers": (GPT2, {}, {"target_modules": ["c_proj"], "fan_in_fan_out": True, "bias": "lora_only"}),
    "gpt2, factor biases": (GPT2, {}, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "lora_bias": True}),
    "gpt2, embedding adapted": (GPT2, {}, {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}),
    "gpt2, Conv1D trained whole": (GPT2, {}, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["c_fc"]}),
    "roberta classifier": (
        "RobertaForSequenceClassification", {}, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    "roberta classifier, all linear": (
        "RobertaForSequenceClassification", {}, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "roberta classifier, DoRA": (
        "RobertaForSequenceClassification", {}, {"target_modules": ["query", "dense"], "task_type": "SEQ_CLS", "use_dora": True,
                                                 "exclude_modules": ["classifier.dense"]}),
    "bert classifier": ("BertForSequenceClassification", {}, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "bert classifier, all biases": (
        "BertForSequenceClassification", {}, {"target_modules": ["query"], "task_type": "SEQ_CLS", "bias": "all"}),
    # PEFT writes what was trained whole under several names then, and what is not used any more.
    "roberta classifier, all biases": (
        "RobertaForSequenceClassification", {}, {"target_modules": ["query"], "task_type": "SEQ_CLS", "bias": "all"}),
    "all biases, a layer trained whole": (LLAMA, TINY_BIAS, {
        "target_modules": ["q_proj"], "modules_to_save": ["o_proj"], "bias": "all"}),
    "llama classifier": ("LlamaForSequenceClassification", {}, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "gpt2 classifier": (
        "GPT2ForSequenceClassification", {}, {"target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "SEQ_CLS"}),
    "bare bert": ("BertModel", {}, {"target_modules": ["query", "dense"], "task_type": "FEATURE_EXTRACTION"}),
    "bare llama": ("LlamaModel", {}, {"target_modules": "all-linear", "task_type": "FEATURE_EXTRACTION"}),
}


def packed_and_twin(nibble, work, container, *options):
    """The model in `work / 'm'` packed, and the plain weights its codes stand for."""
    form = [] if container.endswith(".nbl") else ["--format", "bnb"]
    nibble("quantize", work / "m", "-o", work / container, *form, *options)
    nibble("dequantize", work / container, "-o", work / "twin", "--dtype", "fp32")
    return work / container, work / "twin"


# Adapters meet every kind of base; a bitsandbytes folder is opened as an .nbl file is, so some of them will do there.
IN_FOLDERS = ("all linear", "DoRA", "qwen2", "gpt2, all linear", "gpt2, DoRA", "roberta classifier, all linear", "bare bert")


@pytest.mark.parametrize("case, base", [
    (case, base) for case in CASES for base in ("plain", "packed.nbl", "packed") if base != "packed" or case in IN_FOLDERS])
def test_an_active_adapter_computes_what_peft_computes(nibble, work, case, base):
    name, changes, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    adapter = save_adapter(model_class, theirs, work / "adapter", **settings)
    model = by_peft(model_class, theirs, adapter)
    ids, mask = padded(random_ids(model, 3, 18), model, [18, 11, 5])
    asked = {"input_ids": ids, "attention_mask": mask}
    said = forward(nibble, ours, work, "--adapter", adapter, **asked)
    assert_same(said, expected(model, **asked), mask)
    # It is active: without it the model says something else.
    bare = forward(nibble, ours, work, **asked)
    key = "logits" if "logits" in said else "last_hidden_state"
    assert distance(said[key], bare[key]) > 1e-2


@pytest.mark.parametrize("how", ["attached", "merged"])
@pytest.mark.parametrize("name, table", [(LLAMA, "embed_tokens"), (GPT2, "wte")])
@pytest.mark.parametrize("head", ["its own", "the same"])
def test_rows_of_tokens_reach_the_head_a_tied_file_holds(nibble, work, name, table, head, how):
    """PEFT trains them for both where the configuration ties them, whether or not the file has a weight for each."""
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=True)
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    embedding = next(value for key, value in tensors.items() if table in key)
    save_file(
        tensors | {"lm_head.weight": torch.randn_like(embedding) if head == "its own" else embedding.clone()}, path,
        metadata={"format": "pt"})
    adapter = save_adapter(
        model_class, work / "m", work / "adapter", target_modules=["q_proj"] if name == LLAMA else ["c_attn"],
        fan_in_fan_out=name == GPT2, trainable_token_indices={table: [3, 7, 20]})
    ids = torch.randint(3, 100, (2, 15))
    reported = expected(by_peft(model_class, work / "m", adapter), input_ids=ids)
    if how == "attached":
        assert_same(forward(nibble, work / "m", work, "--adapter", adapter, input_ids=ids), reported)
    else:
        nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged")
        assert_same(expected(as_float32(model_class, work / "merged"), input_ids=ids), reported)
        assert_same(forward(nibble, work / "merged", work, input_ids=ids), reported)


def test_a_head_stored_for_the_embedding_too_is_not_changed_alone(nibble, work):
    """Merging would change both."""
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m", tie_word_embeddings=True)
    adapter = save_adapter(model_class, work / "m", work / "adapter", target_modules=["q_proj", "lm_head"])
    path = work / "m" / "model.safetensors"
    save_file(
        {name.replace("model.embed_tokens", "lm_head"): value for name, value in load_file(path).items()}, path,
        metadata={"format": "pt"})
    ids = torch.randint(3, 100, (2, 15))
    assert_same(
        forward(nibble, work / "m", work, "--adapter", adapter, input_ids=ids),
        expected(by_peft(model_class, work / "m", adapter), input_ids=ids))
    reported = nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged", exits=5).stderr
    assert "lm_head" in reported and not (work / "merged").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_factors_of_sixteen_bits(nibble, work, dtype):
    save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    adapter = save_adapter(transformers.LlamaForCausalLM, work / "m", work / "adapter", target_modules="all-linear")
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    # PEFT widens them when it loads them.
    model = by_peft(transformers.LlamaForCausalLM, work / "m", adapter)
    ids = random_ids(model)
    assert_same(forward(nibble, work / "m", work, "--adapter", adapter, input_ids=ids), expected(model, input_ids=ids))


@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
def test_several_adapters_at_once(nibble, work, base):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m")
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    one = save_adapter(model_class, theirs, work / "one", target_modules=["q_proj", "down_proj"])
    two = save_adapter(model_class, theirs, work / "two", target_modules=["q_proj", "v_proj"], r=9, use_rslora=True)
    ids = torch.randint(3, 128, (2, 15))
    said = forward(nibble, ours, work, "--adapter", f"a={one}", "--adapter", two, input_ids=ids)
    assert_same(said, expected(by_peft(model_class, theirs, one, two), input_ids=ids))


@pytest.mark.parametrize("weight", [0.0, 0.25, -1.5])
def test_weights_of_adapters(nibble, work, weight):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m")
    adapter = save_adapter(model_class, work / "m", work / "adapter", target_modules="all-linear")
    scaled = by_peft(model_class, work / "m", adapter)
    for module in scaled.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(weight)
    ids = torch.randint(3, 128, (2, 15))
    said = forward(nibble, work / "m", work, "--adapter", f"{adapter}:{weight}", input_ids=ids)
    assert_same(said, expected(scaled, input_ids=ids))


def test_an_adapter_of_the_bare_model_fits_the_model_with_a_head(nibble, work):
    """Its names have no `model.` in front."""
    save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    bare = as_float32(transformers.LlamaForCausalLM, work / "m").model
    bare.save_pretrained(work / "bare")
    adapter = save_adapter(
        transformers.LlamaModel, work / "bare", work / "adapter", target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    ids = torch.randint(3, 128, (2, 15))
    hidden = expected(by_peft(transformers.LlamaModel, work / "bare", adapter), input_ids=ids)["last_hidden_state"]
    head = as_float32(transformers.LlamaForCausalLM, work / "m").lm_head
    said = forward(nibble, work / "m", work, "--adapter", adapter, input_ids=ids)
    assert distance(said["logits"], head(hidden).detach()) <= 2e-5


def test_bfloat16_products_with_an_adapter(nibble, work):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m", torch.bfloat16)
    packed, twin = packed_and_twin(nibble, work, "packed.nbl")
    adapter = save_adapter(model_class, twin, work / "adapter", target_modules="all-linear")
    ids = torch.randint(3, 128, (3, 30))
    said = forward(nibble, packed, work, "--adapter", adapter, "--compute-dtype", "bf16", input_ids=ids, labels=ids)
    reported = expected(by_peft(model_class, twin, adapter), input_ids=ids, labels=ids)
    assert float(said["loss"]) == pytest.approx(float(reported["loss"]), rel=0.01)


# What must not pass.

@pytest.fixture
def fitting(nibble, work):
    """A base in `work / 'm'`, and an adapter in `work / 'adapter'` that fits it."""
    save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    adapter = save_adapter(transformers.LlamaForCausalLM, work / "m", work / "adapter", target_modules="all-linear")
    forward(nibble, work / "m", work, "--adapter", adapter, input_ids=torch.full((1, 4), 5))
    (work / "said.safetensors").unlink()
    return adapter


def refused(nibble, work, code, adapter, *options, base="m"):
    """nibble exits with `code`, says one line about it, and writes nothing."""
    save_file({"input_ids": torch.full((1, 4), 5)}, work / "ask.safetensors")
    done = nibble(
        "forward", "--base", work / base, "--adapter", adapter, *options, "--ids", work / "ask.safetensors",
        "-o", work / "said.safetensors", exits=code)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("nibble: error: "), done.stderr
    assert done.stdout == ""
    assert not (work / "said.safetensors").exists()
    return lines[0]


OTHER_BASES = {
    "wider": (LLAMA, {"hidden_size": 96, "head_dim": 24}),
    "fewer layers": (LLAMA, {"num_hidden_layers": 1}),
    "other inner width": (LLAMA, {"intermediate_size": 96}),
    "more keys": (LLAMA, {"num_key_value_heads": 4}),
    "gpt2": (GPT2, {}),
    "roberta": ("RobertaForSequenceClassification", {}),
}


@pytest.mark.parametrize("other", OTHER_BASES)
def test_an_adapter_of_another_base_is_refused(nibble, work, fitting, other):
    name, changes = OTHER_BASES[other]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "other", **changes)
    line = refused(nibble, work, 5, fitting, base="other")
    assert "proj" in line and str(fitting) in line
    # And the other way round.
    settings = {"fan_in_fan_out": True} if model_type == "gpt2" else {}
    adapter = save_adapter(model_class, work / "other", work / "theirs", target_modules="all-linear", **settings)
    if other != "fewer layers":
        refused(nibble, work, 5, adapter)


def tensors_changed(change):
    def apply(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        changed = change(tensors)
        save_file({name: value.contiguous() for name, value in (changed or tensors).items()}, path, metadata={"format": "pt"})
    return apply


def config_changed(**changes):
    def apply(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return apply


def first(tensors, part):
    return next(name for name in sorted(tensors) if part in name)


def put(part, value):
    """Sets one number of the first tensor named like `part`."""
    def change(tensors):
        tensors[first(tensors, part)][0, 1] = value
    return change


def cut(folder, share):
    path = folder / "adapter_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def without(part):
    return lambda tensors: {name: value for name, value in tensors.items() if name != first(tensors, part)}


BROKEN = {
    "no config": (3, lambda folder: (folder / "adapter_config.json").unlink()),
    "config is no JSON": (3, lambda folder: (folder / "adapter_config.json").write_text("{r: 4")),
    "config is a list": (3, lambda folder: (folder / "adapter_config.json").write_text("[]")),
    "config is empty": (3, lambda folder: (folder / "adapter_config.json").write_text("")),
    "config of another method": (3, config_changed(peft_type="POLY")),
    "rank is a text": (3, config_changed(r="four")),
    "rank is zero": (3, config_changed(r=0)),
    "alpha is a list": (3, config_changed(lora_alpha=[1])),
    "bias of another kind": (3, config_changed(bias="some")),
    "pissa": (3, config_changed(init_lora_weights="pissa")),
    "a variant": (3, config_changed(use_bdlora=True)),
    "pattern that is no regular expression": (3, config_changed(rank_pattern={"(": 4})),
    "another rank": (5, config_changed(r=5)),
    "DoRA without magnitudes": (5, config_changed(use_dora=True)),
    "factor biases that are missing": (5, config_changed(lora_bias=True)),
    "no weights": (3, lambda folder: (folder / "adapter_model.safetensors").unlink()),
    "pickled weights": (3, lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")),
    "weights cut to a half": (3, lambda folder: cut(folder, 0.5)),
    "weights cut by a byte": (3, lambda folder: cut(folder, 0.99999)),
    "weights cut in the header": (3, lambda folder: cut(folder, 0.01)),
    "weights are empty": (3, lambda folder: cut(folder, 0)),
    "weights are noise": (
        3, lambda folder: (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)),
    "NaN in the first factor": (6, tensors_changed(put("lora_A", math.nan))),
    "NaN in the second factor": (6, tensors_changed(put("lora_B", math.nan))),
    "infinity": (6, tensors_changed(put("lora_B", math.inf))),
    "a factor is missing": (5, tensors_changed(without("lora_B"))),
    "the other factor is missing": (5, tensors_changed(without("lora_A"))),
    "a factor too many": (5, tensors_changed(lambda t: t | {
        "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.ones(4, 64),
        "base_model.model.model.layers.7.mlp.up_proj.lora_B.weight": torch.ones(128, 4)})),
    "a name misspelt": (5, tensors_changed(lambda t: {name.replace("q_proj", "q_prj"): value for name, value in t.items()})),
    "a tensor of no use": (5, tensors_changed(lambda t: t | {"base_model.model.hello": torch.ones(3)})),
    "names without a prefix": (
        5, tensors_changed(lambda t: {name.removeprefix("base_model.model."): value for name, value in t.items()})),
    "factors turned": (5, tensors_changed(lambda t: {name: value.T for name, value in t.items()})),
    "factors of three dimensions": (5, tensors_changed(lambda t: {name: value.unsqueeze(0) for name, value in t.items()})),
    "no tensors": (5, tensors_changed(lambda t: {"x": torch.ones(1)})),
    "integers": (3, tensors_changed(lambda t: {name: value.to(torch.int32) for name, value in t.items()})),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_adapter_is_refused(nibble, work, fitting, how):
    code, damage = BROKEN[how]
    damage(fitting)
    line = refused(nibble, work, code, fitting)
    # Numbers that are no numbers are found where they first show.
    assert str(fitting) in line or (code == 6 and "adapter" in line)


def test_other_ways_of_getting_it_wrong(nibble, work, fitting):
    refused(nibble, work, 3, work / "nothing")
    refused(nibble, work, 3, fitting / "adapter_model.safetensors")
    refused(nibble, work, 3, work / "m")
    refused(nibble, work, 2, "")
    refused(nibble, work, 2, f"a={fitting}", "--adapter", f"a={fitting}")
    refused(nibble, work, 2, f"={fitting}")
    refused(nibble, work, 2, f"{fitting}:much")
    dora = save_adapter(
        transformers.LlamaForCausalLM, work / "m", work / "dora", target_modules=["q_proj"], use_dora=True)
    refused(nibble, work, 2, dora, "--adapter", fitting)
    refused(nibble, work, 2, f"{dora}:0.5")


def test_a_base_without_room_for_what_was_trained_whole(nibble, work, fitting):
    """A head of another vocabulary."""
    save_random(transformers.LlamaForCausalLM, "llama", work / "larger", vocab_size=140)
    adapter = save_adapter(
        transformers.LlamaForCausalLM, work / "larger", work / "theirs", target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert "lm_head" in refused(nibble, work, 5, adapter)
