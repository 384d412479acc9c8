"""gpt-oss as GGUF: gate and up, which its files hold in turns in one parameter, are two tensors there. Files are the converter's, come back as the
model that they were made of, and hold the bits of MXFP4 as they are."""
import json

import numpy
import peft
import pytest
import torch
import transformers
from converter import assert_same_file, contents, gguf
from running import as_float32, assert_same, edit_config, expected, forward, random_ids
from safetensors.torch import load_file, save_file
from test_gguf_experts import changed
from test_gguf_out import CASES, DTYPES, by_llama_cpp, gpt2_tokenizer, save
from test_scaled_floats import mxfp4
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

CASE = CASES["gpt_oss"]


@pytest.fixture
def model(work):
    save(work / "m", *CASE)
    return work / "m"


def published(work, **changes):
    """A tiny model as the published ones are: experts in MXFP4, the rest in bfloat16."""
    folder = mxfp4(work / "m", vocab_size=50257, **changes)
    gpt2_tokenizer(folder)
    return folder


@pytest.mark.parametrize("stored, kind", [("f32", "f16"), ("bf16", "bf16"), ("f32", "q8_0")])
def test_types_are_those_of_the_converter(nibble, work, stored, kind):
    save(work / "m", *CASE, DTYPES[stored])
    nibble("convert", work / "m", "-o", work / "ours.gguf", "--gguf-type", kind)
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", kind))


def test_several_files_are_those_of_the_converter(nibble, work, model):
    nibble("convert", model, "-o", work / "ours", "--format", "gguf", "--max-shard-size", "100KB")
    by_llama_cpp(model, work / "model.gguf", "f32", "--split-max-size", "100K")
    theirs = sorted(work.glob("model-*.gguf"))
    assert len(theirs) > 2 and [path.read_bytes() for path in theirs] == [path.read_bytes() for path in sorted((work / "ours").iterdir())]
    assert nibble("hash", theirs[0]).stdout.split()[0] == nibble("hash", model).stdout.split()[0]


def test_the_converters_file_is_the_model(nibble, work, model):
    """Its logits, its content, and the same file again."""
    theirs = by_llama_cpp(model, work / "theirs.gguf", "f32")
    peer = as_float32(transformers.GptOssForCausalLM, model)
    question = {"input_ids": random_ids(peer, 2, 20)}
    assert_same(forward(nibble, theirs, work, **question), expected(peer, **question), torch.ones(2, 20), tolerance=1e-4)
    identity = nibble("hash", model).stdout.split()[0]
    assert nibble("hash", theirs).stdout.split()[0] == identity
    nibble("verify", theirs)
    nibble("convert", theirs, "-o", work / "back", "--format", "safetensors")
    assert nibble("hash", work / "back").stdout.split()[0] == identity
    again = as_float32(transformers.GptOssForCausalLM, work / "back")
    assert_same(expected(again, **question), expected(peer, **question), torch.ones(2, 20), tolerance=1e-5)
    assert not nibble.json("diff", theirs, model)["changed"]
    nibble("convert", theirs, "-o", work / "again.gguf")
    assert contents(work / "again.gguf")[1] == contents(theirs)[1]
    nibble("quantize", theirs, "-o", work / "a.nbl")
    nibble("quantize", model, "-o", work / "b.nbl")
    assert nibble("hash", work / "a.nbl").stdout.split()[0] == nibble("hash", work / "b.nbl").stdout.split()[0]


def test_block_files_are_parted_where_their_numbers_are_plain(nibble, work, model):
    nibble("convert", model, "-o", work / "whole.nbl", "--compress", "zstd")
    nibble("convert", work / "whole.nbl", "-o", work / "a.gguf")
    nibble("convert", model, "-o", work / "b.gguf")
    assert contents(work / "a.gguf")[1] == contents(work / "b.gguf")[1]
    nibble("quantize", model, "-o", work / "packed.nbl")
    said = nibble("convert", work / "packed.nbl", "-o", work / "c.gguf", exits=2).stderr
    assert "gate_up_proj" in said and "dequantize the model first" in said and not (work / "c.gguf").exists()


