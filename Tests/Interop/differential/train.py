"""A few steps of `nibble finetune` against the same steps in PyTorch: losses, gradient norms, and the tensors that come out.

Drawn are the method, the adapter it starts from, optimizer, schedule, clipping, decay, accumulation and the lengths of rows; dropout is 0 and
rows come in the order of the file.
"""
import copy
import json

import peft
import torch
import transformers
from rounding import runs_moved_by_rounding
from safetensors.torch import load_file

from . import experts, pairs, wholes
from .adapters import Modules, attached, draw_adapter, some
from .common import Difference, Undrawable, answers, compare, in_double, peer
from .drawing import draw_model
from .forward import ask
from .questions import draw_question, limit
from .wholes import numbers


def run(case):
    how = case.rng.choices(["continued", "full", "fresh"], [60, 15, 25])[0]
    case.note(how=how)
    drawn = draw_model(case, plain=True, dtype="float32", kinds=("language", "answers", "classes", "tokens", "masked"), vocabulary=case.rng.randint(24, 90))
    # To an optimizer, experts that are stacked are one tensor.
    drawn.apart |= how == "full" and drawn.config["model_type"] in experts.NAMES
    drawn.of_texts = drawn.config["model_type"] in wholes.WHOLES
    with peer("loading"):
        model = drawn.load()
    by_class = drawn.kind == "classes"
    if by_class and drawn.is_causal and numbers(model).pad_token_id is None:
        raise Undrawable("a classifier without padding")
    {"continued": continued, "full": full, "fresh": fresh}[how](case, drawn, model)


# MARK: - Rows and options

SCHEDULES = {
    "constant": lambda optimizer, run: transformers.get_constant_schedule_with_warmup(optimizer, run["warmup"]),
    "linear": lambda optimizer, run: transformers.get_linear_schedule_with_warmup(optimizer, run["warmup"], run["steps"]),
    "cosine": lambda optimizer, run: transformers.get_cosine_schedule_with_warmup(optimizer, run["warmup"], run["steps"]),
    "cosine_with_restarts": lambda optimizer, run: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
        optimizer, run["warmup"], run["steps"]),
    "polynomial": lambda optimizer, run: transformers.get_polynomial_decay_schedule_with_warmup(optimizer, run["warmup"], run["steps"]),
}


def draw_run(case, kind):
    rng = case.rng
    steps, batch, micro = rng.randint(2, 5), rng.choice([1, 2, 3]), rng.choice([1, 1, 2, 3])
    drawn = {
        "steps": steps, "batch": batch, "accumulation": micro, "rate": rng.choice([1e-4, 1e-3, 5e-3]),
        "optimizer": rng.choices(["adamw", "adam", "sgd", "adafactor"], [60, 15, 15, 10])[0], "schedule": rng.choice([*SCHEDULES]),
        "warmup": rng.choice([0, 0, 1, 2]), "decay": rng.choice([0.0, 0.01, 0.3]), "clip": rng.choice([0.0, 0.05, 1.0]),
        "betas": rng.choice([(0.9, 0.999), (0.8, 0.95)]), "epsilon": rng.choice([1e-8, 1e-6, 1e-3]), "momentum": rng.choice([0.0, 0.9]),
        "smoothing": rng.choice([0.0, 0.0, 0.1]) if kind in ("language", "answers", "masked") else 0.0, "paged": rng.random() < 0.2}
    case.note(run=drawn)
    return drawn


def flags(case, drawn):
    words = ["--max-steps", drawn["steps"], "--batch-size", drawn["batch"], "--gradient-accumulation-steps", drawn["accumulation"],
             "--learning-rate", drawn["rate"], "--optimizer", drawn["optimizer"], "--lr-scheduler", drawn["schedule"],
             "--warmup-steps", drawn["warmup"], "--weight-decay", drawn["decay"], "--max-grad-norm", drawn["clip"], "--no-shuffle"]
    if drawn["smoothing"]:
        words += ["--label-smoothing", drawn["smoothing"]]
    if drawn["paged"]:
        words += ["--paged"]
    if drawn["optimizer"] == "sgd":
        words += ["--momentum", drawn["momentum"]]
    elif drawn["optimizer"] != "adafactor":
        words += ["--adam-beta1", drawn["betas"][0], "--adam-beta2", drawn["betas"][1], "--adam-epsilon", drawn["epsilon"]]
    if case.chance(0.3):
        words += ["--gradient-checkpointing"]
    return [*words, "-q", "-j", 1]


