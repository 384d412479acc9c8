"""GLM-4.5, DeepSeek-V2 and V3 as GGUF, beside what test_gguf_out.py and test_gguf_experts.py compare: layers that predict further tokens, the second
projection of latents, which is two tensors there, what llama.cpp would compute in another way, and files that lie."""
import json
import shutil
import struct
import subprocess

import pytest
import torch
import transformers
from converter import assert_same_file, contents, gguf
from running import as_float32, assert_same, edit_config, expected, forward, random_ids
from safetensors.torch import load_file, save_file
from test_gguf_experts import changed, wide
from test_gguf_out import CASES, YARN, by_llama_cpp, llama_cpp_logits, save, llama_cpp
from test_shared_experts import in_fp8

MSCALE = {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}


def identity(nibble, path):
    return nibble("hash", path).stdout.split()[0]


def predicting(folder, layer):
    """Adds a layer that predicts further tokens, as published checkpoints have one: the parts of the last layer, and its own."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors |= {name.replace(f"layers.{layer - 1}.", f"layers.{layer}."): tensor.clone() for name, tensor in tensors.items() if f"layers.{layer - 1}." in name}
    width, start = tensors["model.norm.weight"].shape[0], f"model.layers.{layer}."
    tensors |= {start + "eh_proj.weight": torch.randn(width, 2 * width) * 0.1, start + "enorm.weight": torch.rand(width), start + "hnorm.weight": torch.rand(width),
                start + "shared_head.norm.weight": torch.rand(width), start + "shared_head.head.weight": tensors["model.embed_tokens.weight"].clone(),
                start + "embed_tokens.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(tensors, path, {"format": "pt"})
    edit_config(folder, num_nextn_predict_layers=1)


@pytest.mark.parametrize("has", [True, False])
def test_layers_that_predict_further_tokens_are_written_and_read(nibble, work, has):
    """GLM-4.5's, as the converter has them; also where only the configuration counts them."""
    save(work / "m", *CASES["glm4_moe"])
    model = as_float32(transformers.Glm4MoeForCausalLM, work / "m")
    predicting(work / "m", 2) if has else edit_config(work / "m", num_nextn_predict_layers=1)
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    theirs = by_llama_cpp(work / "m", work / "theirs.gguf", "f32")
    assert_same_file(work / "ours.gguf", theirs)
    assert identity(nibble, theirs) == identity(nibble, work / "m")
    question = {"input_ids": random_ids(model, 2, 12)}
    assert_same(forward(nibble, theirs, work, **question), expected(model, **question), torch.ones(2, 12), tolerance=1e-4)
    nibble("convert", theirs, "-o", work / "back", "--format", "safetensors")
    assert json.loads((work / "back" / "config.json").read_text())["num_hidden_layers"] == 2
    nibble("convert", work / "back", "-o", work / "again.gguf")
    assert contents(work / "again.gguf")[1] == contents(theirs)[1]
    nibble("quantize", work / "m", "-o", work / "q.gguf", "--gguf-type", "q8_0")
    llama_cpp()
    ids = random_ids(model, batch=1, length=20, low=300)[0]
    logits = expected(model, input_ids=ids[None])["logits"][0]
    assert float((llama_cpp_logits(work / "ours.gguf", ids) - logits).abs().max()) < 1e-3 * max(1, float(logits.abs().max()))


def test_deepseeks_are_left_out_as_the_converter_leaves_them_out(nibble, work):
    save(work / "m", *CASES["deepseek_v3"])
    edit_config(work / "m", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1)
    predicting(work / "m", 2)
    said = nibble("convert", work / "m", "-o", work / "ours.gguf").stderr
    assert "have no layers that predict further tokens" in said
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", "f32"))


