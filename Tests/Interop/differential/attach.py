"""`nibble forward --adapter` on drawn adapters: what PEFT computes with the same files."""
from .adapters import attached, draw_adapter, is_scalable, scaled
from .common import Undrawable, answers, compare, in_double
from .drawing import draw_model
from .forward import ask
from .questions import draw_question


def base_of(case, drawn, packed=0.2):
    """The base for nibble, and the model of the values it stands for."""
    if not case.chance(packed):
        return "m", drawn.load()
    codec = case.rng.choice(["nf4", "fp4"])
    form = case.rng.choice([["-o", "packed.nbl"], ["-o", "packed", "--format", "bnb"]])
    case.nibble("quantize", "m", *form, "--codec", codec, "--block-size", case.rng.choice([32, 64, 128]), "-q", "-j", 1)
    case.nibble("dequantize", form[1], "-o", "twin", "--dtype", "fp32", "-q", "-j", 1)
    return form[1], drawn.load(case / "twin")


def run(case):
    drawn = draw_model(case, plain=case.chance(0.8))
    try:
        base, model = base_of(case, drawn)
    except ValueError as error:
        raise Undrawable(f"loading: {error}") from None
    folder = draw_adapter(case, drawn, model)
    adapted = attached(model, folder)
    words = str(folder.relative_to(case.folder))
    if is_scalable(case) and case.chance(0.2):
        weight = case.rng.choice([0.0, 0.25, -1.5])
        words += f":{weight}"
        scaled(adapted, [weight])
    asked = draw_question(case, drawn, model)
    theirs = answers(adapted, **asked)
    ours = ask(case, asked, base, "--adapter", words)
    compare(ours, theirs, in_double(adapted, asked), mask=asked.get("attention_mask"))
