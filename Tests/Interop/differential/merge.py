"""`nibble merge` of drawn adapters: transformers runs the output and says what PEFT says with the adapter *attached* to the base.

PEFT's own merge is no oracle: for tied models it changes the head too. Packed outputs are compared with what bitsandbytes makes of the
matrix that was merged in float32.
"""
import shutil

import torch

from models import linear4bit, load, tensors_of
from reference import by_bitsandbytes, packed_tensors

from .adapters import attached, draw_adapter, is_scalable, scaled
from .attach import base_of
from .common import Difference, Undrawable, answers, compare, in_double, peer
from .configurations import DECODERS, ENCODERS
from .drawing import draw_model
from .quantize import with_prefix
from .questions import draw_question

QUIET = ("-q", "-j", 1)


def run(case):
    drawn = draw_model(case, plain=case.chance(0.85), others=0.4)
    if case.chance(0.06):
        return misfit(case, drawn)
    try:
        with peer("loading"):
            base, model = base_of(case, drawn, packed=0.15)
    except ValueError as error:
        raise Undrawable(f"loading: {error}") from None
    folder = draw_adapter(case, drawn, model)
    adapted = attached(model, folder)
    words = str(folder.relative_to(case.folder))
    if is_scalable(case) and case.chance(0.2):
        weight = case.rng.choice([0.5, -1.5])
        words += f":{weight}"
        adapted = scaled(adapted, [weight])
    asked = draw_question(case, drawn, model)
    with peer("PEFT asking"):
        theirs = answers(adapted, **asked)
    if base == "m" and drawn.config["model_type"] in (*DECODERS, *ENCODERS) and case.chance(0.2):
        packed(case, drawn, words)
        return
    if base != "m" and case.chance(0.4):
        # Into the codes themselves: nothing is lost by name, whatever rounding does.
        case.nibble("merge", "--base", base, "--adapter", words, "-o", "again.nbl", "--min-survival", 0, *QUIET)
    # A file by itself does not say that its head is tied, and the configuration beside it not that layers are repeated.
    unmarked = (base == "m" and not case.drawn["a"]["settings"].get("layer_replication") and (case / "m" / "model.safetensors").exists() and not model.config.tie_word_embeddings
             and case.chance(0.6 if drawn.config["model_type"] == "gpt2" else 0.2))
    if unmarked:
        # A file without its configuration; that of the base stands beside the output again for transformers.
        (case / "out").mkdir()
        case.nibble("merge", "--base", "m/model.safetensors", "--adapter", words, "-o", "out/model.safetensors", "--dtype", "fp32",
                    "--min-survival", 0, *QUIET)
        shutil.copy(case / "m" / "config.json", case / "out" / "config.json")
    else:
        case.nibble("merge", "--base", base, "--adapter", words, "-o", "out", "--format", "safetensors", "--dtype", "fp32",
                    "--min-survival", 0, *QUIET)
    try:
        merged = drawn.load(case / "out")
    except Exception as error:  # noqa: BLE001
        raise Difference(f"transformers does not load the output: {type(error).__name__}: {error}"[:300]) from None
    ours = answers(merged, **asked)
    compare(ours, theirs, in_double(adapted, asked), mask=drawn.mask(asked), what="merged: ", tolerance=5e-5)


def packed(case, drawn, words):
    """Merged and packed in one step: the codes are bitsandbytes' for the merged float32 matrix, but for values on an edge."""
    codec = case.rng.choice(["nf4", "fp4"])
    block = case.rng.choice([32, 64, 256])
    case.nibble("merge", "--base", "m", "--adapter", words, "-o", "plain", "--format", "safetensors", "--dtype", "fp32",
                "--min-survival", 0, *QUIET)
    case.nibble("merge", "--base", "m", "--adapter", words, "-o", "packed", "--format", "bnb", "--codec", codec, "--block-size", block,
                "--no-double-quant", "--bnb-rules", "cpu", "--min-survival", 0, *QUIET)
    plain, found = tensors_of(case / "plain"), packed_tensors(tensors_of(case / "packed"))
    try:
        layers = linear4bit(load(case / "packed", drawn.model_class))
    except Exception as error:  # noqa: BLE001
        raise Difference(f"transformers does not load it: {str(error).splitlines()[0][:200]}") from None
    if layers.keys() != {name.removesuffix(".weight") for name in with_prefix(found, layers)}:
        raise Difference("other layers are packed than transformers loads")
    for name, ours in found.items():
        weight = plain[name].reshape(-1)
        if drawn.config["model_type"] == "gpt2" and ".c_" in name:
            weight = plain[name].T.reshape(-1)
        theirs = by_bitsandbytes(weight.reshape(ours.state["shape"]), block, codec, False)
        differing = (ours.codes.reshape(-1).view(torch.uint8) != theirs.codes.reshape(-1)).float().mean().item()
        scales = (ours.absmax - theirs.absmax).abs().max().item() / max(theirs.absmax.max().item(), 1e-30)
        if differing > 0.003 + 1.5 / theirs.codes.numel() or not scales <= 2**-22:
            raise Difference(f"{name}: {differing:.2%} of the code bytes differ from bitsandbytes', scales by {scales:.1g}")


FAMILIES = {"bert": ("roberta", "camembert"), "roberta": ("bert",), "llama": ("gpt2",), "gpt2": ("llama",), "mistral": ("gpt2",)}


def misfit(case, drawn):
    """An adapter of another family, of equal sizes where there are any: refused, and nothing is written."""
    family = drawn.config["model_type"]
    if family not in FAMILIES:
        raise Undrawable("no misfit for this family")
    same = ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
    sizes = {key: drawn.config[key] for key in same if key in drawn.config}
    case.note(misfit=True)
    other = draw_model(case, "other", families=[case.rng.choice(FAMILIES[family])], plain=True, kinds=[drawn.kind], **sizes)
    with peer("loading"):
        model = other.load()
    if family in ENCODERS and drawn.kind == "states":
        raise Undrawable("bare BERT and RoBERTa have the same names")
    folder = draw_adapter(case, other, model, simple=True)
    out = case.nibble("merge", "--base", "m", "--adapter", folder.relative_to(case.folder), "-o", "out", "--dtype", "fp32",
                      "--min-survival", 0, *QUIET, gates=(5,))
    if out.returncode != 5:
        raise Difference(f"an adapter of {other.model_class.__name__} merges into {drawn.model_class.__name__}")


