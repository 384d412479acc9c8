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
    form = case.rng.choice([["-o", "packed.nbl"], ["-o", "packed", "--format", "bnb"]])
    codec = case.rng.choice(["nf4", "fp4"] if "bnb" in form else ["nf4", "fp4", "int8", "int4", "int4"])
    options = []
    if codec in ("nf4", "fp4"):
        options = ["--block-size", case.rng.choice([32, 64, 128])]
    elif codec == "int4":
        zeros = case.rng.choice([["--symmetric"], ["--zeros", "float16"], ["--zeros", "float32"], ["--zeros", "int"]])
        options = [*zeros, "--group-size", case.rng.choice([32, 64, "row"]), "--encoder", case.rng.choice(["absmax", "mse"])]
    words = ["quantize", "m", *form, "--codec", codec, "-q", "-j", 1]
    # Rows that are no whole groups are refused: then a row is a group.
    if case.nibble(*words, *options, gates=(2,)).returncode:
        case.nibble(*words, *options, "--group-size", "row")
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
    compare(ours, theirs, in_double(adapted, asked), mask=drawn.mask(asked))