def test_bits_of_mxfp4_are_those_of_the_converter(nibble, work):
    folder = published(work)
    nibble("convert", folder, "-o", work / "ours.gguf")
    theirs = by_llama_cpp(folder, work / "theirs.gguf", "bf16")
    # It calls the file by the type that was asked for; the experts are most of it.
    assert_same_file(work / "ours.gguf", theirs, ignoring=("general.file_type",))
    stored = load_file(folder / "model.safetensors")
    for tensor in gguf.GGUFReader(work / "ours.gguf").tensors:
        if not tensor.name.endswith("_exps.weight"):
            continue
        assert tensor.tensor_type.name == "MXFP4"
        layer, kind = tensor.name.split(".")[1], tensor.name.split("_")[1]
        name = f"model.layers.{layer}.mlp.experts.{'down_proj' if kind == 'down' else 'gate_up_proj'}"
        values = convert_moe_packed_tensors(stored[name + "_blocks"], stored[name + "_scales"], dtype=torch.float32).transpose(1, 2)
        values = {"down": values, "gate": values[:, ::2], "up": values[:, 1::2]}[kind]
        assert numpy.array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), values.numpy()), tensor.name


def test_bits_of_mxfp4_stay_where_the_rest_is_packed(nibble, work):
    folder = published(work)
    nibble("convert", folder, "-o", work / "a.gguf")
    nibble("quantize", folder, "-o", work / "b.gguf", "--gguf-type", "mxfp4_moe")
    a, b = ({tensor[0]: tensor[1:] for tensor in contents(work / name)[1]} for name in ("a.gguf", "b.gguf"))
    experts = [name for name in a if name.endswith("_exps.weight")]
    assert len(experts) == 6 and all(a[name] == b[name] for name in experts) and b["blk.0.attn_q.weight"][0] == "Q8_0"
    said = nibble("quantize", folder, "-o", work / "c.gguf", "--gguf-type", "q4_0", exits=2).stderr
    assert "are mxfp4 already" in said and not (work / "c.gguf").exists()
    nibble("quantize", folder, "-o", work / "c.gguf", "--gguf-type", "q4_0", "--allow-requantize")
    nibble("verify", work / "c.gguf")


