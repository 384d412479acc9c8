"""Mixtures of experts as GGUF, where a tensor holds all experts of a layer: blocks are those of llama-quantize, files come back as the model that
they were made from, and what llama.cpp would compute in another way, or a file that lies, is one line."""
import ctypes
import json
import os
import struct

import pytest
import torch
import transformers
from converter import contents, gguf
from running import assert_same, edit_config, expected, forward, random_ids
from safetensors.torch import load_file, save_file
from test_gguf_out import CASES, LLAMA3, by_llama_cpp, gpt2_tokenizer, llama_cpp, save

SLOW = bool(os.environ.get("NIBBLE_SLOW"))
FAMILIES = ["mixtral", "qwen3_moe", "olmoe", "qwen2_moe", "glm4_moe", "deepseek_v2", "deepseek_v3"]
# Rows of whole blocks of every type.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 256, "num_attention_heads": 4, "head_dim": 64, "num_hidden_layers": 3}
# Groups that divide the experts.
ROUTED = {"glm4_moe": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2}}
LATENT = {**ROUTED["glm4_moe"], "num_key_value_heads": 4, "head_dim": 64, "q_lora_rank": 256, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "v_head_dim": 64}
ROUTED |= {"deepseek_v2": LATENT, "deepseek_v3": {**LATENT, "qk_nope_head_dim": 256, "qk_rope_head_dim": 64}}
SHARED = {"shared_expert_intermediate_size": 512}
MIXES = ["q4_k_m", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "mxfp4_moe"]


def wide(folder, experts, case="mixtral", **changes):
    name, tokenizer, own = CASES[case]
    known = {key: value for key, value in WIDE.items() if case in ("qwen3_moe", "qwen2_moe", *ROUTED) or key != "moe_intermediate_size"}
    known |= SHARED if case == "qwen2_moe" else ROUTED.get(case, {})
    count = "num_experts" if case in ("olmoe", "qwen2_moe") else "n_routed_experts" if case in ROUTED else "num_local_experts"
    save(folder, name, tokenizer, {**own, **known, count: experts, **changes})


def without_ones(shape):
    """The shape without dimensions of one at its end, which llama.cpp's own programs drop: the gate of Qwen2-MoE's shared expert is a vector to them."""
    shape = [int(size) for size in shape]
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape


def quantized_by_llama_cpp(source, out, mix):
    binding = llama_cpp()
    params = binding.llama_model_quantize_default_params()
    params.nthread = 1
    params.ftype = {entry.name.removeprefix("MOSTLY_").lower(): entry.value for entry in gguf.LlamaFileType}[mix]
    assert binding.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


@pytest.mark.parametrize("case, experts, mixes", [
    ("mixtral", 8, MIXES if SLOW else MIXES[:1]), ("mixtral", 3, MIXES if SLOW else ["q3_k_m"]),
    *([("qwen3_moe", 5, ["q4_k_m", "mxfp4_moe"]), ("olmoe", 8, ["q4_k_m", "q3_k_l"]), ("qwen2_moe", 8, ["q4_k_m", "iq4_xs"]), ("qwen2_moe", 5, ["q3_k_l"]),
      ("glm4_moe", 8, ["q4_k_m", "q2_k", "mxfp4_moe"]), ("glm4_moe", 5, ["q3_k_l", "iq4_xs"]), ("deepseek_v2", 8, ["q4_k_m", "q2_k", "mxfp4_moe"]), ("deepseek_v3", 5, ["q4_k_m", "q3_k_m", "iq4_nl"]), ("gpt_oss", 8, ["q4_k_m", "mxfp4_moe"]), ("gpt_oss", 5, ["q2_k"])] if SLOW else [])])
def test_blocks_are_those_of_llama_cpps_own_quantize(nibble, work, case, experts, mixes):
    llama_cpp()
    wide(work / "m", experts, case)
    nibble("convert", work / "m", "-o", work / "f32.gguf", "--gguf-type", "f32")
    for mix in mixes:
        nibble("quantize", work / "m", "-o", work / "ours.gguf", "--gguf-type", mix, "--force")
        theirs = quantized_by_llama_cpp(work / "f32.gguf", work / "theirs.gguf", mix)
        ours, other = ({tensor[0]: (tensor[1], without_ones(tensor[2]), tensor[3]) for tensor in contents(path)[1]} for path in (work / "ours.gguf", theirs))
        assert {name: tensor[:2] for name, tensor in ours.items()} == {name: tensor[:2] for name, tensor in other.items()}, mix
        assert [name for name in ours if ours[name] != other[name]] == [], mix
        assert nibble("hash", work / "ours.gguf").stdout.split()[0] == nibble("hash", theirs).stdout.split()[0], mix


