"""Several drawn adapters with weights: `adapter combine` against PEFT's `add_weighted_adapter`; `merge` and `forward` with
`--adapter A:w --adapter B:w` against all of them active in PEFT with those weights."""
from .adapters import attached, draw_adapter, scaled
from .common import Difference, PeerRefusal, Refusal, Undrawable, answers, compare, in_double, peer
from .configurations import DECODERS
from .drawing import draw_model
from .forward import ask
from .questions import draw_question

METHODS = {
    "cat": [{}], "linear": [{}], "svd": [{}, {"svd_rank": 1}, {"svd_rank": 3}],
    "magnitude_prune": [{"density": 0.3}, {"density": 0.71}],
    "ties": [{"density": 0.5}, {"density": 1.0, "majority_sign_method": "frequency"}],
    "dare_linear": [{"density": 1.0}], "dare_ties": [{"density": 1.0}],
}


def run(case):
    rng = case.rng
    drawn = draw_model(case, plain=True, kinds=("language", "states"), families=[*DECODERS, "bert", "roberta"])
    with peer("loading"):
        model = drawn.load()
    method = rng.choice(["sum", "sum", *METHODS, "cat", "svd", "linear"])
    settings = rng.choice(METHODS.get(method, [{}]))
    # PEFT gives the combination the first adapter's configuration, and with it a scale and layers that are not the others'. The exact
    # methods are therefore compared with the adapters active together; for the rest no such adapter is drawn. Half-precision factors
    # have equal magnitudes, of which pruning may keep any.
    exact = method in ("sum", "cat")
    shared = {} if exact else {"use_rslora": case.chance(0.1) and method != "svd", "layers_to_transform": None, "exclude_modules": None}
    if method == "svd" and not settings:
        # The default rank: PEFT's is the greatest a configuration names, nibble's the greatest a module has.
        shared |= {"rank_pattern": {}}
    if method not in ("sum", "cat", "svd"):
        shared |= {"r": rng.choice([1, 2, 5]), "rank_pattern": {}, "dtype": "float32"}
    first = draw_adapter(case, drawn, model, "a0", simple=True, **shared)
    # PEFT combines lists with lists and patterns with patterns.
    if case.chance(0.5) or not isinstance(case.drawn["a0"]["settings"]["target_modules"], list):
        shared |= {key: case.drawn["a0"]["settings"][key] for key in ("target_modules", "fan_in_fan_out", "task_type")
                   if key in case.drawn["a0"]["settings"]}
        if not isinstance(shared["target_modules"], list):
            shared["layers_to_transform"] = None
    folders = [first]
    for number in range(1, rng.choice([2, 2, 3])):
        folders.append(draw_adapter(case, drawn, model, f"a{number}", simple=True, **shared))
    weights = [rng.choice([1.0, 0.5, 0.7, -0.4, 2.0, 0.0 if method in ("sum", "cat") else 0.3]) for _ in folders]
    words = [f"{folder.relative_to(case.folder)}:{weight}" for folder, weight in zip(folders, weights)]
    case.note(method=method, settings=settings, weights=weights)
    adapted = attached(model, *folders)
    asked = draw_question(case, drawn, model, simple=True)
    if exact:
        theirs = answers(scaled(adapted, weights), **asked)
    else:
        theirs = by_peft(case, adapted, folders, words, weights, method, settings, asked)
        if theirs is None:
            return
    mask = asked.get("attention_mask")
    if method == "sum":
        ours = summed(case, drawn, words, asked)
        compare(ours, theirs, in_double(adapted, asked), mask=mask, tolerance=5e-5)
        return
    combine(case, words, method, settings)
    try:
        found = attached(model, case / "both")
    except Undrawable as error:
        raise Difference(f"PEFT does not load the combination: {error}") from None
    loaded = answers(found, **asked)
    # Singular vectors of float32 factors; sums of products in another order.
    compare(loaded, theirs, in_double(adapted, asked), mask=mask, tolerance=3e-4 if method == "svd" else 5e-5)
    ours = ask(case, asked, "m", "--adapter", "both")
    compare(ours, loaded, in_double(found, asked), mask=mask, what="the combination attached: ")


def by_peft(case, adapted, folders, words, weights, method, settings, asked):
    """What PEFT's combination computes; None where nibble refuses it as PEFT does."""
    try:
        with peer("add_weighted_adapter", PeerRefusal):
            names = [f"a{number}" for number in range(len(folders))]
            adapted.add_weighted_adapter(names, weights, "both", combination_type=method, **settings)
            adapted.set_adapter("both")
            return answers(adapted, **asked)
    except PeerRefusal:
        try:
            combine(case, words, method, settings)
        except Refusal:
            return None
        raise


def summed(case, drawn, words, asked):
    """All adapters at once, attached or merged."""
    flags = [word for one in words for word in ("--adapter", one)]
    if case.chance(0.5):
        return ask(case, asked, "m", *flags)
    case.nibble("merge", "--base", "m", *flags, "-o", "out", "--dtype", "fp32", "--min-survival", 0, "-q", "-j", 1)
    return answers(drawn.load(case / "out"), **asked)


def combine(case, words, method, settings):
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    case.nibble("adapter", "combine", *words, "-o", "both", "--method", method, *flags, "-q")
