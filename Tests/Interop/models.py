"""Tiny random models, made with transformers, and how to load and ask them."""
import json

import bitsandbytes
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

SMALL = {
    # Every name configurations have for the same few sizes; a configuration takes those it knows.
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "n_embd": 64, "n_layer": 2, "n_head": 4,
    "n_positions": 64, "type_vocab_size": 2, "num_labels": 3, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "sliding_window": 32, "use_cache": False,
}
CORRECTED = {
    "moe_intermediate_size": 24, "n_shared_experts": 2, "first_k_dense_replace": 1, "num_experts_per_tok": 3, "n_routed_experts": 12, "n_group": 3,
    "topk_group": 2}
LATENT = {
    **CORRECTED, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
# Of model types whose other sizes are large by default.
OWN_SMALL = {
    "deepseek_v2": {**LATENT, "topk_method": "group_limited_greedy"}, "deepseek_v3": LATENT, "glm4_moe": CORRECTED,
    "granitemoehybrid": {
        "shared_intermediate_size": 96, "num_local_experts": 0, "num_experts_per_tok": 0, "layer_types": ["attention"] * 2, "mamba_n_heads": 1,
        "position_embedding_type": "rope"},
    "llama4_text": {"intermediate_size": 48, "intermediate_size_mlp": 96, "num_local_experts": 5},
    "qwen2_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 80},
}


def small_config(model_type, **changes):
    """The configuration of a tiny model of `model_type`."""
    plain = transformers.AutoConfig.for_model(model_type)
    # Some configurations compute what others are told.
    computed = {key for key in SMALL if getattr(getattr(type(plain), key, None), "fset", key) is None}
    known = {key: value for key, value in SMALL.items() if hasattr(plain, key) and key not in computed}
    return transformers.AutoConfig.for_model(model_type, **{**known, **OWN_SMALL.get(model_type, {}), **changes})


def make(model_class, config, dtype=torch.float32):
    """A model whose every parameter is random: heads, biases and norms that start at 0 or 1 included, and corrections of routers."""
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.06 if parameter.dim() > 1 else 0.02
            parameter.add_(torch.randn(parameter.shape) * spread)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(torch.randn(buffer.shape) * 0.2)
    return model.to(dtype).eval()


def load(folder, model_class, **options):
    """Loads a checkpoint and refuses to be content with less than all of it."""
    model, report = model_class.from_pretrained(
        folder, device_map={"": "cpu"}, output_loading_info=True, dtype="auto", **options)
    for what, keys in report.items():
        assert not keys, f"{folder}: {what}: {keys}"
    return model.eval()


def linear4bit(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)}


def answer(model):
    """What the model says to a fixed question: its logits, or its last hidden state where it has no head."""
    ids = torch.arange(3, 3 + 2 * 16).reshape(2, 16) % model.config.vocab_size
    # Sequence classifiers of decoders look for the first padding; let the last token be one.
    ids[:, -1] = model.config.eos_token_id or 2
    with torch.no_grad():
        out = model(input_ids=ids)
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).float()


def assert_packed_answers_like_plain(packed_folder, plain_folder, model_class):
    """Both folders load whole, and the packed model says what the plain one says. Returns the packed one's layers."""
    packed = load(packed_folder, model_class)
    plain = load(plain_folder, model_class)
    layers = linear4bit(packed)
    assert layers and not linear4bit(plain)
    theirs = answer(plain)
    difference = float((answer(packed) - theirs).abs().max())
    # Sums in bfloat16 may fall to either side, by processor.
    limit = 2**-7 * float(theirs.abs().max()) if packed.dtype == torch.bfloat16 else 2e-6
    assert difference <= limit, f"logits differ by {difference}"
    return set(layers)


def tensors_of(folder):
    """Every tensor of a folder, from one file or from shards."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    tensors = {}
    for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        tensors |= load_file(folder / shard)
    return tensors


def raw_bytes_of(folder):
    """Name, type, shape and bytes of every tensor as the file has them, untouched by torch."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = (entry["dtype"], entry["shape"], data[start:end])
    return found


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()
