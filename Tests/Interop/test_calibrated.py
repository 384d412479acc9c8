"""Codes chosen on a text, for every shape of layer that runs: norms before, after and behind branches, scaled and parallel branches, norms of
heads, distances. What `quantize --encoder calibrated` says of the packed model's answers is what torch finds of the finished file, so both of
the pass's streams are the models'; the moments `calibrate` writes are those of what torch's layers take."""
import json
import os
import shutil
import subprocess
import time

import peft
import pytest
import torch
import transformers
from differential import experts
from differential.decoders import CLASSES
from running import as_float32, edit_config, save_random
from safetensors.torch import load_file, save_file
from test_decoders import OWN

LIGHT = {"gemma2", "gpt_neox"}
ENCODERS = {
    "bert": ("BertModel", {}), "distilbert": ("DistilBertModel", {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}),
    "modernbert": ("ModernBertModel", {"local_attention": 8, "global_attn_every_n_layers": 2}),
    "deberta-v2": ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16, "norm_rel_ebd": "layer_norm"}),
    "mpnet": ("MPNetModel", {})}
MODELS = {family: (names[0], OWN.get(family, {})) for family, names in CLASSES.items() if family not in (*experts.NAMES, "gpt_oss", "llama4_text")} | ENCODERS
# Their experts are tensors of their own in the file. Statistics and budgets know no experts.
MIXTURES = {family: (CLASSES[family][0], OWN.get(family, {})) for family in ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "glm4_moe")}
slow = pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="NIBBLE_SLOW is not set")
FAMILIES = [family if family in LIGHT else pytest.param(family, marks=slow) for family in MODELS]
VOCABULARY = 96
# Windows of a text that none is held out of, and enough tokens for targets to move by all that they find.
WINDOWS, LENGTH = 7, 190


def model_of(family, folder):
    """A random model and its folder; `no_rope` and the like as `OWN` has them."""
    name, own = (MODELS | MIXTURES)[family]
    return save_random(getattr(transformers, name), family, folder, **{
        "vocab_size": VOCABULARY, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0} | own)


def text(path, seed, windows=WINDOWS):
    """Rows of ids, some of which are likelier behind others, as in a text; and the ids."""
    chance = torch.Generator().manual_seed(seed)
    follow = torch.softmax(2.5 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)), 1)
    ids = torch.randint(3, VOCABULARY, (windows, 1), generator=chance)
    while ids.shape[1] < LENGTH:
        ids = torch.cat([ids, torch.multinomial(follow[ids[:, -1]], 1, generator=chance)], 1)
    path.write_text("".join(json.dumps({"input_ids": row, "labels": row}) + "\n" for row in ids.tolist()))
    return ids


def answers(model, ids):
    """Log-probabilities of next tokens, or final states."""
    with torch.no_grad():
        out = model(input_ids=ids)
    return torch.log_softmax(out.logits.double(), -1) if "logits" in out else out.last_hidden_state.double()


def distance(model, other, ids):
    """KL(model ‖ other), or the squared error of final states over their squares."""
    a, b = answers(model, ids), answers(other, ids)
    if "Causal" in type(model).__name__ or "LMHead" in type(model).__name__:
        return float((a.exp() * (a - b)).sum(-1).mean())
    return float((a - b).square().sum() / a.square().sum())


def twin(nibble, packed, model):
    """The finished file as transformers computes it."""
    folder = packed.with_suffix(".twin")
    nibble("dequantize", packed, "-o", folder, "--dtype", "fp32")
    return as_float32(type(model), folder)


