"""DeepSeek, Qwen2-MoE and GLM-4.5: checkpoints in FP8 and with layers that predict further tokens, what of their adapters PEFT reads, and
configurations that are refused. What they compute, the differential fuzzer compares on drawn configurations (`differential/mixtures.py`)."""
import json

import peft
import pytest
import torch
import transformers
from differential.train import write_tokenizer
from models import make, small_config
from running import TOLERANCE, as_float32, distance, edit_config, expected, forward, random_ids
from safetensors.torch import load_file, save_file
from test_generate import continued, generate, prompt_of

CLASSES = {"deepseek_v3": "DeepseekV3", "deepseek_v2": "DeepseekV2", "qwen2_moe": "Qwen2Moe", "glm4_moe": "Glm4Moe"}


def save(folder, family, dtype=torch.float32, **changes):
    model = make(getattr(transformers, CLASSES[family] + "ForCausalLM"), small_config(family, **changes), dtype)
    model.save_pretrained(folder)
    return model


def rewrite(folder, change):
    """Changes the stored tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


# MARK: - Published checkpoints

def in_fp8(folder, tile=32):
    """Linear layers as DeepSeek-V3's files have them; tiles are cut off at the edge of the key's and value's first projection."""
    def change(tensors):
        for name in [name for name in tensors if name.endswith("proj.weight") or "with_mqa" in name]:
            rows, columns = tensors[name].shape
            tensors[name] = (torch.randn(rows, columns) * 60).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.rand(-(-rows // tile), -(-columns // tile)) * 1e-3 + 1e-5
    rewrite(folder, change)
    edit_config(folder, quantization_config={
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [tile, tile]})


def test_a_checkpoint_in_fp8_with_a_layer_that_predicts_further(nibble, work):
    save(work / "m", "deepseek_v3", torch.bfloat16)
    in_fp8(work / "m")
    # What the published configuration says beside, of what is so anyway or of its own training.
    edit_config(work / "m", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1, seq_aux=True, aux_loss_alpha=0.001)
    stored = load_file(work / "m" / "model.safetensors")
    assert stored["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"].shape[0] % 32
    nibble("dequantize", work / "m", "-o", work / "plain", "--dtype", "fp32")
    plain = load_file(work / "plain" / "model.safetensors")
    for name in [name for name in stored if name.endswith("_scale_inv")]:
        weight = name.removesuffix("_scale_inv")
        rows, columns = stored[weight].shape
        scales = stored[name].repeat_interleave(32, 0).repeat_interleave(32, 1)[:rows, :columns]
        assert torch.equal(plain[weight], stored[weight].float() * scales), weight
    # Layer 2 of 2, which no result depends on.
    rewrite(work / "m", lambda tensors: tensors.update({
        "model.layers.2.enorm.weight": torch.randn(64), "model.layers.2.eh_proj.weight": torch.randn(64, 128),
        "model.layers.2.shared_head.norm.weight": torch.randn(64)}))
    model = as_float32(transformers.DeepseekV3ForCausalLM, work / "plain")
    asked = {"input_ids": random_ids(model, 2, 20)}
    theirs = expected(model, **asked)["logits"]
    assert distance(forward(nibble, work / "m", work, **asked)["logits"], theirs) < TOLERANCE
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "m.nbl", "-o", work / "twin", "--dtype", "fp32")
    twin = as_float32(transformers.DeepseekV3ForCausalLM, work / "twin")
    assert distance(forward(nibble, work / "m.nbl", work, **asked)["logits"], expected(twin, **asked)["logits"]) < TOLERANCE
    write_tokenizer(work / "m", 128)
    prompt = prompt_of(7)
    assert generate(nibble, work / "m", prompt, new=20)["ids"] == continued(model, prompt, 20)[0]


def test_a_layer_too_many_is_refused(nibble, work):
    save(work / "m", "glm4_moe")
    rewrite(work / "m", lambda tensors: tensors.update({"model.layers.3.enorm.weight": torch.ones(64)}))
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert "model.layers.3.enorm.weight" in said.stderr


# MARK: - Adapters

@pytest.mark.parametrize("family, targets, unread", [
    ("qwen2_moe", "all-linear", "mlp.gate"), ("qwen2_moe", "experts.0.down_proj", "experts.0.down_proj"),
    ("qwen2_moe", "q_proj,shared_expert_gate,shared_expert.up_proj", None), ("deepseek_v3", "attention", None),
    ("deepseek_v3", "shared_experts.down_proj", "shared_experts.down_proj"), ("deepseek_v2", "all-linear", "mlp.gate_proj"),
    ("glm4_moe", "attention", None)])
def test_finetune_says_what_peft_does_not_read(nibble, work, family, targets, unread):
    model = save(work / "m", family)
    (work / "rows.jsonl").write_text(json.dumps({"input_ids": [3, 4, 5, 6, 7, 8], "labels": [3, 4, 5, 6, 7, 8]}) + "\n")
    said = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--target-modules", targets, "--max-steps", 2)
    assert ("does not load the factors of" in said.stderr) == (unread is not None)
    if unread:
        assert unread in said.stderr
        return
    asked = {"input_ids": random_ids(model, 2, 9)}
    adapted = peft.PeftModel.from_pretrained(as_float32(type(model), work / "m"), work / "out")
    said = forward(nibble, work / "m", work, "--adapter", work / "out", **asked)
    assert distance(said["logits"], expected(adapted, **asked)["logits"]) < TOLERANCE


# MARK: - Refusals

REFUSED = [
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func"), ("deepseek_v3", {"topk_method": "greedy"}, "topk_method"),
    ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq"), ("deepseek_v3", {"head_dim": 16}, "head_dim"),
    ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads"), ("deepseek_v3", {"n_group": 5}, "n_group"),
    ("deepseek_v3", {"n_group": 12}, "n_group"), ("deepseek_v3", {"topk_group": 4}, "topk_group"),
    ("deepseek_v3", {"topk_group": 1, "num_experts_per_tok": 5}, "topk_group"), ("deepseek_v3", {"output_router_logits": True}, "output_router_logits"),
    ("deepseek_v3", {"routed_scaling_factor": 0}, "routed_scaling_factor"), ("deepseek_v3", {"n_shared_experts": 0}, "n_shared_experts"),
    ("deepseek_v3", {"rope_scaling": {"type": "linear", "factor": None, "mscale_all_dim": 1.0}}, "factor"),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method"), ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("deepseek_v2", {"num_experts_per_tok": None}, "num_experts_per_tok"), ("deepseek_v2", {"num_experts": 5}, "num_experts"),
    ("qwen2_moe", {"num_experts_per_tok": 6}, "num_experts_per_tok"), ("qwen2_moe", {"output_router_logits": True}, "output_router_logits"),
    ("qwen2_moe", {"layer_types": ["sliding_attention", "full_attention"]}, "use_sliding_window"),
    ("glm4_moe", {"scoring_func": "softmax"}, "scoring_func"),
]


@pytest.mark.parametrize("family, changes, named", REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_implemented_is_refused_by_name(nibble, work, family, changes, named):
    save(work / "m", family)
    edit_config(work / "m", **changes)
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert named in said.stderr and len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_correction_that_is_no_number_is_refused(nibble, work, value):
    save(work / "m", "deepseek_v3")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    rewrite(work / "m", lambda tensors: tensors.update({name: torch.full((12,), value)}))
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert name in said.stderr and "NaN or infinite" in said.stderr


@pytest.mark.parametrize("family, changes", [("deepseek_v3", {}), ("deepseek_v2", {"first_k_dense_replace": 2})])
def test_latent_attention_is_not_calibrated(nibble, work, family, changes):
    save(work / "m", family, **changes)
    write_tokenizer(work / "m", 128)
    (work / "text.txt").write_text("t1 t2 t3 " * 50)
    said = nibble("quantize", work / "m", "-o", work / "m.nbl", "--encoder", "calibrated", "--calibration", work / "text.txt", exits=2)
    assert "calibration is not implemented for latent attention" in said.stderr
