"""Says how much of a LoRA adapter's change a merged folder kept: BASE MERGED ADAPTER, folders plain or of bitsandbytes.

Prints one line of JSON: of all tensors together and of the worst one, survival (the change that was made, projected onto
the adapter's) and noise (what else was made, as part of the weights' length); of all together, the adapter's change as part
of that length and inner noise (that in the directions which the adapter reads, as part of its change).
"""
import json
import pathlib
import sys

import torch
from bitsandbytes import functional
from safetensors import safe_open
from safetensors.torch import load_file

base, merged, adapter = map(pathlib.Path, sys.argv[1:])


class Weights:
    def __init__(self, folder):
        self.places = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, "pt")
            self.places |= dict.fromkeys(file.keys(), file)

    def read(self, name):
        """As float32: packed weights exactly, not rounded to the type that layers compute in."""
        weight = self.places[name].get_tensor(name)
        parts = {part: file.get_tensor(part) for part, file in self.places.items() if part.startswith(name + ".")}
        if not parts:
            return weight.float()
        state = functional.QuantState.from_dict({part.removeprefix(name + "."): value for part, value in parts.items()}, "cpu")
        state.dtype = torch.float32
        return functional.dequantize_4bit(weight, state)


def dot(one, other):
    return float((one.double() * other.double()).sum())


config = json.loads((adapter / "adapter_config.json").read_text())
scale = config["lora_alpha"] / config["r"]
factors = load_file(adapter / "adapter_model.safetensors")
before, after = Weights(base), Weights(merged)
sums = []
for name in (name for name in factors if name.endswith(".lora_A.weight")):
    module = name.removesuffix(".lora_A.weight")
    weight = module.removeprefix("base_model.model.") + ".weight"
    right, left = factors[name], scale * factors[f"{module}.lora_B.weight"]
    directions, _ = torch.linalg.qr(right.T)
    parts = []
    # A million weights at a time: larger ones cost the system more than the sums.
    rows = max(1, 2**20 // right.shape[1])
    for old, new, factor in zip(*(values.split(rows) for values in (before.read(weight), after.read(weight), left))):
        delta, change = factor @ right, new - old
        noise = change - delta
        inner = noise @ directions
        parts.append([dot(change, delta), dot(delta, delta), dot(noise, noise), dot(old, old), dot(inner, inner)])
    sums.append([sum(column) for column in zip(*parts)])
kept, length, noise, weights, inner = (sum(column) for column in zip(*sums))
print(json.dumps({
    "survival": kept / length, "survival_worst": min(s[0] / s[1] for s in sums), "noise": (noise / weights) ** 0.5,
    "noise_worst": max((s[2] / s[3]) ** 0.5 for s in sums), "inner_noise": (inner / length) ** 0.5,
    "change": (length / weights) ** 0.5}))