@pytest.mark.parametrize("family", [*FAMILIES, *(family if family == "mixtral" else pytest.param(family, marks=slow) for family in MIXTURES)])
def test_the_streams_are_the_models(nibble, work, family):
    model = model_of(family, work / "m")
    ids = text(work / "text.jsonl", 5)
    asked = ["--calibration", work / "text.jsonl"]
    said = nibble.json("quantize", work / "m", "-o", work / "c.nbl", "--encoder", "calibrated", "-j", "1", *asked)["calibration"]
    assert said["windows"] == WINDOWS and said["tokens"] == ids.numel()
    # An expert that few tokens are sent to has its codes rounded.
    assert all("pooler" in name or ".experts." in name for name in said["not_calibrated"])
    own = twin(nibble, work / "c.nbl", model)
    found = distance(model, own, ids)
    assert said.get("kl_divergence", said.get("state_error")) == pytest.approx(found, rel=2e-3)
    # On a text of the same kind that was not read, calibrated codes do better than rounded ones.
    other = text(work / "other.jsonl", 6)
    nibble("quantize", work / "m", "-o", work / "r.nbl", "--encoder", "mse")
    loss, rounded = distance(model, own, other), distance(model, twin(nibble, work / "r.nbl", model), other)
    print(family, "text", found, "other", loss, "mse", rounded, "ratio", round(loss / rounded, 3), "errors", said["output_error"], said["output_error_mse"])
    assert loss < 0.9 * rounded
    # Any number of threads gives the same file.
    nibble("quantize", work / "m", "-o", work / "again.nbl", "--encoder", "calibrated", "-j", "2", *asked)
    assert (work / "again.nbl").read_bytes() == (work / "c.nbl").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_those_of_what_layers_take(nibble, work, family):
    model = model_of(family, work / "m")
    ids = text(work / "text.jsonl", 5)
    said = nibble.json("calibrate", work / "m", "--data", work / "text.jsonl", "-o", work / "s.safetensors")
    assert said["capped_tokens"] == 0
    stored = load_file(work / "s.safetensors")
    owners = json.loads(metadata(work / "s.safetensors")["layers"])
    taken = {}
    hooks = [module.register_forward_hook(lambda module, args, out, name=name: taken.__setitem__(name, args[0]))
             for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    answers(model, ids)
    for hook in hooks:
        hook.remove()
    found = 0
    for name, owner in owners.items():
        x = next(value for layer, value in taken.items() if name.endswith(layer)).reshape(-1, stored[owner + ".means"].numel()).double()
        moments = (x.T @ x / len(x))[*torch.triu_indices(x.shape[1], x.shape[1])]
        assert float((stored[owner + ".moments"] - moments).abs().max() / moments.abs().max()) < 1e-5, name
        found += 1
    assert found == said["layers"] > 0


def test_a_llama_written_as_granite_gets_the_same_codes(nibble, work, stories):
    """A real model: outputs twice as large that are added by half are the same outputs, to the last bit."""
    shutil.copytree(stories, work / "g")
    edit_config(
        work / "g", model_type="granite", architectures=["GraniteForCausalLM"], residual_multiplier=0.5, attention_multiplier=8**-0.5,
        embedding_multiplier=1.0, logits_scaling=1.0)

    def is_added(name):
        return "o_proj" in name or "down_proj" in name

    tensors = load_file(stories / "model.safetensors")
    save_file({name: value * 2 if is_added(name) else value for name, value in tensors.items()}, work / "g" / "model.safetensors")
    found = {}
    for name, model in (("l", stories), ("g", work / "g")):
        asked = ["--calibration", stories.parent / "stories.txt", "--calibration-tokens", "700"]
        nibble("quantize", model, "-o", work / f"{name}.nbl", "--encoder", "calibrated", *asked)
        nibble("dequantize", work / f"{name}.nbl", "-o", work / f"{name}.safetensors", "--dtype", "fp32")
        found[name] = load_file(work / f"{name}.safetensors")
    for name, value in found["l"].items():
        assert torch.equal(found["g"][name], value * 2 if is_added(name) else value), name


def kept_codes(path):
    """Where a calibration keeps what it has decided."""
    return path.with_name(f".{path.name}.nibble-codes")


@pytest.mark.parametrize("family", [family if family == "gemma2" else pytest.param(family, marks=slow) for family in MODELS | MIXTURES])
def test_a_run_goes_on_where_it_was_stopped(nibble, work, family):
    model_of(family, work / "m")
    text(work / "text.jsonl", 5)
    words = ["quantize", work / "m", "--encoder", "calibrated", "--calibration", work / "text.jsonl"]
    nibble(*words, "-o", work / "whole.nbl")
    begun = subprocess.Popen(
        [nibble.path, *map(str, words), "-o", str(work / "c.nbl"), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = kept_codes(work / "c.nbl")
    # The first matrix's codes take some thousand bytes.
    while begun.poll() is None and not (journal.exists() and journal.stat().st_size > 4000):
        time.sleep(0.002)
    begun.terminate()
    assert begun.wait() == 143 and journal.exists() and not (work / "c.nbl").exists()
    assert nibble.json(*words, "-o", work / "c.nbl", "--resume")["calibration"]["resumed_tensors"] > 0
    assert (work / "c.nbl").read_bytes() == (work / "whole.nbl").read_bytes() and not journal.exists()


@slow
@pytest.mark.parametrize("family", MODELS)
def test_other_ways_to_choose_codes(nibble, work, family):
    model = model_of(family, work / "m")
    text(work / "text.jsonl", 5)
    other, asked = text(work / "other.jsonl", 6), ["--calibration", work / "text.jsonl"]

    def loss(name, *words):
        nibble("quantize", work / "m", "-o", work / name, *words)
        return distance(model, twin(nibble, work / name, model), other)

    groups = ["--codec", "int4", "--group-size", "32"]
    rounded = {codec: loss(f"{codec}-mse.nbl", "--codec", codec, *(groups[2:] if codec == "int4" else []), "--encoder", "mse") for codec in ("nf4", "int4")}
    found = {
        "gptq": loss("gptq.nbl", *groups, "--encoder", "gptq", *asked) / rounded["int4"],
        "int4": loss("int4.nbl", *groups, "--encoder", "calibrated", *asked) / rounded["int4"]}
    nibble("calibrate", work / "m", "--data", work / "text.jsonl", "-o", work / "s.safetensors")
    found["statistics"] = loss("s.nbl", "--encoder", "calibrated", "--statistics", work / "s.safetensors") / rounded["nf4"]
    found["6 bits"] = loss("six.nbl", "--target-bits", "6", *asked) / rounded["nf4"]
    found["5 bits, calibrated"] = loss("five.nbl", "--target-bits", "5", "--encoder", "calibrated", *asked) / rounded["nf4"]
    print(family, {name: round(value, 3) for name, value in found.items()})
    assert all(value < 1 for value in found.values()), found
    # int4 of the target's own: what is measured for the choice is the same whatever the number of threads.
    nibble("quantize", work / "m", "-o", work / "again.nbl", "--target-bits", "6", "-j", "2", *asked)
    assert (work / "again.nbl").read_bytes() == (work / "six.nbl").read_bytes()


@slow
@pytest.mark.parametrize("family", [family for family in MODELS | MIXTURES if family in CLASSES])
def test_merges_keep_more_of_an_adapter(nibble, work, family):
    model = model_of(family, work / "m")
    text(work / "text.jsonl", 5)
    other = text(work / "other.jsonl", 6)
    nibble("quantize", work / "m", "-o", work / "b.nbl")
    nibble("dequantize", work / "b.nbl", "-o", work / "b", "--dtype", "fp32")
    adapted = peft.get_peft_model(as_float32(type(model), work / "b"), peft.LoraConfig(r=2, lora_alpha=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.08 * torch.randn(parameter.shape))
    adapted.save_pretrained(work / "a")
    whole = adapted.merge_and_unload().eval()

    def left(name, *words):
        nibble("merge", "--base", work / "b.nbl", "--adapter", work / "a", "-o", work / name, "--min-survival", "0", *words)
        return distance(whole, twin(nibble, work / name, model), other)

    rounded = left("r.nbl", "--when-lost", "fail")
    # Weights may move far where a random branch is weak beside the stream whose errors it makes up for.
    found = left("c.nbl", "--when-lost", "calibrated", "--calibration", work / "text.jsonl", "--no-check")
    print(family, "merge", found, "rounded", rounded, round(found / rounded, 3))
    assert found < rounded


def metadata(path):
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8:8 + length])["__metadata__"]


@pytest.mark.parametrize("family", ["gpt_oss", "llama4_text"])
def test_experts_that_files_stack_are_refused(nibble, work, family):
    save_random(getattr(transformers, CLASSES[family][0]), family, work / "m", vocab_size=VOCABULARY)
    text(work / "text.jsonl", 5)
    for words in (["quantize", work / "m", "-o", work / "c.nbl", "--encoder", "calibrated", "--calibration", work / "text.jsonl"],
                  ["calibrate", work / "m", "--data", work / "text.jsonl", "-o", work / "i.gguf"]):
        assert "calibration is not implemented for experts that files stack" in nibble(*words, exits=2).stderr
    assert not (work / "c.nbl").exists() and not (work / "i.gguf").exists()
