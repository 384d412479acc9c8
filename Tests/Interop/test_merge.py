"""Adapters that PEFT makes, merged by `nibble merge`: in transformers the output says what the base says with the adapter active
in PEFT."""
import json

import peft
import pytest
import torch
import transformers
from models import assert_packed_answers_like_plain
from running import as_float32, assert_same, expected, padded, random_ids, save_random
from safetensors.torch import load_file
from test_adapters_running import CASES, LLAMA, by_peft, class_and_type, packed_and_twin, save_adapter

TIED = {"tie_word_embeddings": True}
MORE = {
    "head adapted, tied": (LLAMA, TIED, {"target_modules": ["q_proj", "lm_head"]}),
    "rows of tokens, of the head too": (LLAMA, {}, {
        "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [4, 5], "lm_head": [6, 1, 2]}}),
    "head trained whole, tied": (LLAMA, TIED, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
}


def asked(model):
    ids, mask = padded(random_ids(model, 3, 18), model, [18, 11, 5])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("case, base", [(case, base) for case in CASES | MORE for base in ("plain", "packed.nbl", "packed")])
def test_a_merged_model_computes_what_peft_computes(nibble, work, case, base):
    name, changes, settings = (CASES | MORE)[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    adapter = save_adapter(model_class, theirs, work / "adapter", **settings)
    nibble("merge", "--base", ours, "--adapter", adapter, "-o", work / "merged", "--format", "safetensors", "--dtype", "fp32")
    model = by_peft(model_class, theirs, adapter)
    question = asked(model)
    merged = as_float32(model_class, work / "merged")
    assert_same(expected(merged, **question), expected(model, **question), question["attention_mask"])


@pytest.mark.parametrize("case", ["all linear", "DoRA", "qwen2", "embedding adapted, tied", "head and embedding trained whole",
                                  "roberta classifier, all linear", "gpt2, all linear"])
@pytest.mark.parametrize("encoder", ["absmax", "mse-signed"])
def test_merged_into_four_bits_loads_in_transformers(nibble, work, case, encoder):
    name, changes, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    packed, twin = packed_and_twin(nibble, work, "packed", "--encoder", encoder)
    adapter = save_adapter(model_class, twin, work / "adapter", **settings)
    nibble("merge", "--base", packed, "--adapter", adapter, "-o", work / "merged", "--min-survival", "0")
    record = json.loads((work / "merged" / "nibble.json").read_text())["provenance"]
    assert record.get("options", {}).get("encoder", "absmax") == encoder
    nibble("dequantize", work / "merged", "-o", work / "values", "--dtype", "fp32")
    assert_packed_answers_like_plain(work / "merged", work / "values", model_class)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_sixteen_bits_are_peft_s(nibble, work, dtype):
    """PEFT rounds once where the factors are float32: every weight is the same."""
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m", dtype=dtype)
    adapter = save_adapter(model_class, work / "m", work / "adapter", target_modules="all-linear")
    nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged")
    model = peft.PeftModel.from_pretrained(model_class.from_pretrained(work / "m", dtype=dtype), adapter)
    theirs = model.merge_and_unload().state_dict()
    ours = load_file(work / "merged" / "model.safetensors")
    same = total = 0
    for name, tensor in ours.items():
        assert tensor.dtype == dtype
        # A sum that lies between two numbers may fall to either side.
        assert torch.allclose(tensor.float(), theirs[name].float(), rtol=2 ** -7 if dtype == torch.bfloat16 else 2 ** -10, atol=1e-6)
        same += (tensor == theirs[name]).sum().item()
        total += tensor.numel()
    assert same >= 0.999 * total


def test_what_was_merged_is_written_down(nibble, work):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m")
    adapter = save_adapter(model_class, work / "m", work / "adapter", target_modules=["q_proj"])
    said = nibble.json("merge", "--base", work / "m", "--adapter", f"{adapter}:0.5", "-o", work / "merged.nbl")
    assert said["verb"] == "merge"
    assert len(said["changed"]) == 2
    assert all(tensor["survival"] > 0.5 for tensor in said["changed"])
    provenance = nibble.json("inspect", work / "merged.nbl")["provenance"]
    assert provenance["verb"] == "merge"
    assert provenance["adapters"][0]["weight"] == 0.5


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
def test_a_resized_vocabulary_is_that_of_the_output(nibble, work, tied, base):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m", tie_word_embeddings=tied)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    model = as_float32(model_class, theirs)
    size = model.config.vocab_size + 3
    model.resize_token_embeddings(size)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.15)
    adapted.save_pretrained(work / "adapter")
    (work / "adapter" / "added_tokens.json").write_text('{"<new>": %d}' % (size - 1))
    nibble("merge", "--base", ours, "--adapter", work / "adapter", "-o", work / "merged", "--format", "safetensors", "--dtype", "fp32")
    merged = as_float32(model_class, work / "merged")
    assert merged.config.vocab_size == size and merged.config.tie_word_embeddings == tied
    assert "<new>" in (work / "merged" / "added_tokens.json").read_text()
    question = asked(merged)
    assert_same(expected(merged, **question), expected(adapted.eval(), **question), question["attention_mask"])


@pytest.mark.parametrize("base_name, head_name, task, module", [
    ("LlamaForCausalLM", "LlamaForSequenceClassification", "SEQ_CLS", "q_proj"),
    ("RobertaForMaskedLM", "RobertaForSequenceClassification", "SEQ_CLS", "query"),
    ("RobertaForMaskedLM", "RobertaForTokenClassification", "TOKEN_CLS", "query"),
    ("GPT2LMHeadModel", "GPT2ForSequenceClassification", "SEQ_CLS", "c_attn"),
])
def test_a_head_that_the_base_lacks_comes_with_the_adapter(nibble, work, base_name, head_name, task, module):
    model_class, model_type = class_and_type(base_name)
    save_random(model_class, model_type, work / "m")
    head_class = getattr(transformers, head_name)
    model = head_class.from_pretrained(work / "m", num_labels=3)
    model.config.pad_token_id = 0
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[module], task_type=task))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape) * 0.15)
    adapted.save_pretrained(work / "adapter")
    nibble("merge", "--base", work / "m", "--adapter", work / "adapter", "-o", work / "merged")
    merged = head_class.from_pretrained(work / "merged")
    merged.config.pad_token_id = 0
    assert merged.config.num_labels == 3
    question = asked(merged)
    assert_same(expected(merged, **question), expected(adapted.eval(), **question))


