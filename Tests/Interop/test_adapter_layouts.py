"""Adapters in the layouts of mlx-lm and llama.cpp, compared with those programs: mlx-lm computes with what nibble converted, llama.cpp's
own converter writes the same numbers, and what the two wrote becomes PEFT's again."""
import json

import numpy
import pytest
import torch
import transformers
import converter
from converter import gguf
from running import assert_same, distance, edit_config, expected, padded, random_ids, save_random
from safetensors.torch import load_file, save_file
from test_adapters_running import GPT2, LLAMA, by_peft, class_and_type, save_adapter

TIED = {"tie_word_embeddings": True}


def asked(model):
    ids, mask = padded(random_ids(model, 3, 18), model, [18, 11, 5])
    return {"input_ids": ids, "attention_mask": mask}


def tensors_of_gguf(path):
    reader = gguf.GGUFReader(path)
    return {tensor.name: numpy.array(tensor.data) for tensor in reader.tensors}, reader


def saved_adapter(work, name, changes, settings):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    return model_class, save_adapter(model_class, work / "m", work / "adapter", **settings)


def assert_same_adapter(work, model_class, *folders):
    models = [by_peft(model_class, work / "m", folder) for folder in folders]
    question = asked(models[0])
    assert_same(expected(models[1], **question), expected(models[0], **question), question["attention_mask"])


@pytest.mark.parametrize("name, changes, settings", [
    (LLAMA, {}, {"target_modules": "all-linear"}),
    (LLAMA, {"num_key_value_heads": 4}, {"target_modules": ["q_proj", "k_proj"], "r": 3, "lora_alpha": 5}),
    (LLAMA, {}, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("MistralForCausalLM", {}, {"target_modules": "all-linear"}),
    ("Qwen2ForCausalLM", {}, {"target_modules": "all-linear"}),
    ("Qwen3ForCausalLM", {}, {"target_modules": "all-linear"}),
    ("GemmaForCausalLM", {}, {"target_modules": "all-linear"}),
    ("Gemma2ForCausalLM", {}, {"target_modules": "all-linear"}),
    ("GraniteForCausalLM", {}, {"target_modules": "all-linear"}),
    ("Olmo2ForCausalLM", {}, {"target_modules": "all-linear"}),
    ("SmolLM3ForCausalLM", {}, {"target_modules": "all-linear"}),
])
def test_gguf_adapters_are_those_of_llama_cpp(nibble, work, name, changes, settings):
    if not converter.IS_HERE:
        pytest.skip("llama.cpp's converter was not downloaded")
    model_class, adapter = saved_adapter(work, name, changes, settings)
    converter.convert_adapter(adapter, work / "m", work / "theirs.gguf")
    nibble("adapter", "convert", adapter, "--base", work / "m", "-o", work / "ours.gguf")
    (ours, own), (theirs, other) = tensors_of_gguf(work / "ours.gguf"), tensors_of_gguf(work / "theirs.gguf")
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        assert (ours[key] == values).all(), key
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert own.fields[key].contents() == other.fields[key].contents(), key
    nibble("adapter", "convert", work / "theirs.gguf", "--base", work / "m", "-o", work / "back")
    first, second = load_file(adapter / "adapter_model.safetensors"), load_file(work / "back" / "adapter_model.safetensors")
    assert {key for key in first if "base_layer" not in key} == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert_same_adapter(work, model_class, adapter, work / "back")


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_gguf_adapters_of_fewer_bits_are_read_as_their_own_library_reads_them(nibble, work, dtype):
    if not converter.IS_HERE:
        pytest.skip("llama.cpp's converter was not downloaded")
    _, adapter = saved_adapter(work, LLAMA, {}, {"target_modules": ["v_proj", "down_proj"], "r": 32})
    converter.convert_adapter(adapter, work / "m", work / "a.gguf", dtype)
    nibble("adapter", "convert", work / "a.gguf", "--base", work / "m", "-o", work / "back")
    back = load_file(work / "back" / "adapter_model.safetensors")
    names = {"v_proj": "attn_v", "down_proj": "ffn_down"}
    found = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(work / "a.gguf").tensors}
    assert len(found) == len(back) == 8
    for key, values in back.items():
        layer, module, factor = key.split(".")[4], key.split(".")[6], key.split(".")[7].lower()
        assert (values.numpy() == found[f"blk.{layer}.{names[module]}.weight.{factor}"]).all(), key


