"""Drawn models: a configuration, random weights, and the files they are stored in."""
import json

import torch
import transformers
from safetensors.torch import save_file

from . import experts, wholes
from .common import ONLY, Undrawable, peer
from .configurations import DECODERS, ENCODERS, MASKED, OTHERS, PAIRS, configuration

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Drawn:
    """A model on disk: its folder, class and configuration as text."""

    def __init__(self, folder, model_class, config, dtype):
        self.folder, self.model_class, self.config, self.dtype = folder, model_class, wholes.of_text(config or {"model_type": None}), dtype
        # Whether experts are linear layers in what `load` gives.
        self.apart = False
        # Whether it is to be without its parts for pictures.
        self.of_texts = False

    def load(self, folder=None):
        """The model in float32, with nothing missing."""
        model = load(folder or self.folder, self.model_class)
        if self.of_texts:
            wholes.strip(model)
        return experts.apart(self.config["model_type"], model) if self.apart else model

    @property
    def kind(self):
        name = self.model_class.__name__
        kinds = {"SequenceClassification": "classes", "TokenClassification": "tokens", "CausalLM": "language", "LMHead": "language", "MaskedLM": "masked",
                 "ConditionalGeneration": "answers"}
        if self.model_class.__name__ in {names[0] for names in wholes.CLASSES.values()}:
            return "language"
        return next((kind for part, kind in kinds.items() if part in name), "states")

    def mask(self, asked):
        """The mask of the tokens that logits or states are of: a decoder's beside an encoder have none."""
        return None if self.kind == "answers" else asked.get("attention_mask")

    @property
    def is_causal(self):
        return self.config["model_type"] not in (*ENCODERS, "convbert")


def load(folder, model_class):
    # Grouped products want rows of whole 16 bytes.
    model, report = model_class.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ValueError(f"keys are missing: {sorted(report['missing_keys'])[:3]} {sorted(report['mismatched_keys'])[:3]}")
    # A cache is not asked for, and some configurations have none.
    model.config.use_cache = model.config.get_text_config().use_cache = False
    return wholes.prepare(model.eval())


def draw_model(case, name="m", families=None, kinds=None, plain=False, dtype=None, others=0.0, vocabulary=None, **changes):
    """Draws a model and writes it to the folder `name`.

    - families, kinds: model types and kinds ("language", "answers", "classes", "tokens", "masked", "states") to choose among; None for all
    - plain: no odd spelling, storage or padding; areas that test something else want models that run
    - others: how often the family is one that nibble does not run
    """
    rng = case.rng
    classes = {**DECODERS, **ENCODERS, **PAIRS}
    families = [one for one in (families or [one for one in classes if one not in PAIRS or not kinds or "answers" in kinds]) if not ONLY or one in ONLY]
    if not families:
        raise Undrawable("no such family here")
    family = rng.choice(families)
    if others and not ONLY and case.chance(others):
        family = rng.choice([*OTHERS, *MASKED])
        class_name = OTHERS.get(family) or MASKED[family]
    elif family in OTHERS:
        class_name = OTHERS[family]
    else:
        names = classes[family]
        if kinds:
            names = [one for one in names if Drawn(None, getattr(transformers, one), None, None).kind in kinds]
            if not names:
                raise Undrawable(f"{family} has no {kinds}")
        class_name = rng.choice(names)
    model_class = getattr(transformers, class_name)
    config = configuration(case, family, class_name, plain)
    if vocabulary:
        config.get("text_config", config)["vocab_size"] = vocabulary
    config.update(changes)
    dtype = dtype or rng.choice(["float32", "float32", "bfloat16", "float16"])
    config[rng.choice(["dtype", "torch_dtype"])] = dtype
    folder = case / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    case.note(**{name: {"class": class_name, "config": config}})
    with peer("making the model"):
        read = transformers.AutoConfig.from_pretrained(folder)
        if read.get_text_config(decoder=True).num_hidden_layers > 8:
            raise Undrawable("a model of the default's size")
        model = model_class._from_config(read, attn_implementation="eager")
    randomize(case, model)
    store(case, folder, model, DTYPES[dtype], plain, name)
    drawn = Drawn(folder, model_class, config, dtype)
    drawn.apart = family in experts.NAMES and case.chance(0.6)
    return drawn


def randomize(case, model):
    """Random values everywhere; queries and keys strong enough to tell positions apart."""
    spread = case.rng.choice([0.05, 0.1, 0.2])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() or ".ln_" in name or "layernorm" in name.lower():
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * torch.randn(parameter.shape))
                continue
            strong = parameter.dim() == 2 and any(part in name for part in ("q_proj", "k_proj", "c_attn", "query", "key", "relative_attention_bias"))
            parameter.copy_(torch.randn(parameter.shape) * spread * (3 if strong else 1))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape))


# MARK: - Files

def store(case, folder, model, dtype, plain, name):
    """Writes the weights as hubs have them: tied heads stored or not, prefixes, old names, shards, types that are mixed."""
    rng = case.rng
    tensors = {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    tensors = experts.in_files(model.config.model_type, tensors)
    published = case.chance(0.7)
    tied = dict(getattr(model, "_tied_weights_keys", None) or {}) if model.config.tie_word_embeddings else {}
    tied = {key: source for key, source in tied.items() if key in tensors}
    how = "as saved"
    if not plain:
        how = rng.choices(["as saved", "stored too", "stored too, other values", "only the head"], [80, 10, 6, 4])[0] if tied else how
    if how == "as saved" or how == "only the head":
        for key, source in tied.items():
            tensors.pop(key if how == "as saved" else source, None)
    if how == "stored too, other values":
        for key in tied:
            tensors[key] = tensors[key] + 0.1 * torch.randn(tensors[key].shape)
    tensors = wholes.in_files(model.config.model_type, tensors, published)
    odd = []
    if not plain and case.chance(0.15) and model.config.model_type not in wholes.WHOLES:
        prefix = model.base_model_prefix + "."
        if all(key.startswith(prefix) for key in tensors):
            odd.append("without prefix")
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        elif not any(key.startswith(prefix) for key in tensors) and type(model).__name__.endswith("Model"):
            odd.append("with prefix")
            tensors = {prefix + key: value for key, value in tensors.items()}
    if not plain and case.chance(0.1) and any("LayerNorm.weight" in key for key in tensors):
        odd.append("gamma and beta")
        tensors = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
                   for key, value in tensors.items()}
    mixed = not plain and case.chance(0.08)
    kinds = list(DTYPES.values())
    tensors = {key: value.to(rng.choice(kinds) if mixed else dtype) if value.is_floating_point() else value
               for key, value in tensors.items()}
    shards = rng.choice([2, 3]) if not plain and case.chance(0.2) and len(tensors) > 3 else 1
    case.note(**{f"{name} stored": {"tied": how, "odd": odd, "mixed": mixed, "shards": shards}})
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    rng.shuffle(names)
    index = {"metadata": {"total_size": sum(value.numel() * value.element_size() for value in tensors.values())}, "weight_map": {}}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
