"""`nibble forward` on drawn models: logits and loss against transformers with eager attention."""
import torch
from safetensors.torch import load_file, save_file

from .common import PeerRefusal, Refusal, Undrawable, answers, compare, in_double, peer
from .drawing import draw_model
from .questions import draw_question
from .wholes import numbers


def ask(case, asked, base="m", *options):
    """What nibble says to a question."""
    save_file({name: value.contiguous() for name, value in asked.items()}, case / "ids.safetensors")
    case.nibble("forward", "--base", base, "--ids", "ids.safetensors", "-o", "out.safetensors", "--force", "-q", "-j", 1, *options)
    return load_file(case / "out.safetensors")


def run(case):
    drawn = draw_model(case)
    try:
        with peer("loading", PeerRefusal):
            model = drawn.load()
    except PeerRefusal as refusal:
        try:
            ask(case, {"input_ids": torch.ones(1, 3, dtype=torch.long)})
        except Refusal:
            raise Undrawable(f"both refuse: {refusal}") from None
        raise
    asked = draw_question(case, drawn, model)
    if drawn.config["model_type"] == "mistral" and "sliding_window" not in drawn.config and case.chance(0.5):
        # Beyond the window that is the default.
        if drawn.config.get("max_position_embeddings", 131072) >= 4500:
            asked = {"input_ids": torch.randint(0, numbers(model).vocab_size, (1, 4400))}
    case.note(asked={name: list(value.shape) for name, value in asked.items()})
    with peer("asking", PeerRefusal):
        theirs = answers(model, **asked)
    ours = ask(case, asked)
    compare(ours, theirs, in_double(model, asked), mask=drawn.mask(asked))
