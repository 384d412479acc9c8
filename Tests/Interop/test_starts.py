"""Starts of LoRA that go by more than the weight, against PEFT's own: EVA and CorDA by what layers take, LoftQ by what packing takes."""
import dataclasses
import importlib
import inspect
import json
import sys

import peft
import pytest
import torch
from peft.tuners.lora import eva
from peft.utils import incremental_pca, loftq_utils
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from safetensors.torch import load_file
from test_adapters_running import GPT2, LLAMA, class_and_type, packed_and_twin
from test_finetune import RUN, rows
from test_methods import LINEAR

# PEFT's file takes `dataclass` from attrs, which it does not ask for.
sys.modules.setdefault("attr", dataclasses)
corda = importlib.import_module("peft.tuners.lora.corda")

# So small that what is written is what it began with.
STILL = ["--max-steps", 1, "--learning-rate", "1e-30", "--batch-size", 2]


@pytest.fixture(params=[(LLAMA, "all-linear"), (GPT2, "c_attn,c_fc,mlp.c_proj")], ids=["llama", "gpt2"])
def base(request, nibble, work):
    """A model, rows to train on, and what its layers take on a text."""
    name, targets = request.param
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m")
    model = as_float32(model_class, work / "m")
    rows(model, work / "rows.jsonl")
    ids = random_ids(model, 40, 48)
    (work / "text.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids.tolist()))
    nibble("calibrate", work / "m", "--data", work / "text.jsonl", "-o", work / "statistics", "-q")
    return model_class, targets, ids


def begun(nibble, work, *options, of="m", out="start"):
    nibble("finetune", "--base", work / of, "--data", work / "rows.jsonl", "-o", work / out, *STILL, *options)
    config = json.loads((work / out / "adapter_config.json").read_text())
    factors = load_file(work / out / "adapter_model.safetensors")
    assert config["init_lora_weights"] is True
    return config, {name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): (a, factors[name.replace("lora_A", "lora_B")])
                    for name, a in factors.items() if "lora_A" in name}


def lora_config(base, **settings):
    # Its CorDA knows no "all-linear".
    targets = LINEAR if base[1] == "all-linear" else base[1].split(",")
    return peft.LoraConfig(target_modules=targets, fan_in_fan_out=base[1] != "all-linear", task_type="CAUSAL_LM", **settings)


def layers(model):
    return {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules() if isinstance(layer, peft.tuners.lora.Linear)}


def assert_close(ours, theirs, tolerance):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("method", ["ipm", "kpm"])
def test_corda_takes_peft_s_part_out_of_the_weight(nibble, work, base, method):
    model_class, targets, ids = base
    model = as_float32(model_class, work / "m")
    settings = lora_config(base, r=4, lora_alpha=6, init_lora_weights="corda", corda_config=peft.tuners.lora.config.CordaConfig(corda_method=method))
    whole = torch.Tensor.squeeze
    with pytest.MonkeyPatch.context() as patched:
        # It takes texts one at a time and divides each by its greatest number. All at once, the division does not show in the product.
        patched.setattr(torch.Tensor, "squeeze", lambda x, *places: x.reshape(-1, x.shape[-1]) if x.dim() == 3 else whole(x, *places))
        corda.preprocess_corda(model, settings, run_model=lambda: model(ids))
    theirs = layers(peft.get_peft_model(model, settings))
    config, ours = begun(nibble, work, "--init-lora", "corda", "--init-option", f"corda_method={method}", "--statistics", work / "statistics",
                         "--lora-r", 4, "--lora-alpha", 6, "--target-modules", targets)
    assert config["r"] == 8 and config["lora_alpha"] == 12 and ours.keys() == theirs.keys()
    for name, (a, b) in ours.items():
        expected_product = theirs[name].lora_B["default"].weight @ theirs[name].lora_A["default"].weight
        assert_close(b[:, :4] @ a[:4], expected_product, 2e-3 if method == "ipm" else 2e-2)
        assert torch.equal(a[:4], a[4:]) and torch.equal(b[:, :4], -b[:, 4:])