def test_gguf_of_gpt2_holds_the_change_as_llama_cpp_stores_weights(nibble, work):
    """llama.cpp's own converter turns GPT-2's factors round, though PEFT does not; its loader wants [outputs, inputs]."""
    model_class, adapter = saved_adapter(work, GPT2, {}, {"target_modules": "all-linear", "r": 3, "lora_alpha": 7})
    nibble("adapter", "convert", adapter, "--base", work / "m", "-o", work / "a.gguf")
    tensors, reader = tensors_of_gguf(work / "a.gguf")
    alpha = reader.fields["adapter.lora.alpha"].contents()
    model = by_peft(model_class, work / "m", adapter)
    names = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    for layer in range(model.config.n_layer):
        for theirs, own in names.items():
            delta = model.get_submodule(f"base_model.model.transformer.h.{layer}.{theirs}").get_delta_weight("a0").T
            a, b = (tensors[f"blk.{layer}.{own}.weight.lora_{factor}"] for factor in "ab")
            assert numpy.abs(alpha / len(a) * b @ a - delta.detach().numpy()).max() < 1e-6
    nibble("adapter", "convert", work / "a.gguf", "--base", work / "m", "-o", work / "back")
    assert_same_adapter(work, model_class, adapter, work / "back")


@pytest.mark.parametrize("settings", [
    {"target_modules": "all-linear", "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"v_proj": 3}},
    {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "r": 5},
    {"target_modules": ["v_proj"], "layers_to_transform": [0]},
])
@pytest.mark.parametrize("layout", ["gguf", "mlx"])
def test_ranks_and_scales_of_their_own_come_through(nibble, work, layout, settings):
    model_class, adapter = saved_adapter(work, LLAMA, {}, settings)
    out = work / ("other.gguf" if layout == "gguf" else "other")
    report = nibble.json("adapter", "convert", adapter, "--base", work / "m", "-o", out, "--to", layout)
    assert report["checked"] and report["difference"] < 1e-7
    nibble("adapter", "convert", out, "--base", work / "m", "-o", work / "back")
    assert_same_adapter(work, model_class, adapter, work / "back")


# MARK: - mlx-lm

def test_with_one_rank_and_one_scale_an_adapter_is_the_same_without_patterns(nibble, work):
    """What vLLM and LoRAX read of a configuration is r, lora_alpha and use_rslora."""
    model_class, adapter = saved_adapter(work, LLAMA, {}, {
        "target_modules": "all-linear", "r": 4, "lora_alpha": 6, "use_rslora": True,
        "rank_pattern": {"q_proj": 2, "layers.0.mlp.up_proj": 7}, "alpha_pattern": {"v_proj": 3, "down_proj": 11}})
    nibble("adapter", "check", adapter, "--for", "vllm", exits=5)
    nibble("adapter", "convert", adapter, "--to", "peft-uniform", "-o", work / "uniform")
    nibble("adapter", "check", work / "uniform", "--for", "vllm,lorax", "--base", work / "m")
    config = json.loads((work / "uniform" / "adapter_config.json").read_text())
    assert not config["rank_pattern"] and not config["alpha_pattern"] and config["r"] == 7
    assert_same_adapter(work, model_class, adapter, work / "uniform")


def by_mlx(folder, adapter, ids):
    """Logits of mlx-lm with the adapter."""
    mlx = pytest.importorskip("mlx.core")
    # What transformers no longer writes where mlx-lm looks for it.
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, rope_theta=config.get("rope_parameters", {}).get("rope_theta"), n_ctx=config.get("n_positions"))
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model
    tensors = load_file(folder / "model.safetensors")
    if any(name.startswith("transformer.") for name in tensors):
        # It takes GPT-2 as the hub has it.
        save_file({name.removeprefix("transformer."): values for name, values in tensors.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})
    mlx.set_default_device(mlx.cpu)
    model, _ = load_model(folder)
    if adapter:
        load_adapters(model, str(adapter))
    model.eval()
    return torch.from_numpy(numpy.array(model(mlx.array(ids.numpy())).astype(mlx.float32)))


