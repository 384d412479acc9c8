"""How nibble and transformers are asked the same question, and when their answers count as the same."""
import json

import torch
from models import make, small_config
from safetensors.torch import load_file, save_file

# Both compute in float32, in other orders of summation: logits lie within this much of the greatest one. Errors seen are
# below 3e-6; a bias left out, another epsilon or a position off by one shows as 1e-3 and more.
TOLERANCE = 2e-5


def save_random(model_class, model_type, folder, dtype=torch.float32, **changes):
    """Saves a random model whose attention is not flat: every query and key is strong enough to tell positions apart."""
    config = small_config(model_type, attn_implementation="eager", **changes)
    model = make(model_class, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "c_attn", "query", "key")) and parameter.dim() == 2:
                parameter.mul_(4)
    model.to(dtype).save_pretrained(folder)
    return as_float32(model_class, folder)


def as_float32(model_class, folder):
    """What the stored weights mean, computed in float32. (A model that is cast has rotary frequencies of its old type.)"""
    return model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def edit_config(folder, **changes):
    """Changes config.json; a value of None takes the key out."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    path.write_text(json.dumps(config))


def random_ids(model, batch=3, length=24, low=3):
    """Ids without special tokens."""
    return torch.randint(low, model.config.vocab_size, (batch, length))


def padded(ids, model, lengths, side="right"):
    """The ids with padding in place of what is longer than `lengths`, and their mask."""
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        if side == "right":
            mask[row, :length] = 1
        else:
            mask[row, -length:] = 1
    return torch.where(mask == 1, ids, torch.tensor(model.config.pad_token_id)), mask


def forward(nibble, base, work, *options, **tensors):
    """`nibble forward` over the tensors that are there; what it wrote."""
    save_file({name: value.clone().contiguous() for name, value in tensors.items() if value is not None}, work / "ask.safetensors")
    nibble("forward", "--base", base, "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", "--force", *options)
    return load_file(work / "said.safetensors")


def expected(model, **tensors):
    """What transformers computes for them, in float32."""
    with torch.no_grad():
        out = model(**{name: value for name, value in tensors.items() if value is not None})
    names = ("logits", "loss", "last_hidden_state")
    return {name: out[name].float().reshape(1) if name == "loss" else out[name].float()
            for name in names if out.get(name) is not None}


def distance(ours, theirs, mask=None):
    """The greatest difference, relative to the greatest number that was expected."""
    assert ours.shape == theirs.shape, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    assert ours.dtype == torch.float32
    if mask is not None:
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    assert theirs.isfinite().all() and ours.isfinite().all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_same(ours, theirs, mask=None, tolerance=TOLERANCE):
    """Every tensor transformers gave is there and close; hidden tokens (mask 0) may be anything."""
    assert theirs and theirs.keys() <= ours.keys()
    for name, value in theirs.items():
        by_token = name == "last_hidden_state" or (name == "logits" and value.dim() == 3)
        found = distance(ours[name], value, mask if by_token else None)
        assert found <= tolerance, f"{name} is off by {found:.2e} of its greatest value"


def assert_forward(nibble, base, model, work, *options, tolerance=TOLERANCE, **tensors):
    """nibble on `base` says what transformers' `model` says."""
    ours = forward(nibble, base, work, *options, **tensors)
    theirs = expected(model, **tensors)
    assert_same(ours, theirs, tensors.get("attention_mask"), tolerance)
    return ours, theirs
