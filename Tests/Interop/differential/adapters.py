"""Drawn PEFT adapters with random weights, and what PEFT computes with them."""
import copy
import math
import re

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

import qalora  # noqa: F401  gives PEFT's linear layers QA-LoRA

from .common import Undrawable, peer
from .drawing import DTYPES
from .methods import draw_method
from .methods import move as move_method
from .wholes import numbers

TASKS = {"language": "CAUSAL_LM", "answers": "SEQ_2_SEQ_LM", "classes": "SEQ_CLS", "tokens": "TOKEN_CLS", "states": "FEATURE_EXTRACTION", "masked": None}


class Modules:
    """What of a model an adapter can touch, by the last part of the name."""

    def __init__(self, model):
        self.paths = {name: module for name, module in model.named_modules() if name}
        head = model.get_output_embeddings()
        table = model.get_input_embeddings()

        def leaves(wanted):
            return sorted({name.rsplit(".", 1)[-1] for name, module in self.paths.items() if wanted(name, module)})

        self.head = leaves(lambda name, module: module is head and head is not None)
        self.heads = leaves(lambda name, module: "." not in name and name in ("score", "classifier", "lm_head", "embed_out"))
        self.linear = [one for one in leaves(lambda name, module: isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head)
                       if one not in ("score", "classifier", "out_proj") or one not in self.heads]
        self.table = leaves(lambda name, module: module is table)
        self.embeddings = leaves(
            # DeBERTa reads the weight of its table of distances itself, so that PEFT's factors beside it count for nothing until they are merged.
            lambda name, module: isinstance(module, torch.nn.Embedding) and module is not table and not name.endswith("rel_embeddings")
            # Those of an encoder and a decoder are one table.
            and module.weight is not table.weight)
        self.norms = leaves(lambda name, module: "norm" in type(module).__name__.lower())
        self.has_conv1d = any(isinstance(module, Conv1D) for module in self.paths.values())
        # transformers' own layers of experts have no weights of their own.
        self.stacked = [name for name, module in self.paths.items() if hasattr(module, "gate_up_proj")]
        self.layers = len({match.group(1) for name in self.paths if (match := re.search(r"\.(\d+)\.", name))})


def some(rng, names, most=4):
    return sorted(rng.sample(names, rng.randint(1, min(most, len(names)))))


