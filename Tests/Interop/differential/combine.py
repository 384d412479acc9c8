"""Several drawn adapters with weights: `adapter combine` against PEFT's `add_weighted_adapter`, and `merge --adapter A:w --adapter B:w`
against both active in PEFT with those weights."""
import warnings

from .adapters import attached, draw_adapter, scaled
from .common import Difference, PeerRefusal, Refusal, answers, compare, in_double, peer
from .drawing import draw_model, draw_question
from .forward import ask

METHODS = {
    "cat": [{}], "linear": [{}], "svd": [{}, {"svd_rank": 1}, {"svd_rank": 3}], "magnitude_prune": [{"density": 0.3}, {"density": 0.71}],
    "ties": [{"density": 0.5}, {"density": 1.0, "majority_sign_method": "frequency"}],
    "dare_linear": [{"density": 1.0}], "dare_ties": [{"density": 1.0}],
}


def run(case):
    rng = case.rng
    drawn = draw_model(case, plain=True)
    with peer("loading"):
        model = drawn.load()
    method = rng.choice(["sum", "sum", *METHODS, "cat", "svd", "linear"])
    settings = rng.choice(METHODS.get(method, [{}]))
    shared = {"r": rng.choice([1, 2, 5])} if method not in ("sum", "cat", "svd") else {}
    if method not in ("sum", "cat", "svd"):
        # PEFT adds factors of one rank only.
        shared |= {"rank_pattern": {}}
    if case.chance(0.5):
        first = draw_adapter(case, drawn, model, "a0", simple=True, **shared)
        shared |= {key: case.drawn["a0"]["settings"][key] for key in ("target_modules", "fan_in_fan_out", "task_type")
                   if key in case.drawn["a0"]["settings"]}
    else:
        first = draw_adapter(case, drawn, model, "a0", simple=True, **shared)
    folders = [first]
    for number in range(1, rng.choice([2, 2, 3])):
        folders.append(draw_adapter(case, drawn, model, f"a{number}", simple=True, **shared))
    weights = [rng.choice([1.0, 0.5, 0.7, -0.4, 2.0, 0.0 if method in ("sum", "cat") else 0.3]) for _ in folders]
    words = [f"{folder.relative_to(case.folder)}:{weight}" for folder, weight in zip(folders, weights)]
    case.note(method=method, settings=settings, weights=weights)
    adapted = attached(model, *folders)
    asked = draw_question(case, drawn, model, simple=True)
    if method == "sum":
        theirs = answers(scaled(adapted, weights), **asked)
        flags = [word for one in words for word in ("--adapter", one)]
        if case.chance(0.5):
            ours = ask(case, asked, "m", *flags)
        else:
            case.nibble("merge", "--base", "m", *flags, "-o", "out", "--dtype", "fp32", "--min-survival", 0, "-q", "-j", 1)
            ours = answers(drawn.load(case / "out"), **asked)
        compare(ours, theirs, in_double(adapted, asked), mask=asked.get("attention_mask"), tolerance=5e-5)
        return
    try:
        with peer("add_weighted_adapter", PeerRefusal):
            adapted.add_weighted_adapter([f"a{number}" for number in range(len(folders))], weights, "both", combination_type=method, **settings)
            adapted.set_adapter("both")
            theirs = answers(adapted, **asked)
    except PeerRefusal as refusal:
        try:
            combine(case, words, method, settings)
        except Refusal:
            return
        raise refusal
    combine(case, words, method, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = attached(model, case / "both")
        except Exception as error:  # noqa: BLE001
            raise Difference(f"PEFT does not load the combination: {error}") from None
    # Singular vectors of float32 factors; sums of products in another order.
    tolerance = 3e-4 if method == "svd" else 5e-5
    compare(answers(found, **asked), theirs, in_double(adapted, asked), mask=asked.get("attention_mask"), tolerance=tolerance)
    compare(ask(case, asked, "m", "--adapter", "both"), answers(found, **asked), in_double(found, asked), mask=asked.get("attention_mask"),
            what="the combination attached: ")


def combine(case, words, method, settings):
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    case.nibble("adapter", "combine", *words, "-o", "both", "--method", method, *flags, "-q")