def draw_rows(case, drawn, model, run):
    """Rows of ids; for classifiers texts whose words are ids, and their classes."""
    rng = case.rng
    size, most = numbers(model).vocab_size, min(limit(drawn.config, model), 20)
    # What a table does not learn: MPNet's padding is 1, whatever its configuration says.
    padding = 1 if drawn.config["model_type"] == "mpnet" else numbers(model).pad_token_id
    count = rng.choice([run["steps"] * run["batch"] * run["accumulation"], 2 * run["batch"] + 1])
    rows = pairs.rows(rng, size, count) if drawn.kind == "answers" else []
    for _ in range(count - len(rows)):
        ids = [one for one in (rng.randrange(size) for _ in range(rng.randint(3, most))) if one != padding] or [size - 1]
        if drawn.kind == "classes":
            rows.append({"ids": ids, "class": class_of(rng, model)})
        elif drawn.kind == "tokens":
            labels = [rng.choice([-100, *range(model.config.num_labels)]) for _ in ids[1:]]
            rows.append({"ids": ids, "labels": [rng.randrange(model.config.num_labels), *labels]})
        elif drawn.kind == "masked":
            labels = [rng.choice([-100, rng.randrange(size)]) for _ in ids[1:]]
            rows.append({"ids": ids, "labels": [rng.randrange(size), *labels]})
        else:
            ids = ids + ids[:2]
            hidden = rng.randint(0, len(ids) - 2)
            rows.append({"ids": ids, "labels": [-100] * hidden + ids[hidden:]})
    lines = []
    for row in rows:
        if drawn.kind == "classes":
            text = " ".join(f"t{one}" for one in row["ids"])
            lines.append({"text": text, "labels" if isinstance(row["class"], list) else "label": row["class"]})
        else:
            lines.append({"input_ids": row["ids"], "labels": row["labels"]})
    (case / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if drawn.kind == "classes":
        write_tokenizer(case / "m", size)
    return rows


def write_tokenizer(folder, size):
    """The words t0, t1, … are the ids 0, 1, …"""
    import tokenizers
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{one}": one for one in range(size)}, unk_token="t0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))


def is_regression(model):
    return model.config.problem_type == "regression" or (model.config.problem_type is None and model.config.num_labels == 1)


def class_of(rng, model):
    count, problem = model.config.num_labels, model.config.problem_type
    if is_regression(model):
        numbers = [round(rng.uniform(-2, 2), 3) for _ in range(count)]
        return numbers if count > 1 or rng.random() < 0.3 else numbers[0]
    if problem == "multi_label_classification":
        return sorted(rng.sample(range(count), rng.randint(1, count)))
    return rng.randrange(count)


# MARK: - PyTorch