def test_mxfp4_runs_from_the_file(nibble, work):
    folder = published(work)
    theirs = by_llama_cpp(folder, work / "theirs.gguf", "bf16")
    question = {"input_ids": torch.arange(5, 25).reshape(2, 10)}
    ours, other = forward(nibble, theirs, work, **question), forward(nibble, folder, work, **question)
    assert_same(ours, other, torch.ones(2, 10), tolerance=1e-6)
    nibble("verify", theirs)
    nibble("convert", theirs, "-o", work / "again.gguf")
    assert contents(work / "again.gguf")[1] == contents(theirs)[1]
    nibble("dequantize", theirs, "-o", work / "a", "--dtype", "fp32")
    nibble("dequantize", folder, "-o", work / "b", "--dtype", "fp32")
    a, b = (load_file(work / name / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []


REFUSED = [
    ({"swiglu_limit": 6.0}, "swiglu_limit"), ({"swiglu_alpha": 1.5}, "swiglu_alpha"), ({"attention_bias": False}, "attention_bias"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings"), ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
]


def test_what_llama_cpp_computes_otherwise_is_refused_by_name(nibble, work, model):
    original = (model / "config.json").read_text()
    for changes, words in REFUSED:
        edit_config(model, **changes)
        done = nibble("convert", model, "-o", work / "m.gguf", exits=2)
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("nibble: error:")]
        assert len(lines) == 1 and words in lines[0], (changes, done.stderr)
        assert not (work / "m.gguf").exists()
        (model / "config.json").write_text(original)
    assert "truncate is false" in nibble("convert", model, "-o", work / "m.gguf").stderr


def test_positions_are_scaled_where_nothing_says_it(nibble, work, model):
    """As transformers does."""
    edit_config(model, rope_parameters=None)
    nibble("convert", model, "-o", work / "ours.gguf")
    assert_same_file(work / "ours.gguf", by_llama_cpp(model, work / "theirs.gguf", "f32"))


def drawn_adapter(base, out):
    """PEFT's adapter of layers and of both parameters of the experts, every number drawn."""
    model = peft.get_peft_model(as_float32(transformers.GptOssForCausalLM, base), peft.LoraConfig(
        r=2, lora_alpha=2, target_modules=["q_proj", "o_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(out)
    return out


def same_merges(nibble, work, adapter, bases, *options):
    """The file of a merge is that of the merged model, from each of these bases."""
    nibble("merge", "--base", bases[0], "--adapter", adapter, "-o", work / "s", "--any-base", "--format", "safetensors", "--dtype", "fp32")
    nibble("convert", work / "s", "-o", work / "s.gguf", "--gguf-type", "f32")
    nibble("convert", bases[0], "-o", work / "before.gguf", "--gguf-type", "f32")
    merged, before = ({tensor[0]: tensor[1:] for tensor in contents(work / name)[1]} for name in ("s.gguf", "before.gguf"))
    assert {f"blk.0.{name}.weight" for name in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "attn_q")} <= {name for name in merged if merged[name] != before[name]}
    for number, base in enumerate(bases):
        nibble("merge", "--base", base, "--adapter", adapter, "-o", work / f"{number}.gguf", "--any-base", "--gguf-type", "f32")
        ours = {tensor[0]: tensor[1:] for tensor in contents(work / f"{number}.gguf")[1]}
        assert ours.keys() == merged.keys() and [name for name in ours if ours[name] != merged[name]] == [], number


def test_a_merge_is_the_file_of_the_merged_model(nibble, work, model):
    """Parameters that are two tensors there, too."""
    nibble("convert", model, "-o", work / "base.gguf")
    same_merges(nibble, work, drawn_adapter(model, work / "a"), [model, work / "base.gguf"])
    report = nibble.json("merge", "--base", model, "--adapter", work / "a", "-o", work / "q.gguf", "--any-base", "--gguf-type", "q8_0", "--min-survival", "0.5")
    assert report
    nibble("verify", work / "q.gguf")


@pytest.mark.parametrize("case", ["granite4", "llama4"])
def test_a_merge_is_the_file_of_the_merged_model_where_gate_and_up_are_one_behind_the_other(nibble, work, case):
    save(work / "m", *CASES[case])
    (work / "rows.jsonl").write_text("".join(json.dumps({"input_ids": [5, 6, 7, 8 + n, 9], "labels": [5, 6, 7, 8 + n, 9]}) + "\n" for n in range(2)))
    nibble("finetune", work / "m", work / "rows.jsonl", "-o", work / "a", "--max-steps", 3, "--lora-r", 3, "--learning-rate", 0.1, "--target-modules", "all-linear")
    nibble("convert", work / "m", "-o", work / "base.gguf")
    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "s", "--format", "safetensors", "--dtype", "fp32")
    nibble("convert", work / "s", "-o", work / "s.gguf", "--gguf-type", "f32")
    merged, before = ({tensor[0]: tensor[1:] for tensor in contents(work / name)[1]} for name in ("s.gguf", "base.gguf"))
    halves = [name for name in merged if "ffn_gate" in name and "inp" not in name or "ffn_up" in name]
    assert halves and all(merged[name] != before[name] for name in halves)
    for base in ("m", "base.gguf"):
        nibble("merge", "--base", work / base, "--adapter", work / "a", "-o", work / "o.gguf", "--any-base", "--gguf-type", "f32", "--force")
        ours = {tensor[0]: tensor[1:] for tensor in contents(work / "o.gguf")[1]}
        assert ours.keys() == merged.keys() and [name for name in ours if ours[name] != merged[name]] == [], base


def test_a_merge_into_bits_of_mxfp4_is_that_of_their_numbers(nibble, work):
    folder = published(work)
    nibble("dequantize", folder, "-o", work / "plain", "--dtype", "fp32")
    nibble("convert", folder, "-o", work / "base.gguf")
    same_merges(nibble, work, drawn_adapter(work / "plain", work / "a"), [folder, work / "base.gguf"])


def test_files_that_lie_are_one_line(nibble, work, model):
    nibble("convert", model, "-o", work / "m.gguf")
    good = (work / "m.gguf").read_bytes()
    lies = [(changed(good, "gpt-oss.expert_count", value), "_exps.") for value in (2, 4, 1)]
    lies += [(good.replace(b"blk.1.ffn_up_exps.weight", b"blk.1.ffn_xx_exps.weight"), "without its other half"),
             (good.replace(b"blk.1.ffn_up_exps.bias", b"blk.1.ffn_xx_exps.bias"), "without its other half")]
    at = good.index(b"blk.0.ffn_up_exps.weight") + len(b"blk.0.ffn_up_exps.weight") + 4
    lies.append((good[:at] + good[at + 8:at + 16] + good[at:at + 8] + good[at + 16:], "does not go with"))
    for number, (data, words) in enumerate(lies):
        (work / "lie.gguf").write_bytes(data)
        done = nibble("hash", work / "lie.gguf", exits=3)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("nibble: error:") and "lie.gguf" in lines[0] and words in lines[0], (number, lines)


def test_experts_that_are_odd_are_named(nibble, work, model):
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    for value, words in ((tensors[name][:, :, :-1].contiguous(), "no outputs of two layers"), (tensors[name][:-1].contiguous(), "expert 2")):
        save_file({**tensors, name: value}, path)
        done = nibble("convert", model, "-o", work / "m.gguf", exits=3)
        assert words in done.stderr and not (work / "m.gguf").exists(), done.stderr
