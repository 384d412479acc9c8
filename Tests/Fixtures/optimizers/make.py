"""Steps of other programs' optimizers on the same gradients: bitsandbytes' 8-bit states by its CUDA kernel's rules in numpy (but for numbers near
0, see CNibbleOptimizers.h), bitsandbytes' Lion, transformers' Adafactor, schedulefree's AdamW. Writes optimizers.safetensors beside this file.

    PYTHONPATH=... python make.py        # torch 2.13, bitsandbytes 0.50.2, transformers 5.23, schedulefree 1.4.1
"""
import pathlib

import bitsandbytes
import numpy as np
import schedulefree
import torch
import transformers
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

STEPS, RATE, DECAY, BETA1, BETA2, LION_BETA2, EPSILON, MOMENTUM = 6, 0.01, 0.1, 0.9, 0.999, 0.99, 1e-8, 0.9
SHAPES = {"matrix": (40, 130), "small": (12, 20), "vector": (300,)}
F = np.float32


class Blocks:
    """A state in 8 bits: the nearest value of the map, ties to the even code. `ours`: a second moment never becomes 0, and a first one does so
    from both sides."""

    def __init__(self, count, signed, ours=True):
        self.ours = ours
        self.map = create_dynamic_map(signed=signed).numpy()
        self.codes, self.absmax = np.zeros(count, np.uint8), np.zeros(-(-count // 256), F)
        self.signed = signed

    def values(self):
        return (self.map[self.codes] * np.repeat(self.absmax, 256)[:self.codes.size]).astype(F)

    def store(self, x):
        middle = ((self.map[:-1] + self.map[1:]) * F(0.5)).astype(F)
        for block in range(self.absmax.size):
            own = slice(256 * block, min(256 * block + 256, x.size))
            self.absmax[block] = np.abs(x[own]).max()
            if self.absmax[block] == 0:
                self.codes[own] = 127 if self.signed else 0
                continue
            s = (x[own] / self.absmax[block]).astype(F)
            low = np.searchsorted(middle, s, side="left")  # middles below s
            tie = (low < 255) & (middle[np.minimum(low, 254)] == s) & (low % 2 == 1)
            code = low + tie
            if self.signed:
                code -= (code == 127) & np.signbit(s) & (not self.ours)
            elif self.ours:
                code += (code == 0) & (x[own] > 0)
            self.codes[own] = code


def eight_bits(name, p, gradients, ours=True):
    p, states = p.numpy().ravel().copy(), [Blocks(p.numel(), True, ours)] + [Blocks(p.numel(), False, ours)] * (name == "adamw")
    for number, g in enumerate(gradients, 1):
        g = g.numpy().ravel()
        values = [state.values() for state in states]
        if name == "adamw":
            m = values[0] * F(BETA1) + F(1 - BETA1) * g
            v = values[1] * F(BETA2) + F(1 - BETA2) * g * g
            p = p * F(1 - RATE * DECAY)
            root = F(np.sqrt(1 - BETA2 ** number))
            p = p - F(RATE / (1 - BETA1 ** number)) * m / (np.sqrt(v) / root + F(EPSILON))
            values = [m, v]
        elif name == "lion":
            p = p * F(1 - RATE * DECAY)
            p = p - F(RATE) * np.sign(values[0] * F(BETA1) + F(1 - BETA1) * g)
            values = [values[0] * F(LION_BETA2) + F(1 - LION_BETA2) * g]
        else:
            g = g + F(DECAY) * p
            values = [g if number == 1 else values[0] * F(MOMENTUM) + g]
            p = p - F(RATE) * values[0]
        for state, value in zip(states, values):
            state.store(value)
    return p, states


def by_torch(make, p, gradients, train=None):
    parameter = torch.nn.Parameter(p.clone())
    optimizer = make([parameter])
    if train:
        optimizer.train()
    for g in gradients:
        parameter.grad = g.clone()
        optimizer.step()
    stepped = parameter.detach().clone()
    if train:
        optimizer.eval()
    return stepped, parameter.detach().clone()


torch.manual_seed(0)
made = {"map/signed": create_dynamic_map(signed=True), "map/unsigned": create_dynamic_map(signed=False)}
for name, shape in SHAPES.items():
    p = torch.randn(shape)
    # Gradients of many sizes, some of them zero.
    gradients = [torch.randn(shape) * 10 ** (-3 * torch.rand(shape)) * (torch.rand(shape) > 0.05) for _ in range(STEPS)]
    made[f"{name}/p"], made[f"{name}/g"] = p, torch.stack(gradients)
    for optimizer in ("adamw", "lion", "sgd"):
        if name != "matrix":
            continue
        stepped, states = eight_bits(optimizer, p, gradients)
        made[f"{name}/{optimizer}-8bit"] = torch.from_numpy(stepped).reshape(shape)
        for number, state in enumerate(states):
            made[f"{name}/{optimizer}-8bit.codes{number}"] = torch.from_numpy(state.codes)
            made[f"{name}/{optimizer}-8bit.absmax{number}"] = torch.from_numpy(state.absmax)
    lion = lambda own: bitsandbytes.optim.Lion(own, lr=RATE, betas=(BETA1, LION_BETA2), weight_decay=DECAY)
    made[f"{name}/lion"] = by_torch(lion, p, gradients)[0]
    factored = lambda own: transformers.optimization.Adafactor(own, lr=RATE, scale_parameter=False, relative_step=False, weight_decay=DECAY)
    made[f"{name}/adafactor"] = by_torch(factored, p, gradients)[0]
    free = lambda own: schedulefree.AdamWScheduleFree(own, lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY, warmup_steps=3)
    made[f"{name}/schedule-free-adamw"], made[f"{name}/schedule-free-adamw.average"] = by_torch(free, p, gradients, True)
    made[f"{name}/adamw"] = by_torch(lambda own: torch.optim.AdamW(own, lr=RATE, weight_decay=DECAY), p, gradients)[0]
    made[f"{name}/adam"] = by_torch(lambda own: torch.optim.Adam(own, lr=RATE, weight_decay=DECAY), p, gradients)[0]
    made[f"{name}/sgd"] = by_torch(lambda own: torch.optim.SGD(own, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY), p, gradients)[0]
    # bitsandbytes itself, whose CPU kernel rounds states to a grid of 65536 points.
    own = {"adamw": lambda o: bitsandbytes.optim.AdamW8bit(o, lr=RATE, weight_decay=DECAY),
           "lion": lambda o: bitsandbytes.optim.Lion8bit(o, lr=RATE, betas=(BETA1, LION_BETA2), weight_decay=DECAY),
           "sgd": lambda o: bitsandbytes.optim.SGD8bit(o, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)}
    if name == "matrix":
        for optimizer, make in own.items():
            made[f"{name}/{optimizer}-8bit.cpu"] = by_torch(make, p, gradients)[0]
save_file({key: value.contiguous() for key, value in made.items()}, pathlib.Path(__file__).with_name("optimizers.safetensors"),
          metadata={"origin": "computed for nibble"})
if __name__ == "__main__":
    for optimizer in ("adamw", "lion", "sgd"):
        gap = (made[f"matrix/{optimizer}-8bit"] - made[f"matrix/{optimizer}-8bit.cpu"]).abs()
        far = (made[f"matrix/{optimizer}-8bit"] - made[f"matrix/{optimizer}"]).abs()
        print(optimizer, "to bitsandbytes' CPU:", gap.max().item(), gap.mean().item(), "; to float32:", far.max().item(), far.mean().item())
        cpu = (made[f"matrix/{optimizer}-8bit.cpu"] - made[f"matrix/{optimizer}"]).abs()
        print("  bitsandbytes' CPU to float32:", cpu.max().item(), cpu.mean().item())
    whole = eight_bits("adamw", made["matrix/p"], made["matrix/g"], ours=False)[0]
    far = (torch.from_numpy(whole).reshape(SHAPES["matrix"]) - made["matrix/adamw"]).abs()
    print("adamw with bitsandbytes' rule for numbers near 0, to float32:", far.max().item(), far.mean().item())