def optimizer_of(parameters, run):
    if run["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, lr=run["rate"], momentum=run["momentum"], weight_decay=run["decay"])
    if run["optimizer"] == "adafactor":
        return transformers.optimization.Adafactor(
            parameters, lr=run["rate"], weight_decay=run["decay"], scale_parameter=False, relative_step=False)
    kind = torch.optim.AdamW if run["optimizer"] == "adamw" else torch.optim.Adam
    return kind(parameters, lr=run["rate"], betas=run["betas"], eps=run["epsilon"], weight_decay=run["decay"])


def micro_loss(drawn, model, rows, smoothing=0.0):
    """The mean over a micro-batch: of its learned tokens, or of its texts."""
    if drawn.kind == "classes":
        total = 0.0
        for row in rows:
            count = model.config.num_labels
            label = torch.tensor([row["class"]])
            if is_regression(model):
                label = torch.tensor(row["class"], dtype=torch.float32).view(1, count)
            elif isinstance(row["class"], list):
                label = torch.zeros(1, count)
                label[0, row["class"]] = 1
            total = total + model(input_ids=torch.tensor([row["ids"]]), labels=label).loss
        return total / len(rows)
    losses, count = 0.0, 0
    for row in rows:
        if drawn.kind == "answers":
            scored = pairs.scored(model, row)
        else:
            labels = torch.tensor(row["labels"])
            logits = model(input_ids=torch.tensor([row["ids"]])).logits
            scored = (logits[0], labels) if drawn.kind in ("tokens", "masked") else (logits[0, :-1], labels[1:])
        losses = losses + torch.nn.functional.cross_entropy(*scored, ignore_index=-100, reduction="sum", label_smoothing=smoothing)
        count += int((scored[1] != -100).sum())
    return losses / count


#: What rounding may leave of a gradient that is nothing, of the greatest of its tensor: a head whose softmax is saturated has it.
ROUNDING = 1e-5


def only_rounded(gradient, run, is_table):
    """Where a gradient may be nothing but rounding. Optimizers that divide by its size make whole steps of it, in any direction.

    Adafactor divides by the size of a row. A table's rows that no token asked for do not count: nothing may move these.
    """
    size = gradient.detach().abs()
    if run["optimizer"] == "adafactor" and size.dim() > 1:
        size = size.amax(dim=-1, keepdim=True).expand_as(size)
    unasked = (gradient == 0).all(dim=-1, keepdim=True) if is_table else torch.zeros_like(size, dtype=torch.bool)
    return (size < ROUNDING * size.max()) & ~unasked


def by_torch(drawn, model, rows, run):
    """The same steps: [(loss, gradient norm)], and by the address of each parameter which of its numbers moved by rounding alone."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    parameters = [one for _, one in named]
    optimizer = optimizer_of(parameters, run)
    schedule = SCHEDULES[run["schedule"]](optimizer, run)
    model.eval()
    seen, place, noise = [], 0, {}
    for _ in range(run["steps"]):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(run["accumulation"]):
            micro = [rows[(place + one) % len(rows)] for one in range(run["batch"])]
            place += run["batch"]
            loss = micro_loss(drawn, model, micro, run["smoothing"]) / run["accumulation"]
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, run["clip"] or float("inf"))
        for name, one in named:
            if one.grad is not None and run["optimizer"] != "sgd":
                is_table = "embed" in name or "wte" in name or "wpe" in name
                noise[one.data_ptr()] = noise.get(one.data_ptr(), False) | only_rounded(one.grad, run, is_table)
        optimizer.step()
        schedule.step()
        seen.append((total, norm.item()))
    return seen, noise


class Trained:
    """What PyTorch made of the rows: the steps, the tensors in the end, and which of their numbers moved by rounding alone."""

    def __init__(self, drawn, model, rows, run, tensors):
        with peer("training"):
            self.steps, noise = by_torch(drawn, model, rows, run)
        found = tensors(model)
        self.rounded = {name: noise[value.data_ptr()] for name, value in found.items() if value.data_ptr() in noise}
        self.tensors = {name: value.detach().clone() for name, value in found.items()}


def compare_training(case, ours, drawn, model, rows, run, tensors):
    """nibble's metrics and tensors against PyTorch's in float32; where they differ, against float64, with what float32 is off by itself.

    - ours: a function that reads nibble's tensors
    - tensors: a function of the model that gives those that are trained
    """
    wide = copy.deepcopy(model)
    start = {name: value.detach().clone() for name, value in tensors(model).items()}
    metrics = [row for row in map(json.loads, (case / "out" / "metrics.jsonl").read_text().splitlines()) if "grad_norm" in row]
    theirs = Trained(drawn, model, rows, run, tensors)
    try:
        compare_trained(metrics, ours(), theirs, [], start, run["rate"])
    except Difference:
        exact = Trained(drawn, copy.deepcopy(wide).double(), rows, run, tensors)
        moved = runs_moved_by_rounding(wide.double(), lambda own: Trained(drawn, own, rows, run, tensors))
        compare_trained(metrics, ours(), exact, [theirs, *moved], start, run["rate"])


# How much farther than these nibble may be: than PyTorch's own float32, in which a gradient that is nothing (a key's bias) is rounding and Adam
# makes steps of it, and than runs in float64 from weights that have moved by eight ulps.
WEIGHTS = [10] + [3] * 8


def compare_trained(metrics, ours, truth, rounded, start, rate):
    """
    - truth: in the most precise numbers there are
    - rounded: the same with rounding, whose distance from the truth says how well the case is conditioned
    """
    if len(metrics) != len(truth.steps):
        raise Difference(f"{len(metrics)} steps in metrics.jsonl, expected {len(truth.steps)}")
    for number, (row, wanted) in enumerate(zip(metrics, truth.steps), 1):
        for place, name, tolerance in ((0, "loss", 5e-5), (1, "grad_norm", 1e-3)):
            noise = max((weight * abs(wanted[place] - one.steps[number - 1][place]) for one, weight in zip(rounded, WEIGHTS)), default=0)
            allowed = tolerance * abs(wanted[place]) + noise + 1e-6
            if not abs(row[name] - wanted[place]) <= allowed:
                raise Difference(f"step {number}: {name} is {row[name]:.7g}, PyTorch's {wanted[place]:.7g}")
    ours = {name.replace(".default.", ".a0."): value for name, value in ours.items()}
    # With bias = all PEFT also writes what a module trained whole is not any more, and beside the factors of an embedding or a head the
    # base's weight, which is frozen.
    stale = {name for name in truth.tensors if ".original_module." in name or ".modules_to_save." in name
             or name.endswith(".base_layer.weight") and torch.equal(truth.tensors[name].float(), start[name].float())}
    if stray := ours.keys() - truth.tensors.keys() | (truth.tensors.keys() - stale - ours.keys()):
        raise Difference(f"tensors written: {sorted(stray)[:4]} on one side only")
    # Adam turns the rounding of tiny gradients into steps of full length, so single numbers may differ by a step: the whole change counts.
    off = change = 0.0
    noise = [0.0 for _ in rounded]
    for name, value in truth.tensors.items():
        if name not in ours:
            continue
        if ours[name].shape != value.shape:
            raise Difference(f"{name}: {tuple(ours[name].shape)}, expected {tuple(value.shape)}")
        told = ~truth.rounded[name] if name in truth.rounded else torch.ones_like(value, dtype=torch.bool)

        def apart(one, other):
            return float(((one.double() - other.double())[told] ** 2).sum())
        off += apart(ours[name], value)
        change += apart(value, start[name])
        noise = [sum + apart(value, one.tensors[name]) for sum, one in zip(noise, rounded)]
    noise = max((weight * sum**0.5 for sum, weight in zip(noise, WEIGHTS)), default=0.0)
    if not off**0.5 <= 0.03 * change**0.5 + noise + 1e-6 + 1e-3 * rate:
        raise Difference(f"what was trained differs by {off**0.5:.3g}, of a change of {change**0.5:.3g}")


# MARK: - Three ways to start

def continued(case, drawn, model):
    """From an adapter that PEFT made."""
    folder = draw_adapter(case, drawn, model, dtype="float32")
    adapted = attached(model, folder, trainable=True)
    run = draw_run(case, drawn.kind)
    rows = draw_rows(case, drawn, model, run)
    case.nibble("finetune", "--base", "m", "--data", "rows.jsonl", "--init-adapter", folder.relative_to(case.folder), "-o", "out",
                "--any-base", *flags(case, run))
    compare_training(
        case, lambda: load_file(case / "out" / "adapter_model.safetensors"), drawn, adapted, rows, run,
        lambda model: peft.get_peft_model_state_dict(model, adapter_name="a0"))
    loaded(case, drawn, model)


def loaded(case, drawn, model, name="out"):
    """PEFT loads what was written, and computes with it what nibble does."""
    try:
        final = attached(model, case / name)
    except Undrawable as error:
        raise Difference(f"PEFT does not load what was trained: {error}") from None
    asked = draw_question(case, drawn, model, simple=True)
    theirs = answers(final, **asked)
    compare(ask(case, asked, "m", "--adapter", name), theirs, in_double(final, asked), mask=drawn.mask(asked), what="trained: ")


def full(case, drawn, model):
    """Every weight."""
    run = draw_run(case, drawn.kind)
    if Modules(model).stacked and run["optimizer"] == "adafactor":
        # Its steps go by what a tensor is, and to nibble each expert is one.
        run["optimizer"] = "adamw"
    rows = draw_rows(case, drawn, model, run)
    case.nibble("finetune", "--base", "m", "--data", "rows.jsonl", "--method", "full", "-o", "out", *flags(case, run))
    compare_training(
        case, lambda: drawn.load(case / "out").state_dict(), drawn, model, rows, run, lambda model: model.state_dict())


def compare_first_loss(case, drawn, model, rows, run):
    """The first loss of an adapter that changes nothing yet is the base's."""
    ours = json.loads((case / "out" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    taken = [rows[place % len(rows)] for place in range(run["batch"] * run["accumulation"])]
    micros = [taken[first:first + run["batch"]] for first in range(0, len(taken), run["batch"])]

    def loss_of(model):
        with torch.no_grad(), peer("the first loss"):
            return sum(micro_loss(drawn, model, micro, run["smoothing"]).item() for micro in micros) / len(micros)

    theirs = loss_of(model)
    if not abs(ours - theirs) <= 5e-5 * abs(theirs):
        noise = max(abs(own - theirs) for own in runs_moved_by_rounding(model, loss_of))
        if not abs(ours - theirs) <= 5e-5 * abs(theirs) + 2 * noise:
            raise Difference(f"the first loss is {ours:.7g}, the base's {theirs:.7g}")


def fresh(case, drawn, model):
    """A new adapter: PEFT loads it; its first loss is the base's, and so is the second where the rate was 0 (warm-up)."""
    rng, modules = case.rng, Modules(model)
    run = draw_run(case, drawn.kind)
    rows = draw_rows(case, drawn, model, run)
    others = ["ia3", "vera"] if modules.has_conv1d else ["ia3", "vera", "lokr", "loha", "adalora", "miss"]
    method = rng.choice(["lora", "rslora", "dora"] if case.chance(0.6) else others)
    words = ["--method", method, "--lora-r", rng.choice([1, 3, 8]), "--lora-alpha", rng.choice([1, 4, 16])]
    words += ["--target-modules", rng.choice(["all-linear", "attention", "mlp", ",".join(some(rng, modules.linear))])]
    if modules.stacked:
        # PEFT reads factors of each expert into those of the stack: plain LoRA's, and never those of an MLP in other layers. It scales rsLoRA's
        # otherwise: 2 alpha over the root of 2 r.
        method = words[1] = "lora"
        is_read = len(modules.stacked) == modules.layers and not any("shared_expert" in name for name in modules.paths)
        words[-1] = rng.choice(["all-linear", "mlp", "attention"]) if is_read else "attention"
    tables = modules.table + modules.embeddings
    if case.chance(0.3):
        words += ["--bias", rng.choice(["all", "lora_only"])]
    if modules.stacked:
        pass
    elif method in ("lora", "rslora") and case.chance(0.2):
        words += ["--lora-bias"]
    elif method in ("lora", "rslora", "dora") and case.chance(0.25):
        words[words.index("--target-modules") + 1] = ",".join(some(rng, modules.linear) + some(rng, tables, 2) + some(rng, modules.head or tables, 1))
    if case.chance(0.2) and len(modules.linear) > 1 and not modules.stacked:
        words[words.index("--target-modules") + 1] = ",".join(modules.linear)
        words += ["--exclude-modules", rng.choice([rng.choice(modules.linear), rf".*\.0\..*{rng.choice(modules.linear)}"])]
    if case.chance(0.25):
        size = numbers(model).vocab_size
        words += ["--trainable-token-indices", ",".join(map(str, rng.sample(range(size), 2)))]
        if modules.head and case.chance(0.4):
            words += ["--trainable-token-indices", f"{rng.choice(modules.head)}={rng.randrange(size)}"]
    elif case.chance(0.4):
        kinds = [one for one in (modules.head, modules.table, modules.embeddings, modules.norms, modules.heads) if one]
        words += ["--modules-to-save", ",".join(some(rng, rng.choice(kinds), 2))]
    case.note(words=words)
    case.nibble("finetune", "--base", "m", "--data", "rows.jsonl", "-o", "out", *words, *flags(case, run))
    # AdaLoRA's loss has a term of its own.
    if method != "adalora":
        compare_first_loss(case, drawn, model, rows, run)
    loaded(case, drawn, model)
