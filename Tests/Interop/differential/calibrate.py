"""`nibble quantize --encoder calibrated` and `nibble calibrate` on drawn models: what is said of the packed layers' answers is what transformers
finds of the finished file, and moments are those of what its layers take."""
import json

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

from . import experts
from .common import Difference, Undrawable, peer
from .drawing import draw_model
from .wholes import numbers

PROJECTIONS = ("embeddings_project", "embedding_hidden_mapping_in")
CODECS = [[], ["--codec", "fp4", "--block-size", "32"], ["--no-double-quant", "--block-size", "128"]]


def run(case):
    rng = case.rng
    drawn = draw_model(case, plain=True, kinds=["language", "states"])
    with peer("loading"):
        model = drawn.load()
    # Too few windows for any to be held out: what is said is of the text.
    ids = torch.randint(0, numbers(model).vocab_size, (rng.randint(1, 7), rng.randint(2, 20)))
    ids[ids == (numbers(model).pad_token_id or 0)] = numbers(model).vocab_size - 1
    if numbers(model).pad_token_id == numbers(model).vocab_size - 1:
        raise Undrawable("the last token is padding")
    (case / "text.jsonl").write_text("".join(json.dumps({"input_ids": row, "labels": row}) + "\n" for row in ids.tolist()))
    case.note(text=list(ids.shape))
    if drawn.config["model_type"] not in (*experts.NAMES, "gpt_oss", "llama4_text"):
        moments(case, model, ids)
    # What leads from narrow embeddings to the layers is packed, and what that does is not in the number that is said: docs/limits.md.
    projected = any(part in name for name, _ in model.named_parameters() for part in PROJECTIONS)
    keep = ["--keep", "|".join(PROJECTIONS)] if projected else []
    done = case.nibble("quantize", "m", "-o", "c.nbl", "--encoder", "calibrated", *rng.choice(CODECS), *keep, "--calibration", "text.jsonl", "-q", "--json",
                       "-j", rng.choice([1, 2]))
    said = json.loads(done.stdout)["calibration"]
    case.nibble("dequantize", "c.nbl", "-o", "twin", "--dtype", "fp32", "-q")
    with peer("the packed model"):
        found = apart(model, drawn.load(case / "twin"), ids)
    ours = said.get("kl_divergence", said.get("state_error"))
    if found != found:
        raise Undrawable("the peer's numbers are not finite")
    if not abs(ours - found) <= 0.01 * found + 1e-6:
        raise Difference(f"answers are said to be {ours:.4g} apart, and are {found:.4g}")


def apart(model, other, ids):
    """KL(model ‖ other), or the squared error of final states over their squares."""
    with torch.no_grad():
        a, b = (one(input_ids=ids) for one in (model, other))
    if "logits" in a:
        p, q = (torch.log_softmax(one.logits.double(), -1) for one in (a, b))
        return float((p.exp() * (p - q)).sum(-1).mean())
    p, q = a.last_hidden_state.double(), b.last_hidden_state.double()
    return float((p - q).square().sum() / p.square().sum())


def moments(case, model, ids):
    done = case.nibble("calibrate", "m", "--data", "text.jsonl", "-o", "s.safetensors", "-q", "--json", "-j", 1)
    if json.loads(done.stdout)["capped_tokens"]:
        return
    taken = {}
    layers = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)

    def keep(name):
        def hook(module, given, out):
            # The first time: DeBERTa's projections take distances, too.
            taken.setdefault(name, given[0])
        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if isinstance(module, layers)]
    with torch.no_grad(), peer("asking"):
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    stored = load_file(case / "s.safetensors")
    with safe_open(case / "s.safetensors", "pt") as file:
        owners = json.loads(file.metadata()["layers"])
    for name, owner in owners.items():
        mean = stored[owner + ".means"].double()
        x = next(value for layer, value in taken.items() if name.endswith(layer)).reshape(-1, len(mean)).double()
        theirs = (x.T @ x / len(x))[*torch.triu_indices(len(mean), len(mean))]
        far = max(float((stored[owner + ".moments"] - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)),
                  float((mean - x.mean(0)).abs().max() / x.abs().max().clamp_min(1e-30)))
        if not far < 2e-4:
            raise Difference(f"moments of {name} are off by {far:.2g} of their greatest value")