@pytest.mark.parametrize("case", FAMILIES if SLOW else ["mixtral"])
def test_the_converters_file_is_the_model(nibble, work, case):
    """Its logits, its content, its bytes again; packed, adapted and merged as the folder is."""
    save(work / "m", *CASES[case])
    model = getattr(transformers, CASES[case][0]).from_pretrained(work / "m", dtype=torch.float32, attn_implementation="eager").eval()
    theirs = by_llama_cpp(work / "m", work / "theirs.gguf", "f32")
    question = {"input_ids": random_ids(model, 2, 20)}
    assert_same(forward(nibble, theirs, work, **question), expected(model, **question), torch.ones(2, 20), tolerance=1e-4)
    identity = nibble("hash", work / "m").stdout.split()[0]
    assert nibble("hash", theirs).stdout.split()[0] == identity
    nibble("verify", theirs)
    nibble("convert", theirs, "-o", work / "back", "--format", "safetensors")
    assert nibble("hash", work / "back").stdout.split()[0] == identity
    assert not nibble.json("diff", theirs, work / "m")["changed"]
    nibble("quantize", theirs, "-o", work / "a.nbl")
    nibble("quantize", work / "m", "-o", work / "b.nbl")
    assert nibble("hash", work / "a.nbl").stdout.split()[0] == nibble("hash", work / "b.nbl").stdout.split()[0]
    (work / "train.jsonl").write_text(json.dumps({"text": "Once upon a time there was a world."}) + "\n")
    nibble("finetune", "--base", theirs, "--data", work / "train.jsonl", "-o", work / "adapter", "--max-steps", "2", "--lora-r", "2",
           "--learning-rate", "0.05", "--target-modules", "all-linear")
    for base, out in ((theirs, "1.gguf"), (work / "m", "2.gguf")):
        nibble("merge", "--base", base, "--adapter", work / "adapter", "-o", work / out, "--any-base", "--gguf-type", "f32")
    assert contents(work / "1.gguf")[1] == contents(work / "2.gguf")[1]
    assert nibble.json("diff", work / "1.gguf", work / "m")["changed"]


def test_a_run_that_was_stopped_goes_on(nibble, work):
    """Experts in the middle of a tensor, and tensors of many files."""
    save(work / "m", *CASES["mixtral"])
    nibble("convert", work / "m", "-o", work / "whole", "--format", "gguf", "--max-shard-size", "40KB", "--gguf-type", "q8_0")
    by_llama_cpp(work / "m", work / "model.gguf", "q8_0", "--split-max-size", "40K")
    theirs = sorted(work.glob("model-*.gguf"))
    assert len(theirs) > 2 and [path.read_bytes() for path in theirs] == [path.read_bytes() for path in sorted((work / "whole").iterdir())]


def test_one_expert_that_would_lose_its_change_takes_all_of_its_tensor_along(nibble, work):
    wide(work / "m", 3)
    nibble("quantize", work / "m", "-o", work / "q.gguf", "--gguf-type", "q4_0")
    module = "model.layers.1.block_sparse_moe.experts.1.w2"
    (work / "a").mkdir()
    save_file({f"base_model.model.{module}.lora_{part}.weight": torch.full(shape, 0.01) for part, shape in (("A", (1, 256)), ("B", (256, 1)))},
              work / "a" / "adapter_model.safetensors")
    (work / "a" / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module], "task_type": "CAUSAL_LM"}))
    nibble("merge", "--base", work / "q.gguf", "--adapter", work / "a", "-o", work / "m.gguf", "--any-base", "--when-lost", "promote")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(work / "m.gguf").tensors}
    assert types["blk.1.ffn_down_exps.weight"] == "Q8_0" and types["blk.0.ffn_down_exps.weight"] == "Q4_0"
    nibble("verify", work / "m.gguf")
    nibble("dequantize", work / "m.gguf", "-o", work / "after", "--dtype", "fp32")
    nibble("dequantize", work / "q.gguf", "-o", work / "before", "--dtype", "fp32")
    after, before = (load_file(work / name / "model.safetensors") for name in ("after", "before"))
    change = (after[module + ".weight"] - before[module + ".weight"]).flatten()
    assert float(change.mean()) == pytest.approx(1e-4, rel=0.6)