def draw_settings(case, drawn, model, simple=False):
    """The arguments of a LoraConfig.

    - simple: only factors, for combining
    """
    rng, modules = case.rng, Modules(model)
    settings = {"r": rng.choice([1, 2, 3, 4, 7, 16]), "lora_alpha": rng.choice([1, 3, 4, 8, 2.5])}
    how = rng.choices(["list", "all-linear", "regex", "paths"], [55, 20, 15, 10])[0]
    if not modules.linear:
        raise Undrawable("no linear layer")
    targets = some(rng, modules.linear)
    if how == "all-linear":
        settings["target_modules"] = "all-linear"
    elif how == "regex":
        settings["target_modules"] = rf".*\.({'|'.join(targets)})"
    elif how == "paths":
        paths = [name for name in modules.paths if name.rsplit(".", 1)[-1] in targets]
        settings["target_modules"] = [name.split(".", 1)[-1] if case.chance(0.5) else name for name in some(rng, paths, 6)]
    else:
        settings["target_modules"] = targets
    if case.chance(0.25):
        settings["use_rslora"] = True
    pattern = lambda start: rng.choice([rng.choice(targets), rf"{start}{rng.choice('01')}\..*{rng.choice(targets)}"])  # noqa: E731
    if case.chance(0.25):
        settings["rank_pattern"] = {pattern(""): rng.choice([1, 2, 5])}
    if case.chance(0.25):
        settings["alpha_pattern"] = {pattern(".*"): rng.choice([1, 5.5, 9])}
    if how == "list" and case.chance(0.15) and modules.layers > 1:
        settings["layers_to_transform"] = rng.choice([0, [0], [1], list(range(modules.layers))])
        if case.chance(0.3):
            settings["layers_pattern"] = rng.choice(["layers", "h", "layer", ["layers", "h", "layer"]])
    if modules.has_conv1d:
        settings["fan_in_fan_out"] = case.chance(0.8)
    if case.chance(0.8) and TASKS[drawn.kind]:
        settings["task_type"] = TASKS[drawn.kind]
    if how == "all-linear" and case.chance(0.2) and len(modules.linear) > 1:
        settings["exclude_modules"] = some(rng, modules.linear, 1)
    # Conv1D and Linear under one fan_in_fan_out are worth more cases.
    if how == "list" and case.chance(0.4 if modules.has_conv1d else 0.2):
        more = [modules.head, modules.table, modules.embeddings, modules.head + modules.table]
        settings["target_modules"] = targets + rng.choice(more)
    if simple:
        return settings
    if case.chance(0.2):
        settings["use_dora"] = True
    elif case.chance(0.15) and set(targets) <= set(modules.linear) and settings["target_modules"] in (targets, "all-linear"):
        draw_qalora(case, modules, settings)
    if case.chance(0.3):
        settings["bias"] = rng.choice(["all", "lora_only"])
    if case.chance(0.08) and not settings.get("use_dora") and not settings.get("use_qalora"):
        settings["lora_bias"] = True
    if case.chance(0.4):
        kinds = [modules.head, modules.table, modules.head + modules.table, modules.embeddings, modules.norms, modules.linear,
                 modules.heads]
        whole = some(rng, rng.choice([kind for kind in kinds if kind]), 3)
        settings["modules_to_save"] = whole
        if isinstance(settings["target_modules"], list):
            left = [one for one in settings["target_modules"] if one.rsplit(".", 1)[-1] not in whole]
            settings["target_modules"] = left or modules.linear[:1]
    if case.chance(0.15) and not set(modules.table) & {*settings.get("modules_to_save", []), *settings["target_modules"]}:
        size = numbers(model).vocab_size
        tokens = rng.sample(range(size), rng.randint(1, 4))
        settings["trainable_token_indices"] = tokens if case.chance(0.5) else {rng.choice(modules.table + modules.head): tokens}
        # PEFT's rows leave out what else a kind of embedding does, such as OPT's offset of positions.
        plain = [one for one in modules.embeddings if all(type(module) is torch.nn.Embedding for path, module in modules.paths.items()
                                                          if path.endswith(one))]
        if plain and case.chance(0.3):
            name = rng.choice(plain)
            rows = next(module.num_embeddings for path, module in modules.paths.items() if path.endswith(name))
            settings["trainable_token_indices"] = {modules.table[0]: tokens, name: rng.sample(range(rows), 1)}
    if case.chance(0.15):
        settings["ensure_weight_tying"] = True
    if case.chance(0.1):
        settings["init_lora_weights"] = rng.choice(["gaussian", False])
    if modules.stacked and case.chance(0.6):
        draw_stacked(case, modules, settings)
    elif case.chance(0.08):
        draw_parameters(case, modules, settings)
    if case.chance(0.08) and modules.layers > 1:
        draw_layers(case, modules, settings)
    return settings


def draw_parameters(case, modules, settings):
    """Factors of weights as they are stored, beside those of modules or alone."""
    if any(settings.get(key) for key in ("use_dora", "use_qalora", "lora_bias", "ensure_weight_tying")) or not isinstance(settings["target_modules"], list):
        return
    settings.pop("fan_in_fan_out", None)
    left = [one for one in settings["target_modules"] if case.chance(0.3) and not modules.has_conv1d]
    taken = {one.rsplit(".", 1)[-1] for one in left} | set(settings.get("modules_to_save", []))
    tokens = settings.get("trainable_token_indices", [])
    places = [one for one in modules.linear + modules.head + modules.table + modules.embeddings if one not in taken]
    if places and not tokens:
        settings |= {"target_modules": left, "target_parameters": [one + ".weight" for one in some(case.rng, places)]}