@pytest.mark.parametrize("name, changes, settings", [
    (LLAMA, {}, {"target_modules": "all-linear"}),
    (LLAMA, {}, {"target_modules": ["q_proj", "embed_tokens"], "rank_pattern": {"q_proj": 7}}),
    (LLAMA, {}, {"target_modules": ["q_proj", "gate_proj"], "use_dora": True}),
    (LLAMA, {}, {"target_modules": ["v_proj", "lm_head"], "layers_to_transform": [0]}),
    ("Qwen2ForCausalLM", {}, {"target_modules": "all-linear", "use_rslora": True}),
    ("Gemma2ForCausalLM", {}, {"target_modules": ["q_proj", "up_proj"]}),
    (GPT2, {}, {"target_modules": "all-linear"}),
])
def test_mlx_lm_computes_what_peft_computes(nibble, work, name, changes, settings):
    model_class, adapter = saved_adapter(work, name, changes, settings)
    nibble("adapter", "convert", adapter, "-o", work / "mlx", "--to", "mlx")
    model = by_peft(model_class, work / "m", adapter)
    ids = random_ids(model, 2, 12)
    base = by_mlx(work / "m", None, ids)
    theirs = expected(model, input_ids=ids)["logits"]
    # What mlx-lm computes otherwise without any adapter is not ours.
    with torch.no_grad():
        plain = model_class.from_pretrained(work / "m", dtype=torch.float32)(ids).logits
    assert distance(base, plain) < 1e-4
    assert distance(by_mlx(work / "m", work / "mlx", ids), theirs) < 1e-4
    assert distance(base, theirs) > 1e-2
    nibble("adapter", "convert", work / "mlx", "-o", work / "back", "--to", "peft")
    assert_same_adapter(work, model_class, adapter, work / "back")


def test_what_mlx_lm_wrote_becomes_peft_s(nibble, work):
    mlx = pytest.importorskip("mlx.core")
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model
    save_random(transformers.LlamaForCausalLM, "llama", work / "m")
    mlx.set_default_device(mlx.cpu)
    model, _ = load_model(work / "m")
    settings = {"rank": 4, "scale": 2.5, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
    model.freeze()
    linear_to_lora_layers(model, 1, settings)
    weights = {name: mlx.random.normal(value.shape) * 0.1 for name, value in tree_flatten(model.trainable_parameters())}
    (work / "mlx").mkdir()
    mlx.save_safetensors(str(work / "mlx" / "adapters.safetensors"), weights)
    (work / "mlx" / "adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": settings, "model": "m", "seed": 0}))
    nibble("adapter", "convert", work / "mlx", "-o", work / "peft", "--base", work / "m")
    adapted = by_peft(transformers.LlamaForCausalLM, work / "m", work / "peft")
    assert {name.split(".")[4] for name in load_file(work / "peft" / "adapter_model.safetensors")} == {"1"}
    ids = random_ids(adapted, 2, 12)
    assert distance(by_mlx(work / "m", work / "mlx", ids), expected(adapted, input_ids=ids)["logits"]) < 1e-4


# MARK: - Extracted and resized

@pytest.mark.parametrize("name, changes", [(LLAMA, {}), (LLAMA, TIED), (GPT2, {}), ("RobertaForSequenceClassification", {}),
                                           ("Qwen2ForCausalLM", {})])