def test_rules_are_about_all_experts_of_a_tensor(nibble, work):
    wide(work / "m", 3)
    nibble("quantize", work / "m", "-o", work / "m.gguf", "--gguf-type", "q4_k_m", "--tensor", r"experts\.\d+\.w2=q6_k", "--tensor", "blk.0.ffn_gate_exps=q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(work / "m.gguf").tensors}
    assert {types[f"blk.{layer}.ffn_down_exps.weight"] for layer in range(3)} == {"Q6_K"} and types["blk.0.ffn_gate_exps.weight"] == "Q8_0"
    said = nibble("quantize", work / "m", "-o", work / "n.gguf", "--tensor", r"experts\.0\.=q8_0", exits=2).stderr
    assert "1 of the 3 experts" in said and not (work / "n.gguf").exists()


REFUSED = {
    "qwen3_moe": [
        ({"norm_topk_prob": False}, 2, "norm_topk_prob"), ({"decoder_sparse_step": 2}, 2, "decoder_sparse_step"), ({"mlp_only_layers": [1]}, 2, "mlp_only_layers"),
        ({"num_experts": 0, "num_local_experts": None}, 2, "num_experts"), ({"num_experts_per_tok": 9}, 3, "num_experts_per_tok"),
        ({"n_shared_experts": 1}, 2, "n_shared_experts"), ({"routed_scaling_factor": 2.5}, 2, "routed_scaling_factor"), ({"scoring_func": "sigmoid"}, 2, "scoring_func"),
        ({"num_experts": 4, "num_local_experts": None}, 3, "has 5"),
        ({"num_experts": 6, "num_local_experts": None}, 3, "expert 5"), ({"num_experts": 6, "num_local_experts": 5}, 3, "num_experts is 6"),
    ],
    "olmoe": [
        ({"norm_topk_prob": True}, 2, "norm_topk_prob"), ({"clip_qkv": 8.0}, 2, "clip_qkv"), ({"num_key_value_heads": 2}, 2, "num_key_value_heads"),
        ({"tie_word_embeddings": True}, 2, "tie_word_embeddings"), ({"head_dim": 8}, 2, "head_dim"),
    ],
    "qwen2_moe": [
        ({"norm_topk_prob": True}, 2, "norm_topk_prob"), ({"decoder_sparse_step": 2}, 2, "decoder_sparse_step"), ({"mlp_only_layers": [1]}, 2, "mlp_only_layers"),
        ({"tie_word_embeddings": True}, 2, "tie_word_embeddings"), ({"head_dim": 8}, 2, "head_dim"), ({"num_experts": 4}, 3, "has 5"),
    ],
    "mixtral": [({"num_local_experts": -1}, 3, "num_local_experts"), ({"num_local_experts": 1e30}, 3, "num_local_experts"), ({"num_local_experts": 2000}, 2, "1 to 1024")],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(nibble, work, case):
    save(work / "m", *CASES[case])
    original = (work / "m" / "config.json").read_text()
    for changes, code, words in REFUSED[case]:
        edit_config(work / "m", **{key: value for key, value in changes.items()})
        done = nibble("convert", work / "m", "-o", work / "m.gguf", exits=code)
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("nibble: error:")]
        assert len(lines) == 1 and words in lines[0], (changes, done.stderr)
        assert not (work / "m.gguf").exists()
        (work / "m" / "config.json").write_text(original)


def changed(data, key, value):
    """The file with another number under a key."""
    data = bytearray(data)
    at = data.index(struct.pack("<Q", len(key)) + key.encode()) + 12 + len(key)
    data[at:at + 4] = struct.pack("<I", value)
    return data


def test_files_that_lie_are_one_line(nibble, work):
    save(work / "m", *CASES["mixtral"])
    nibble("convert", work / "m", "-o", work / "m.gguf")
    good = (work / "m.gguf").read_bytes()
    save_file({"input_ids": torch.arange(3, 9).reshape(1, 6)}, work / "ask.safetensors")
    lies = [(changed(good, "llama.expert_count", value), "_exps.weight") for value in (3, 5, 1)] + [(changed(good, "llama.expert_count", 1 << 31), "more than 4096")]
    lies += [(changed(good, "llama.expert_count", 0), ""), (changed(good, "llama.expert_used_count", 0), ""), (changed(good, "llama.expert_used_count", 1 << 20), "num_experts_per_tok")]
    # The dimensions of a tensor: fastest first.
    name = b"blk.0.ffn_gate_exps.weight"
    at = good.index(name) + len(name) + 4
    shape = struct.unpack_from("<3Q", good, at)
    for other in ((shape[0], shape[1] * shape[2], 1), (shape[0] * shape[2], shape[1], 1), (shape[2], shape[1], shape[0]), (shape[0], shape[1] * 2, shape[2] // 2)):
        lies.append((good[:at] + struct.pack("<3Q", *other) + good[at + 24:], "blk.0.ffn_gate_exps.weight"))
    for number, (data, words) in enumerate(lies):
        (work / "lie.gguf").write_bytes(data)
        done = nibble("forward", "--base", work / "lie.gguf", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", exits=3)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("nibble: error:") and "lie.gguf" in lines[0] and words in lines[0], (number, lines)
        assert not (work / "said.safetensors").exists()


def test_experts_that_are_missing_or_odd_are_named(nibble, work):
    save(work / "m", *CASES["mixtral"])
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    for change, words in (({name: None}, "expert 2"), ({name: tensors[name][:-1].contiguous()}, name), ({name.replace("2.w3", "9.w3"): tensors[name].clone()}, "has 5"),
                          ({name.replace("2.w3", "02.w3"): tensors[name].clone()}, "02.w3")):
        save_file({key: value for key, value in {**tensors, **change}.items() if value is not None}, path)
        done = nibble("convert", work / "m", "-o", work / "m.gguf", exits=2 if "02" in words else 3)
        assert words in done.stderr and not (work / "m.gguf").exists(), (words, done.stderr)


@pytest.mark.parametrize("name, tokenizer, changes, words", [
    ("Qwen3ForCausalLM", gpt2_tokenizer, {"attention_bias": True}, "o_proj.bias"), ("Olmo2ForCausalLM", gpt2_tokenizer, {"attention_bias": True}, "o_proj.bias"),
    ("Qwen3MoeForCausalLM", gpt2_tokenizer, {**CASES["qwen3_moe"][2], "attention_bias": True}, "o_proj.bias"),
    ("SmolLM3ForCausalLM", gpt2_tokenizer, {"mlp_bias": True}, "down_proj.bias"), ("Starcoder2ForCausalLM", gpt2_tokenizer, {"use_bias": False}, "use_bias"),
    ("GPTNeoXForCausalLM", gpt2_tokenizer, {"attention_bias": False}, "attention_bias"),
])
def test_biases_that_llama_cpp_does_not_load_or_cannot_do_without_are_refused(nibble, work, name, tokenizer, changes, words):
    save(work / "m", name, tokenizer, changes)
    done = nibble("convert", work / "m", "-o", work / "m.gguf", exits=2)
    assert words in done.stderr and not (work / "m.gguf").exists(), done.stderr


def test_positions_of_llama_3_are_refused_where_llama_cpp_has_no_factors(nibble, work):
    name, tokenizer, changes = CASES["qwen2"]
    save(work / "m", name, tokenizer, {**changes, "rope_parameters": LLAMA3})
    assert "'llama3'" in nibble("convert", work / "m", "-o", work / "m.gguf", exits=2).stderr
    edit_config(work / "m", rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16, "truncate": False})
    assert "truncate is false" in nibble("convert", work / "m", "-o", work / "m.gguf", exits=2).stderr


@pytest.mark.parametrize("case, changes, words", [
    ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "4 heads of queries"), ("llama", {"num_attention_heads": 4, "num_key_value_heads": 0}, "4 heads of queries"),
    ("qwen2", {"num_attention_heads": 3, "num_key_value_heads": 3}, "multiple of 3 heads"), ("phi3", {"intermediate_size": "null"}, "intermediate_size"),
    ("gpt_neox", {"intermediate_size": "null"}, "intermediate_size"),
])
def test_sizes_that_do_not_run_are_refused(nibble, work, case, changes, words):
    save(work / "m", *CASES[case])
    edit_config(work / "m", **changes)
    path = work / "m" / "config.json"
    path.write_text(path.read_text().replace('"null"', "null"))
    assert words in nibble("convert", work / "m", "-o", work / "m.gguf", exits=3).stderr