def test_a_published_checkpoint_in_fp8_is_written_as_the_converter_writes_it(nibble, work):
    save(work / "m", *CASES["deepseek_v3"], torch.bfloat16)
    in_fp8(work / "m")
    edit_config(work / "m", scoring_func="sigmoid")
    for kind in ("bf16", "f32"):
        nibble("convert", work / "m", "-o", work / f"{kind}.gguf", "--gguf-type", kind)
    nibble("dequantize", work / "m", "-o", work / "plain", "--dtype", "fp32")
    nibble("convert", work / "plain", "-o", work / "p.gguf", "--gguf-type", "bf16")
    assert contents(work / "p.gguf")[1] == contents(work / "bf16.gguf")[1]
    theirs = {tensor[0]: tensor for tensor in contents(by_llama_cpp(work / "m", work / "theirs.gguf", "bf16"))[1]}
    assert [tensor[0] for tensor in contents(work / "bf16.gguf")[1] if tensor != theirs[tensor[0]]] == []


def test_packed_projections_are_put_together_of_their_numbers(nibble, work):
    """Blocks run along the other side of the keys' matrix: decoded, they are the model's own projection."""
    wide(work / "m", 4, "deepseek_v3")
    nibble("quantize", work / "m", "-o", work / "q.gguf", "--gguf-type", "q5_k_m")
    tensors = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(work / "q.gguf").tensors}
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(work / "q.gguf").tensors}
    assert kinds["blk.0.attn_k_b.weight"] == "Q5_K"
    nibble("dequantize", work / "q.gguf", "-o", work / "plain", "--dtype", "fp32")
    plain = load_file(work / "plain" / "model.safetensors")
    for layer in range(3):
        keys, values = (torch.tensor(tensors[f"blk.{layer}.attn_{part}_b.weight"]) for part in "kv")
        assert torch.equal(plain[f"model.layers.{layer}.self_attn.kv_b_proj.weight"], torch.cat([keys.transpose(1, 2), values], 1).flatten(0, 1))
    model = as_float32(transformers.DeepseekV3ForCausalLM, work / "plain")
    question = {"input_ids": random_ids(model, 1, 10)}
    assert_same(forward(nibble, work / "q.gguf", work, **question), expected(model, **question), torch.ones(1, 10), tolerance=1e-4)
    nibble("quantize", work / "m", "-o", work / "n.nbl")
    nibble("convert", work / "n.nbl", "-o", work / "n.gguf", "--gguf-type", "f32")
    nibble("dequantize", work / "n.nbl", "-o", work / "p", "--dtype", "fp32")
    nibble("convert", work / "p", "-o", work / "p.gguf", "--gguf-type", "f32")
    assert contents(work / "n.gguf")[1] == contents(work / "p.gguf")[1]