def draw_stacked(case, modules, settings):
    """Factors of experts that are stacked, and of their router."""
    if any(settings.get(key) for key in ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out")):
        return
    rng, router = case.rng, "router.weight" if "router" in {name.rsplit(".", 1)[-1] for name in modules.paths} else "gate.weight"
    settings["target_parameters"] = some(rng, ["experts.gate_up_proj", rng.choice(["experts.down_proj", "mlp.experts.down_proj"]), router])
    if case.chance(0.3):
        settings["rank_pattern"] = {rng.choice(["gate_up_proj", r".*\.down_proj", "experts.down_proj", r"0\..*gate\.weight"]): rng.choice([1, 2, 5])}
    if case.chance(0.3):
        settings["alpha_pattern"] = {rng.choice([".*gate_up_proj", r"experts\.down_proj"]): rng.choice([1, 5.5])}


def draw_layers(case, modules, settings):
    """Layers in another order, some of them more than once. What is trained in place is one for all copies of a layer in PEFT."""
    if settings.get("bias", "none") != "none" or settings.get("layers_to_transform") is not None:
        return
    inside = set(modules.linear + modules.norms)
    if inside & set(settings.get("modules_to_save", [])):
        return
    count = modules.layers
    starts = [case.rng.randrange(count) for _ in range(case.rng.randint(1, 3))]
    settings["layer_replication"] = [[start, case.rng.randint(start + 1, count)] for start in starts]


def draw_qalora(case, modules, settings):
    """Groups that divide the inputs of every linear layer, where there are such."""
    widths = [one.weight.shape[0] if isinstance(one, Conv1D) else one.in_features
              for one in modules.paths.values() if isinstance(one, (torch.nn.Linear, Conv1D))]
    sizes = [size for size in range(2, 65) if math.gcd(*widths) % size == 0]
    if sizes:
        settings |= {"use_qalora": True, "qalora_group_size": case.rng.choice(sizes)}


def draw_adapter(case, drawn, model, name="a", simple=False, dtype=None, **changes):
    """Draws an adapter for `model`, writes it as PEFT does, and returns its folder."""
    config = peft.LoraConfig
    modules = Modules(model)
    if not simple and not changes and modules.linear and drawn.kind != "images" and case.chance(0.3):
        config, settings = draw_method(case, modules, some(case.rng, modules.linear), TASKS.get(drawn.kind) if case.chance(0.8) else None)
    else:
        settings = draw_settings(case, drawn, model, simple) | changes
    called = case.rng.choice(["default", "default", "default", "sst", "my-task"]) if not simple else "default"
    dtype = dtype or case.rng.choice(["float32", "float32", "float32", "bfloat16", "float16"])
    case.note(**{name: {"config": config.__name__, "settings": settings, "called": called, "dtype": dtype}})
    with peer("making the adapter"):
        adapted = peft.get_peft_model(copy.deepcopy(model), config(**copy.deepcopy(settings)), adapter_name=called)
        move(case, adapted)
        adapted.save_pretrained(case / name)
    folder = case / name if called == "default" else case / name / called
    if dtype != "float32":
        path = folder / "adapter_model.safetensors"
        # The base's own weights, which PEFT adds where embeddings are adapted, stay as they are.
        tensors = {key: value if ".base_layer." in key else value.to(DTYPES[dtype]) for key, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


def move(case, adapted):
    """Random numbers where training would have put some."""
    spread = case.rng.choice([0.05, 0.15, 0.3])
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad or move_method(parameter, name, spread):
                continue
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * spread)
            else:
                parameter.add_(torch.randn(parameter.shape) * spread)


def attached(model, *folders, trainable=False):
    """The model in PEFT with the adapters of the folders active, as PEFT reads them from disk."""
    with peer("PEFT reading the adapter"):
        adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), folders[0], adapter_name="a0", is_trainable=trainable)
        for number, folder in enumerate(folders[1:], 1):
            adapted.load_adapter(folder, adapter_name=f"a{number}")
        if len(folders) > 1:
            adapted.base_model.set_adapter([f"a{number}" for number in range(len(folders))])
        return adapted if trainable else adapted.eval()


def scaled(adapted, weights):
    """The same with the changes of adapter a0, a1, … times a weight."""
    for module in adapted.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for number, weight in enumerate(weights):
                if f"a{number}" in module.scaling:
                    module.scaling[f"a{number}"] *= weight
    return adapted


def is_scalable(case, name="a"):
    """Whether the adapter `name` is only factors: what is trained whole has weight 1 or none."""
    settings = case.drawn[name]["settings"]
    # `scaled` knows LoRA's layers only.
    return case.drawn[name]["config"] == "LoraConfig" and settings.get("task_type") not in ("SEQ_CLS", "TOKEN_CLS") and not any(settings.get(key, "none") not in ("none", False)
                   for key in ("modules_to_save", "use_dora", "bias", "lora_bias", "trainable_token_indices"))