@pytest.mark.parametrize("method, settings", [
    ("cat", {}), ("svd", {}), ("svd", {"svd_rank": 3}), ("linear", {}), ("ties", {"density": 0.4}),
    ("ties", {"density": 1.0, "majority_sign_method": "frequency"}), ("magnitude_prune", {"density": 0.25}),
    # Of all numbers chance keeps all.
    ("dare_linear", {"density": 1.0}), ("dare_ties", {"density": 1.0}),
])
def test_combined_adapters_are_peft_s(nibble, work, method, settings):
    model_class = transformers.LlamaForCausalLM
    save_random(model_class, "llama", work / "m")
    adapters = [save_adapter(model_class, work / "m", work / f"a{number}", target_modules=modules)
                for number, modules in enumerate((["q_proj", "v_proj", "down_proj"], ["v_proj", "down_proj", "embed_tokens"]))]
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    nibble("adapter", "combine", f"{adapters[0]}:0.7", f"{adapters[1]}:-0.4", "-o", work / "both", "--method", method, *options)
    model = by_peft(model_class, work / "m", *adapters)
    model.add_weighted_adapter(["a0", "a1"], [0.7, -0.4], "sum", combination_type=method, **settings)
    model.set_adapter("sum")
    question = asked(model)
    found = by_peft(model_class, work / "m", work / "both")
    assert_same(expected(found, **question), expected(model, **question), question["attention_mask"])
