"""Mixtures of experts: how files hold them, and models as PEFT adapted them while experts were linear layers.

transformers stacks the experts of a layer into two parameters. Files keep them one by one, under the names that they had as modules.
"""
import copy
import re

import torch

# By the kind of names: the block, and gate, up and down of an expert.
NAMES = {
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")), "qwen3_moe": ("mlp", ("gate_proj", "up_proj", "down_proj")),
    **{family: ("mlp", ("gate_proj", "up_proj", "down_proj")) for family in ("olmoe", "qwen2_moe", "deepseek_v2", "deepseek_v3", "glm4_moe")}}


SHARED = ("shared_expert", "shared_expert_gate", "shared_experts")


def in_files(family, tensors):
    """The state of a model under the names of files."""
    if family not in NAMES:
        return tensors
    block, (gate, up, down) = NAMES[family]
    found = {}
    for name, value in tensors.items():
        if match := re.fullmatch(r"(.*)\.mlp\.experts\.(gate_up|down)_proj", name):
            for number, expert in enumerate(value):
                parts = {gate: expert.chunk(2)[0], up: expert.chunk(2)[1]} if match[2] == "gate_up" else {down: expert}
                found |= {f"{match[1]}.{block}.experts.{number}.{leaf}.weight": part.contiguous() for leaf, part in parts.items()}
        else:
            found[name.replace(".mlp.gate.weight", f".{block}.gate.weight")] = value
    return found


class Expert(torch.nn.Module):
    def __init__(self, names, gate_up, down):
        super().__init__()
        self.names = names
        for leaf, weight in zip(names, (*gate_up.chunk(2), down)):
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight = torch.nn.Parameter(weight.detach().clone())
            setattr(self, leaf, layer)

    def forward(self, x, activation):
        gate, up, down = (getattr(self, leaf) for leaf in self.names)
        return down(activation(gate(x)) * up(x))


class Block(torch.nn.Module):
    """Router and experts, each a linear layer, and the expert that every token takes.

    Every expert has a gradient, be it zero, as a part of a stacked parameter has.
    """

    def __init__(self, names, block):
        super().__init__()
        stacked = block.experts
        self.activation = stacked.act_fn
        # The model's own router, which picks experts by what the linear layer gives.
        self.rule = copy.deepcopy(block.gate)
        del self.rule.weight
        self.rule.register_buffer("weight", torch.eye(stacked.num_experts), persistent=False)
        self.rule.hidden_dim = stacked.num_experts
        self.gate = torch.nn.Linear(stacked.hidden_dim, stacked.num_experts, bias=False)
        self.gate.weight = torch.nn.Parameter(block.gate.weight.detach().clone())
        self.experts = torch.nn.ModuleList(Expert(names, *pair) for pair in zip(stacked.gate_up_proj, stacked.down_proj))
        for name in SHARED:
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        _, shares, taken = self.rule(self.gate(flat))
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(taken == number)
            out = out.index_add(0, rows, expert(flat[rows], self.activation) * shares[rows, places, None])
        if hasattr(self, "shared_expert"):
            out = out + self.shared_expert_gate(flat).sigmoid() * self.shared_expert(flat)
        if hasattr(self, "shared_experts"):
            out = out + self.shared_experts(flat)
        return out.reshape(x.shape)


def apart(family, model):
    """The model with experts that are linear layers, named as in files."""
    block, names = NAMES[family]
    for layer in model.base_model.layers:
        if not hasattr(layer.mlp, "experts"):
            continue
        made = Block(names, layer.mlp)
        if block == "mlp":
            layer.mlp = made
            continue
        del layer.mlp
        layer.add_module(block, made)
        layer.__class__ = type(type(layer).__name__, (type(layer),), {"mlp": property(lambda self: self.block_sparse_moe)})
    # PEFT would adapt the stacked parameters of a model type that it knows.
    model.config.model_type = "apart"
    return model.eval()
