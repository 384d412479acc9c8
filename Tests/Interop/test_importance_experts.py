"""The importance matrix of mixtures of experts: of each expert, sums over the tokens that its router sends it, as llama.cpp's library reads them."""
import json

import numpy
import pytest
import torch
import transformers
from converter import gguf
from running import save_random
from test_gguf_out import gpt2_tokenizer, pieces

EXPERTS, WINDOWS, LENGTH = 4, 12, 50
MODELS = {
    "mixtral": ("MixtralForCausalLM", pieces, {"num_local_experts": EXPERTS}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", gpt2_tokenizer, {"num_experts": EXPERTS, "moe_intermediate_size": 64, "num_experts_per_tok": 2, "norm_topk_prob": True}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", gpt2_tokenizer, {
        "num_experts": EXPERTS, "moe_intermediate_size": 64, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 96})}


def summed(model, windows):
    """Σ x² of what experts take and how many tokens, by llama.cpp's names of their stacks; of one that all tokens take by its module."""
    sums = {}

    def add(name, x, expert=0, of=1):
        total, counts = sums.setdefault(name, (torch.zeros(of, x.shape[-1], dtype=torch.float64), torch.zeros(of)))
        total[expert] += x.double().square().sum(0)
        counts[expert] += len(x)

    def hook(layer, module):
        def seen(_, given):
            x, taken = given[0], given[1]
            for expert in range(EXPERTS):
                own = x[(taken == expert).any(-1)]
                gate, up = torch.nn.functional.linear(own, module.gate_up_proj[expert]).chunk(2, -1)
                for kind in ("gate", "up"):
                    add(f"blk.{layer}.ffn_{kind}_exps.weight", own, expert, EXPERTS)
                add(f"blk.{layer}.ffn_down_exps.weight", module.act_fn(gate) * up, expert, EXPERTS)
        return seen

    for layer, block in enumerate(model.model.layers):
        block.mlp.experts.register_forward_pre_hook(hook(layer, block.mlp.experts))
        if shared := getattr(block.mlp, "shared_expert", None):
            for kind in ("gate", "up", "down"):
                getattr(shared, f"{kind}_proj").register_forward_pre_hook(
                    lambda _, x, name=f"blk.{layer}.ffn_{kind}_shexp.weight": add(name, x[0].reshape(-1, x[0].shape[-1])))
    with torch.no_grad():
        for window in windows:
            model(input_ids=torch.tensor([window]), use_cache=False)
    return sums


@pytest.mark.parametrize("family", MODELS)
def test_experts_are_weighed_by_what_they_see(nibble, work, family):
    name, tokenizer, own = MODELS[family]
    (work / "m").mkdir()
    size = tokenizer(work / "m")
    model = save_random(getattr(transformers, name), family, work / "m", vocab_size=size, hidden_size=64, intermediate_size=64, **own)
    windows = numpy.random.default_rng(5).integers(3, 512, (WINDOWS, LENGTH)).tolist()
    (work / "rows.jsonl").write_text("".join(json.dumps({"input_ids": one, "labels": one}) + "\n" for one in windows))
    nibble("calibrate", work / "m", "--data", work / "rows.jsonl", "--tokens", WINDOWS * LENGTH, "-o", work / "i.gguf")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(work / "i.gguf").tensors}
    for stack, (sums, counts) in summed(model, windows).items():
        assert numpy.array_equal(found[f"{stack}.counts"].ravel(), counts.numpy()), stack
        assert numpy.allclose(found[f"{stack}.in_sum2"].reshape(sums.shape), sums.numpy(), rtol=2e-4, atol=1e-9), stack
    # The same in one step, and not what it is without.
    asked = ["quantize", work / "m", "--gguf-type", "q4_0", "-o"]
    nibble(*asked, work / "a.gguf", "--imatrix", work / "i.gguf")
    nibble(*asked, work / "b.gguf", "--encoder", "imatrix", "--calibration", work / "rows.jsonl", "--calibration-tokens", WINDOWS * LENGTH)
    nibble(*asked, work / "c.gguf")
    a, b, c = ({one.name: one.data for one in gguf.GGUFReader(work / f"{name}.gguf").tensors} for name in "abc")
    assert all(numpy.array_equal(a[name], b[name]) for name in a)
    assert all(not numpy.array_equal(a[name], c[name]) for name in a if "_exps" in name)
    # Experts' codes go further, and are fewer nats off.
    said = nibble.json(*asked, work / "d.gguf", "--encoder", "calibrated", "--calibration", work / "rows.jsonl")["calibration"]
    assert not any(".experts." in name for name in said["not_calibrated"]), said
