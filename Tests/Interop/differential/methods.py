"""Drawn configurations of PEFT's methods beside LoRA."""
import peft
import torch

from .common import Undrawable

# Without CUDA there is one factor, whether or not PEFT tries to build its extension first.
peft.tuners.boft.layer.get_fbd_cuda = lambda: None

# Those that PEFT has for Conv1D too.
EVERYWHERE = ["ia3", "vera", "adalora"]
LINEAR_ONLY = ["lokr", "loha", "oft", "boft", "hra", "miss"]


def widths(modules, targets):
    """Inputs of the layers that are adapted."""
    return [module.in_features for path, module in modules.paths.items()
            if path.rsplit(".", 1)[-1] in targets and isinstance(module, torch.nn.Linear)]


def draw_method(case, modules, targets, task):
    """A configuration's class and arguments.

    - targets: the last parts of the names of layers
    """
    rng, trains = case.rng, case.area == "train"
    kinds = EVERYWHERE if modules.has_conv1d else EVERYWHERE + LINEAR_ONLY
    # AdaLoRA has a loss of its own, and a test of its own.
    kind = rng.choice([one for one in kinds if not (trains and one == "adalora")])
    settings = {"target_modules": targets} | ({"task_type": task} if task else {})
    if modules.has_conv1d and kind in EVERYWHERE:
        settings["fan_in_fan_out"] = True
    rank = rng.choice([1, 2, 3, 4, 6])

    def divisor():
        sizes = [size for size in (1, 2, 3, 4, 6, 8) if all(width % size == 0 for width in widths(modules, targets))]
        if not sizes:
            raise Undrawable("no block size divides all inputs")
        return rng.choice(sizes)

    def patterned():
        more = {"r": rank, "alpha": rng.choice([1, 3, 8])}
        if case.chance(0.3):
            more["rank_pattern"] = {rng.choice(targets): rng.choice([1, 2, 5])}
        if case.chance(0.3):
            more["alpha_pattern"] = {rng.choice(targets): rng.choice([1, 5])}
        return more

    if kind == "ia3":
        return peft.IA3Config, settings | {"feedforward_modules": [one for one in targets if case.chance(0.4)]}
    if kind == "vera":
        return peft.VeraConfig, settings | {
            "r": rng.choice([2, 5, 16]), "save_projection": case.chance(0.6), "projection_prng_key": rng.randint(0, 2**31),
            "bias": rng.choice(["none", "none", "vera_only", "all"])}
    if kind == "adalora":
        return peft.AdaLoraConfig, settings | {"init_r": rank, "lora_alpha": rng.choice([1, 3, 8, 32]), "total_step": 100}
    if kind == "loha":
        return peft.LoHaConfig, settings | patterned()
    if kind == "lokr":
        return peft.LoKrConfig, settings | patterned() | {
            "decompose_both": case.chance(0.4), "decompose_factor": rng.choice([-1, -1, 2, 4, 8])}
    if kind == "oft":
        return peft.OFTConfig, settings | {
            "oft_block_size": divisor(), "use_cayley_neumann": case.chance(0.6), "num_cayley_neumann_terms": rng.choice([2, 3, 4, 5, 8]),
            "block_share": case.chance(0.3), "coft": not trains and case.chance(0.2), "eps": rng.choice([1e-3, 0.2])}
    if kind == "boft":
        return peft.BOFTConfig, settings | {"boft_block_size": divisor(), "boft_block_num": 0, "bias": rng.choice(["none", "boft_only"])}
    if kind == "hra":
        return peft.HRAConfig, settings | {"r": rank, "apply_GS": case.chance(0.4)}
    most = min(widths(modules, targets), default=1)
    return peft.MissConfig, settings | {"r": min(rng.choice([1, 2, 3, 7, 8]), most)}


def move(parameter, name, spread):
    """Random numbers where training would have put some; whether the parameter is one of such a method's."""
    noise = torch.randn(parameter.shape)
    if "ia3_l" in name or "boft_s" in name:
        parameter.add_(noise * spread)
    elif any(part in name for part in ("hada_", "lokr_", "vera_lambda", "lora_E")):
        parameter.copy_(noise * 3 * spread)
    elif any(part in name for part in ("oft_R", "boft_R", "hra_u", "miss_block")):
        parameter.copy_(noise * spread)
    else:
        return False
    return True