@pytest.mark.parametrize("bases", ["plain", "packed.nbl"])
def test_an_extracted_adapter_makes_the_tuned_model_in_peft(nibble, work, name, changes, bases):
    """Every parameter was trained; the rank is that of the matrices."""
    model_class, model_type = class_and_type(name)
    model = save_random(model_class, model_type, work / "m", **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    model.save_pretrained(work / "tuned")
    ours = theirs = work / "m"
    if bases == "packed.nbl":
        ours, theirs = work / bases, work / "values"
        nibble("quantize", work / "m", "-o", ours)
        nibble("dequantize", ours, "-o", theirs, "--dtype", "fp32")
    report = nibble.json("adapter", "extract", "--base", ours, "--tuned", work / "tuned", "--rank", 128, "-o", work / "adapter")
    assert report["error"] < 1e-5 and report["whole"] and not report["left"]
    adapted = by_peft(model_class, theirs, work / "adapter")
    question = asked(adapted)
    assert_same(expected(adapted, **question), expected(model, **question), question["attention_mask"], tolerance=1e-4)
    nibble("merge", "--base", theirs, "--adapter", work / "adapter", "-o", work / "again", "--any-base")
    again = model_class.from_pretrained(work / "again", dtype=torch.float32)
    assert_same(expected(again, **question), expected(model, **question), question["attention_mask"], tolerance=1e-4)


@pytest.mark.parametrize("name, settings", [
    (LLAMA, {"target_modules": "all-linear"}), (LLAMA, {"target_modules": ["q_proj", "embed_tokens"]}),
    (GPT2, {"target_modules": "all-linear"})])
def test_what_was_merged_comes_out_again(nibble, work, name, settings):
    model_class, adapter = saved_adapter(work, name, {}, settings)
    merged = by_peft(model_class, work / "m", adapter).merge_and_unload()
    merged.save_pretrained(work / "tuned")
    options = ["--target-modules", ".*(q_proj|embed_tokens)"] if "embed_tokens" in settings["target_modules"] else []
    report = nibble.json("adapter", "extract", "--base", work / "m", "--tuned", work / "tuned", "--rank", 4, "-o", work / "out", *options)
    assert report["error"] < 1e-5 and not report["whole"]
    assert_same_adapter(work, model_class, adapter, work / "out")


@pytest.mark.parametrize("settings", [{"target_modules": "all-linear", "use_rslora": True}, {"target_modules": ["q_proj"], "use_dora": True},
                                      {"target_modules": ["embed_tokens", "v_proj"], "r": 3}])
def test_resized_to_what_it_needs_an_adapter_is_the_same_in_peft(nibble, work, settings):
    model_class, adapter = saved_adapter(work, LLAMA, {}, settings)
    nibble("adapter", "resize", adapter, "--rank", 9, "-o", work / "wide")
    assert_same_adapter(work, model_class, adapter, work / "wide")
    nibble("adapter", "resize", work / "wide", "--energy", 1 - 1e-12, "-o", work / "again")
    assert json.loads((work / "again" / "adapter_config.json").read_text())["r"] <= settings.get("r", 4) + 1
    assert_same_adapter(work, model_class, adapter, work / "again")


@pytest.mark.parametrize("rank", [1, 3])
def test_a_lower_rank_is_as_far_away_as_is_told(nibble, work, rank):
    model_class, adapter = saved_adapter(work, LLAMA, {}, {"target_modules": "all-linear"})
    report = nibble.json("adapter", "resize", adapter, "--rank", rank, "-o", work / "small")
    before, after = (by_peft(model_class, work / "m", folder) for folder in (adapter, work / "small"))
    for module in report["modules"]:
        delta, kept = (model.get_submodule("base_model.model." + module["name"]).get_delta_weight("a0") for model in (before, after))
        values = torch.linalg.svdvals(delta.double())
        best = float((values[rank:].square().sum() / values.square().sum()).sqrt())
        assert abs(module["error"] - best) < 1e-5
        assert abs(module["error"] - float((delta - kept).norm() / delta.norm())) < 1e-5
