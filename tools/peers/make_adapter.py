"""Writes a random LoRA adapter for a Llama model, on every linear layer, as PEFT stores it: MODEL OUT RANK SEED [ALPHA SHARE].

With SHARE its change of a weight is that part of the weight's length, as far as the weights are random ones of make-model.
"""
import json
import pathlib
import struct
import sys

import numpy

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write(tensors, path):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def main():
    model, out, rank, seed = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    alpha, share = (int(sys.argv[5]), float(sys.argv[6])) if len(sys.argv) > 5 else (rank, None)
    config = json.loads((model / "config.json").read_text())
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    sizes = {  # in, out
        "self_attn.q_proj": (hidden, queries), "self_attn.k_proj": (hidden, keys), "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden), "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden)}
    random = numpy.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = random.standard_normal((rank, inputs), numpy.float32) / numpy.float32(inputs**0.5)
            # An element of B·A deviates by that of B times the root of rank / inputs.
            size = 0.01 if share is None else share * config["initializer_range"] * (rank / alpha) * (inputs / rank) ** 0.5
            tensors[f"{module}.lora_B.weight"] = random.standard_normal((outputs, rank), numpy.float32) * numpy.float32(size)
    out.mkdir()
    write(tensors, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "target_modules": list(MODULES),
        "bias": "none", "inference_mode": True, "base_model_name_or_path": model.name}))


main()