@pytest.mark.parametrize("rho, adjusts", [(1, True), (2, True), (2, False), (3, True)])
def test_eva_finds_peft_s_directions_and_ranks(nibble, work, base, monkeypatch, rho, adjusts):
    model_class, targets, ids = base
    # Its random search finds nearly the same.
    monkeypatch.setattr(incremental_pca.IncrementalPCA, "_svd_fn_lowrank", incremental_pca.IncrementalPCA._svd_fn_full)
    settings = lora_config(base, r=4, lora_alpha=6, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=rho, adjust_scaling_factors=adjusts))
    model = peft.get_peft_model(as_float32(model_class, work / "m"), settings)
    eva.initialize_lora_eva_weights(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}], show_progress_bar=False)
    theirs = layers(model)
    config, ours = begun(nibble, work, "--init-lora", "eva", "--init-option", f"rho={rho}", "--init-option", f"adjust_scaling_factors={str(adjusts).lower()}",
                         "--statistics", work / "statistics", "--lora-r", 4, "--lora-alpha", 6, "--target-modules", targets)
    assert {name: a.shape[0] for name, (a, _) in ours.items()} == {name: layer.r["default"] for name, layer in theirs.items()}
    if rho > 1:
        assert len({a.shape[0] for a, _ in ours.values()}) > 1
    loaded = layers(peft.PeftModel.from_pretrained(as_float32(model_class, work / "m"), work / "start"))
    for name, (a, b) in ours.items():
        assert loaded[name].scaling["default"] == pytest.approx(theirs[name].scaling["default"], rel=1e-6)
        likeness = torch.nn.functional.cosine_similarity(a, theirs[name].lora_A["default"].weight.detach()).abs()
        assert likeness.min() > 0.99 and b.abs().max() < 1e-29
        assert a.norm(dim=1) == pytest.approx(torch.ones(len(a)), abs=1e-5)


def loftq_on_a_cpu():
    """PEFT's own steps, which ask for a GPU."""
    source = inspect.getsource(loftq_utils.loftq_init).replace('"cuda"', '"cpu"')
    scope = dict(vars(loftq_utils), clear_device_cache=lambda: None)
    exec(source, scope)
    return scope["loftq_init"]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_loftq_s_codes_and_factors_are_peft_s(nibble, work, base, steps):
    model_class, targets, ids = base
    nibble("quantize", work / "m", "-o", work / "q.nbl", "--no-double-quant", "--correction", 4, "--loftq-iter", steps, "-q")
    nibble("dequantize", work / "q.nbl", "-o", work / "twin", "--dtype", "fp32", "-q")
    factors = load_file(work / "q-correction" / "adapter_model.safetensors")
    source, twin = as_float32(model_class, work / "m").state_dict(), as_float32(model_class, work / "twin").state_dict()
    names = [name for name in factors if "lora_A" in name]
    assert names
    for name in names:
        weight = name.removeprefix("base_model.model.").removesuffix("lora_A.weight") + "weight"
        turned = (lambda w: w.T.contiguous()) if targets != "all-linear" else (lambda w: w)
        packed, a, b = loftq_on_a_cpu()(turned(source[weight]), num_bits=4, reduced_rank=4, num_iter=steps)
        ours = factors[name.replace("lora_A", "lora_B")] @ factors[name]
        # Later steps pack what differs in its last places: scales do too, and numbers between two codes may fall to either side.
        found = turned(twin[weight])
        if steps == 1:
            assert torch.equal(found, packed)
        else:
            assert ((found - packed).abs() > 1e-5 * packed.abs().max()).float().mean() < 2e-3
        assert_close(ours, b @ a, 1e-4 if steps == 1 else 0.05)
        error = (turned(source[weight]) - turned(twin[weight]) - ours).norm()
        assert error == pytest.approx(float((turned(source[weight]) - packed - b @ a).norm()), rel=1e-3)


