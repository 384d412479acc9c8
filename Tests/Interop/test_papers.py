"""The quantized family of the papers: what nibble reads, computes and writes for QA-LoRA, IEC, Q-BaRA and QA-HiRA, against PEFT where it has
the method, and against the papers' equations in torch where it has not."""
import json
import random

import peft
import pytest
import qalora  # noqa: F401  gives PEFT's linear layers QA-LoRA
import torch
from running import TOLERANCE, as_float32, distance, forward, random_ids, save_random
from safetensors.torch import load_file, save_file

LLAMA = "LlamaForCausalLM"


def assert_same(found, wanted):
    assert distance(found, wanted) <= TOLERANCE


def draw_shape(seed):
    """A small Llama whose widths are multiples of 8, drawn."""
    rng = random.Random(seed)
    heads, size = rng.choice([2, 4]), rng.choice([8, 16])
    return {"hidden_size": heads * size, "num_attention_heads": heads, "num_key_value_heads": rng.choice([1, 2]), "head_dim": size,
            "intermediate_size": 8 * rng.choice([5, 8, 12]), "num_hidden_layers": rng.choice([1, 2])}


def base(folder, seed=None):
    """A model of a drawn shape, or one whose widths are multiples of 32."""
    import transformers
    torch.manual_seed(seed or 0)
    shape = draw_shape(seed) if seed is not None else {
        "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "num_hidden_layers": 2}
    return save_random(getattr(transformers, LLAMA), "llama", folder, **shape)


def linears(model):
    return {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"}


def rows(tmp_path, model):
    lines = [{"input_ids": ids, "labels": ids} for ids in random_ids(model, 8, 12).tolist()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "rows.jsonl"


def train(nibble, tmp_path, model, method, *flags):
    nibble("finetune", "--base", tmp_path / "m", "--data", rows(tmp_path, model), "-o", tmp_path / "a", "--method", method, "--max-steps", 3,
           "--batch-size", 2, "--learning-rate", 0.01, "-q", *flags)
    return tmp_path / "a"


def logits(nibble, tmp_path, model, *options):
    ids = random_ids(model)
    return ids, forward(nibble, tmp_path / "m", tmp_path, *options, input_ids=ids)["logits"]


def by_equations(model, ids, change):
    """The logits with `change(path, x)` added to the outputs of every linear layer."""
    hooks = [one.register_forward_hook(lambda module, given, out, name=name: out + change(name, given[0]))
             for name, one in linears(model).items()]
    with torch.no_grad():
        found = model(ids).logits
    for hook in hooks:
        hook.remove()
    return found


def draw_file(folder, model, parts, config):
    """An adapter of random numbers: `parts(linear)` gives the shapes of a layer's tensors, by suffix."""
    tensors = {}
    for name, one in linears(model).items():
        for suffix, shape in parts(one).items():
            tensors[f"base_model.model.{name}.{suffix}"] = 0.3 * torch.randn(shape)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({"target_modules": sorted(linears(model))} | config))
    return tensors


def part(tensors, name, suffix):
    return tensors[f"base_model.model.{name}.{suffix}"]


def pool(x, size):
    return x.unflatten(-1, (-1, size)).mean(-1)


def plain_in_peft(nibble, tmp_path, ids):
    """The logits of PEFT with what `adapter convert` makes of an adapter."""
    import transformers
    nibble("adapter", "convert", tmp_path / "a", "-o", tmp_path / "plain", "-q")
    model = peft.PeftModel.from_pretrained(as_float32(getattr(transformers, LLAMA), tmp_path / "m"), tmp_path / "plain").eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("seed", range(4))
def test_peft_loads_qalora_that_nibble_trained(nibble, tmp_path, seed):
    import transformers
    model = base(tmp_path / "m", seed)
    adapter = train(nibble, tmp_path, model, "qalora", "--qalora-group-size", random.Random(seed).choice([2, 4, 8]), "--lora-r", 4)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["use_qalora"] is True and "qalora_gain" not in config
    ids, found = logits(nibble, tmp_path, model, "--adapter", adapter)
    adapted = peft.PeftModel.from_pretrained(as_float32(getattr(transformers, LLAMA), tmp_path / "m"), adapter).eval()
    assert "qalora_group_size" in str(vars(adapted.peft_config["default"]))
    with torch.no_grad():
        wanted = adapted(ids).logits
        assert (wanted - model(ids).logits).abs().max() > 1e-3
    assert_same(found, wanted)
    assert_same(plain_in_peft(nibble, tmp_path, ids), wanted)


@pytest.mark.parametrize("gain", ["groups", "mean", "sum"])
def test_qalora_of_other_programs_needs_its_gain_said(nibble, tmp_path, gain):
    model = base(tmp_path / "m")
    size = 16
    tensors = draw_file(tmp_path / "raw", model, lambda one: {
        "lora_A.weight": (4, one.in_features // size), "lora_B.weight": (one.out_features, 4)}, {"peft_type": "LORA", "r": 4, "lora_alpha": 6})
    message = nibble("merge", tmp_path / "m", tmp_path / "raw", "-o", tmp_path / "out", exits=3).stderr
    assert "QA-LoRA by groups of 16" in message and "--qalora-gain" in message
    nibble("adapter", "convert", tmp_path / "raw", "-o", tmp_path / "a", "--qalora-gain", gain, "--qalora-group-size", size, "-q")
    ids, found = logits(nibble, tmp_path, model, "--adapter", tmp_path / "a")

    def change(name, x):
        factor = {"groups": x.shape[-1] / size, "mean": 1, "sum": size}[gain]
        return 6 / 4 * factor * pool(x, size) @ part(tensors, name, "lora_A.weight").T @ part(tensors, name, "lora_B.weight").T
    assert_same(found, by_equations(model, ids, change))


@pytest.mark.parametrize("seed", range(3))
def test_iec_as_public_checkpoints_have_it(nibble, tmp_path, seed):
    model = base(tmp_path / "m", seed)
    rank = random.Random(seed).choice([1, 2, 4])
    shape = {"lora_default_A_scale": (1,), "lora_default_B_scale": (1,)}
    tensors = draw_file(tmp_path / "a", model, lambda one: {
        "lora_A.weight": (rank, one.in_features), "lora_B.weight": (one.out_features, rank), **shape},
        {"peft_type": "LORA", "r": rank, "lora_alpha": 3})
    ids, found = logits(nibble, tmp_path, model, "--adapter", tmp_path / "a")

    def change(name, x):
        out = model.get_submodule(name).out_features
        u = x @ part(tensors, name, "lora_A.weight").T + part(tensors, name, "lora_default_A_scale") * pool(x, x.shape[-1] // rank)
        again = part(tensors, name, "lora_default_B_scale") * u.repeat_interleave(out // rank, -1)
        return 3 / rank * (u @ part(tensors, name, "lora_B.weight").T + again)
    wanted = by_equations(model, ids, change)
    assert_same(found, wanted)
    assert_same(plain_in_peft(nibble, tmp_path, ids), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_q_bara(nibble, tmp_path, seed):
    model = base(tmp_path / "m", seed)
    size, rank = random.Random(seed).choice([2, 4]), 3
    tensors = draw_file(tmp_path / "a", model, lambda one: {
        "lora_A.weight": (size * rank, one.in_features // size), "lora_B.weight": (one.out_features // size, size * rank)},
        {"peft_type": "QBARA", "r": rank, "lora_alpha": 5, "qbara_lambda": size})
    ids, found = logits(nibble, tmp_path, model, "--adapter", tmp_path / "a")

    def change(name, x):
        low = pool(x, size) @ part(tensors, name, "lora_A.weight").T @ part(tensors, name, "lora_B.weight").T
        return 5 / rank * low.repeat_interleave(size, -1)
    wanted = by_equations(model, ids, change)
    assert_same(found, wanted)
    assert_same(plain_in_peft(nibble, tmp_path, ids), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_qa_hira(nibble, tmp_path, seed):
    model = base(tmp_path / "m", seed)
    tensors = draw_file(tmp_path / "a", model, lambda one: {"lora_C.weight": (one.out_features // 8, one.in_features // 4)},
                        {"peft_type": "QAHIRA", "r": 64, "lora_alpha": 16, "qahira_lambda_1": 4, "qahira_lambda_2": 8})
    ids, found = logits(nibble, tmp_path, model, "--adapter", tmp_path / "a")
    wanted = by_equations(model, ids, lambda name, x: 0.25 * (pool(x, 4) @ part(tensors, name, "lora_C.weight").T).repeat_interleave(8, -1))
    assert_same(found, wanted)
    nibble("merge", tmp_path / "m", tmp_path / "a", "-o", tmp_path / "merged", "-q")
    import transformers
    with torch.no_grad():
        assert_same(as_float32(getattr(transformers, LLAMA), tmp_path / "merged")(ids).logits, wanted)


def test_qalora_merges_into_zeros_and_touches_no_code(nibble, tmp_path):
    model = base(tmp_path / "m")
    nibble("quantize", tmp_path / "m", "-o", tmp_path / "q.nbl", "--codec", "int4", "--group-size", 32, "--zeros", "float32", "-q",
           "--keep", "embed_tokens|lm_head")
    draw_file(tmp_path / "a", model, lambda one: {"lora_A.weight": (2, one.in_features // 32), "lora_B.weight": (one.out_features, 2)},
              {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "use_qalora": True, "qalora_group_size": 32})
    said = nibble.json("merge", tmp_path / "q.nbl", tmp_path / "a", "-o", tmp_path / "merged.nbl")
    assert said["changed"] and all(one["moved"] for one in said["changed"])
    nibble("dequantize", tmp_path / "q.nbl", "-o", tmp_path / "before", "--dtype", "fp32", "-q")
    nibble("dequantize", tmp_path / "merged.nbl", "-o", tmp_path / "after", "--dtype", "fp32", "-q")
    ids = random_ids(model)
    found = forward(nibble, tmp_path / "after", tmp_path, input_ids=ids)["logits"]
    assert_same(found, forward(nibble, tmp_path / "q.nbl", tmp_path, "--adapter", tmp_path / "a", input_ids=ids)["logits"])
    assert load_file(tmp_path / "after" / "model.safetensors").keys() == load_file(tmp_path / "before" / "model.safetensors").keys()