REFUSED = {
    "glm4_moe": [
        ({"n_group": 5}, 2, "n_group"), ({"n_group": 12}, 2, "n_group"), ({"topk_group": 3}, 2, "topk_group"), ({"topk_group": 0}, 2, "topk_group"),
        ({"scoring_func": "softmax"}, 2, "scoring_func"), ({"n_shared_experts": 0}, 2, "n_shared_experts"), ({"first_k_dense_replace": 2}, 2, "first_k_dense_replace"),
        ({"first_k_dense_replace": 0}, 2, "layer 0 are missing"), ({"n_routed_experts": 11, "n_group": 1}, 3, "has 12"), ({"n_routed_experts": 13, "n_group": 1}, 3, "expert 12"),
        ({"n_routed_experts": 2000, "n_group": 1}, 2, "1 to 1024"), ({"n_routed_experts": -1}, 3, "n_routed_experts"), ({"num_experts_per_tok": 13}, 3, "num_experts_per_tok"),
        ({"num_nextn_predict_layers": 65}, 3, "num_nextn_predict_layers"), ({"num_hidden_layers": 4294967295}, 2, "are missing"),
    ],
    "deepseek_v3": [
        ({"rope_interleave": False}, 2, "rope_interleave"), ({"attention_bias": True}, 2, "attention_bias"), ({"scoring_func": "softmax"}, 2, "scoring_func"),
        ({"num_key_value_heads": 2}, 2, "num_key_value_heads"), ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, 2, "linear"),
        ({"rope_parameters": YARN}, 2, "mscale"), ({"rope_parameters": {**MSCALE, "mscale": 1.0}}, 2, "mscale"),
        ({"rope_parameters": {**MSCALE, "attention_factor": 1.2}}, 2, "mscale"), ({"qk_nope_head_dim": 15}, 3, "rows for keys"), ({"v_head_dim": 0}, 3, "rows for keys"),
        ({"kv_lora_rank": 0}, 3, "latents of 0"), ({"qk_rope_head_dim": 4294967295}, 3, "latents of 32"), ({"num_hidden_layers": 27}, 2, "q_lora_rank"),
        ({"topk_method": "greedy"}, 2, "topk_method"), ({"num_attention_heads": 0}, 3, ""),
    ],
    "deepseek_v2": [
        ({"norm_topk_prob": True}, 2, "norm_topk_prob"), ({"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}, 2, "topk_method"),
        ({"mlp_bias": True}, 2, "mlp_bias"), ({"scoring_func": "sigmoid"}, 2, "scoring_func"),
    ],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(nibble, work, case):
    save(work / "m", *CASES[case])
    original = (work / "m" / "config.json").read_text()
    for changes, code, words in REFUSED[case]:
        edit_config(work / "m", **changes)
        done = nibble("convert", work / "m", "-o", work / "m.gguf", exits=code)
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("nibble: error:")]
        assert len(lines) == 1 and words in lines[0], (changes, done.stderr)
        assert not (work / "m.gguf").exists()
        (work / "m" / "config.json").write_text(original)


def test_groups_that_deepseek_v2_does_not_pick_by_are_not_written(nibble, work):
    name, tokenizer, changes = CASES["deepseek_v2"]
    save(work / "m", name, tokenizer, {**changes, "n_group": 3, "topk_group": 2})
    nibble("convert", work / "m", "-o", work / "m.gguf")
    keys = {key[0] for key in contents(work / "m.gguf")[0]}
    assert "deepseek2.expert_count" in keys and not [key for key in keys if "group" in key]
    model = as_float32(transformers.DeepseekV2ForCausalLM, work / "m")
    question = {"input_ids": random_ids(model, 2, 12)}
    assert_same(forward(nibble, work / "m.gguf", work, **question), expected(model, **question), torch.ones(2, 12), tolerance=1e-4)


def test_scales_of_positions_come_back(nibble, work):
    for scale in (1.0, 0.707, 0.5, 0.33):
        save(work / "m", *CASES["deepseek_v3"])
        edit_config(work / "m", rope_parameters={**YARN, "mscale": scale, "mscale_all_dim": scale})
        nibble("convert", work / "m", "-o", work / "m.gguf", "--force")
        nibble("convert", work / "m.gguf", "-o", work / "back", "--format", "safetensors", "--force")
        scaling = json.loads((work / "back" / "config.json").read_text())["rope_scaling"]
        assert (scaling["mscale"], scaling["mscale_all_dim"], scaling["factor"]) == (scale, scale, 4.0)
        shutil.rmtree(work / "m")


def without(path, out, leave):
    """The file without some keys or tensors, and others in their place."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or leave(key):
            continue
        value, types = field.contents(), field.types
        writer.add_array(key, value) if types[0] == gguf.GGUFValueType.ARRAY else writer.add_key_value(key, value, types[0])
    for tensor in reader.tensors:
        if not leave(tensor.name):
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_file_that_does_not_say_how_experts_are_scored_is_v3(nibble, work):
    """The converter's of a folder that transformers saved."""
    save(work / "m", *CASES["deepseek_v3"])
    theirs = by_llama_cpp(work / "m", work / "theirs.gguf", "f32")
    assert "deepseek2.expert_gating_func" not in {key[0] for key in contents(theirs)[0]}
    assert nibble.json("inspect", theirs)["model_type"] == "deepseek_v3"
    assert identity(nibble, theirs) == identity(nibble, work / "m")


def test_what_a_file_says_that_no_configuration_has_stops_a_run(nibble, work):
    save(work / "m", *CASES["deepseek_v3, yarn"])
    nibble("convert", work / "m", "-o", work / "m.gguf")
    save_file({"input_ids": torch.arange(3, 9).reshape(1, 6)}, work / "ask.safetensors")
    lies = [(changed((work / "m.gguf").read_bytes(), "deepseek2.expert_gating_func", 1), "expert_gating_func")]
    lies += [(without(work / "m.gguf", work / "n.gguf", lambda name: name.endswith("yarn_log_multiplier")).read_bytes(), "rope.scaling.type")]
    for data, words in lies:
        (work / "lie.gguf").write_bytes(data)
        said = nibble("forward", "--base", work / "lie.gguf", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", exits=3).stderr
        assert words in said, said
        assert not (work / "said.safetensors").exists()


NUMBERS = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "expert_count", "expert_used_count", "expert_group_count", "expert_group_used_count",
           "expert_feed_forward_length", "expert_shared_count", "leading_dense_block_count", "rope.dimension_count", "attention.kv_lora_rank", "attention.q_lora_rank",
           "attention.key_length_mla", "attention.value_length_mla", "attention.key_length", "context_length", "nextn_predict_layers")


@pytest.mark.parametrize("case", ["glm4_moe", "deepseek_v3", "deepseek_v2"])
def test_files_that_lie_are_one_line(nibble, work, case):
    save(work / "m", *CASES[case])
    if case == "glm4_moe":
        predicting(work / "m", 2)
    nibble("convert", work / "m", "-o", work / "m.gguf")
    good = (work / "m.gguf").read_bytes()
    architecture = "glm4moe" if case == "glm4_moe" else "deepseek2"
    save_file({"input_ids": torch.arange(3, 9).reshape(1, 6)}, work / "ask.safetensors")
    # Other numbers may be another model's; a run of it, or one line.
    maybe = []
    for name in NUMBERS:
        if (struct.pack("<Q", len(architecture) + 1 + len(name)) + f"{architecture}.{name}".encode()) in good:
            maybe += [(f"{name} = {value}", changed(good, f"{architecture}.{name}", value)) for value in (0, 1, 5, 1 << 31, 0xFFFFFFFF)]
    lies = []
    gone = ["exp_probs_b.bias", "ffn_gate_inp.weight", "ffn_down_shexp.weight", "ffn_up_exps.weight", "attn_output.weight"]
    gone += [] if case == "glm4_moe" else ["attn_k_b.weight", "attn_v_b.weight", "attn_kv_a_norm.weight"]
    for name in gone:
        if f"blk.1.{name}".encode() in good:
            lies.append((name, good.replace(f"blk.1.{name}".encode(), f"blk.1.{'x' * len(name)}".encode())))
    if case != "glm4_moe":
        # The dimensions of a tensor: fastest first.
        at = good.index(b"blk.1.attn_k_b.weight") + len(b"blk.1.attn_k_b.weight") + 4
        shape = struct.unpack_from("<3Q", good, at)
        for other in ((shape[1], shape[0], shape[2]), (shape[0], shape[2], shape[1]), (shape[0] * shape[2], shape[1], 1), (1, 1, shape[0] * shape[1] * shape[2]), (0, 0, 0), (1 << 62, 4, 1)):
            lies.append((f"shape {other}", good[:at] + struct.pack("<3Q", *other) + good[at + 24:]))
    for name, data in maybe + lies:
        (work / "lie.gguf").write_bytes(data)
        words = [nibble.path, "forward", "--base", work / "lie.gguf", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", "--force"]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
        lines = done.stderr.strip().splitlines()
        is_wrong = "=" not in name
        assert done.returncode in ((3,) if is_wrong else (0, 3)), (name, done.returncode, lines)
        if done.returncode:
            assert len(lines) == 1 and lines[0].startswith("nibble: error:") and ("lie.gguf" in lines[0] or name.startswith("context_length")), (name, lines)