def test_loftq_of_one_step_begins_on_the_packed_base_as_it_is(nibble, work, base):
    model_class, targets, ids = base
    nibble("quantize", work / "m", "-o", work / "q.nbl", "--correction", 4, "-q")
    nibble("quantize", work / "m", "-o", work / "plain.nbl", "-q")
    assert (work / "q.nbl").read_bytes() == (work / "plain.nbl").read_bytes()
    options = ["--init-lora", "loftq", "--original", work / "m", "--lora-r", 4, "--lora-alpha", 6]
    config, ours = begun(nibble, work, *options, of="q.nbl")
    assert config["r"] == 4 and config["lora_alpha"] == 6
    factors = load_file(work / "q-correction" / "adapter_model.safetensors")
    for name, (a, b) in ours.items():
        there = f"base_model.model.{name}.lora_A.weight"
        assert_close(1.5 * b @ a, factors[there.replace("lora_A", "lora_B")] @ factors[there], 1e-5)
    # And trained on, from either.
    nibble("finetune", "--base", work / "q.nbl", "--data", work / "rows.jsonl", "-o", work / "out", *RUN, "--init-adapter", work / "q-correction")
    nibble("finetune", "--base", work / "q.nbl", "--data", work / "rows.jsonl", "-o", work / "other", *RUN, *options)


@pytest.mark.parametrize("start", ["corda", "eva"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_trained_works_on_the_base_as_it_is(nibble, work, base, start, packed):
    model_class, targets, ids = base
    ours, theirs = packed_and_twin(nibble, work, "packed.nbl") if packed else (work / "m", work / "m")
    nibble("finetune", "--base", ours, "--data", work / "rows.jsonl", "-o", work / "out", "--init-lora", start, "--statistics", work / "statistics",
           "--lora-r", 4, *RUN)
    metrics = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["loss"] > 0
    adapted = peft.PeftModel.from_pretrained(as_float32(model_class, theirs), work / "out").eval()
    question = {"input_ids": ids[:3, :24]}
    assert_same(forward(nibble, ours, work, "--adapter", work / "out", **question), expected(adapted, **question))


@pytest.mark.parametrize("options, code, words", [
    (["--init-lora", "eva"], 2, "--statistics"), (["--init-lora", "pissa", "--statistics", "statistics"], 2, "goes by no statistics"),
    (["--init-lora", "loftq"], 2, "--original"), (["--init-lora", "loftq", "--original", "m"], 2, "is not packed"),
    (["--init-lora", "eva", "--init-option", "tau=0.5", "--statistics", "statistics"], 2, "has rho, adjust_scaling_factors"),
    (["--init-lora", "eva", "--init-option", "rho=0.5", "--statistics", "statistics"], 2, "expected a number from 1"),
    (["--init-lora", "corda", "--init-option", "corda_method=both", "--statistics", "statistics"], 2, "expected ipm or kpm"),
    (["--init-lora", "corda", "--statistics", "energies"], 3, "energies only"), (["--init-lora", "eva", "--statistics", "m/config.json"], 3, ""),
    (["--init-lora", "eva", "--statistics", "statistics", "--method", "dora"], 2, "is a start of LoRA"),
    (["--init-lora", "corda", "--statistics", "others"], 5, "of another model"),
])
def test_what_contradicts_itself_is_refused(nibble, work, base, options, code, words):
    if "energies" in options:
        nibble("calibrate", work / "m", "--data", work / "text.jsonl", "-o", work / "energies", "--diagonal", "-q")
    if "others" in options:
        save_random(*class_and_type(LLAMA), work / "n")
        nibble("calibrate", work / "n", "--data", work / "text.jsonl", "-o", work / "others", "-q")
    options = [work / one if (work / one).exists() else one for one in options]
    done = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *options, exits=code)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not (work / "out").exists()
