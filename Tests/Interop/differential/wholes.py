"""Models that take pictures as well, whose text models are drawn like other decoders. Questions are texts; pictures never come."""
import functools
import re

import torch

VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TOWER = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 4}

# By model_type: the class, what the text model may be, and the rest of the configuration.
WHOLES = {
    "gemma3": ("Gemma3", ("gemma3_text",), {"vision_config": {**VISION, "model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4}),
    "mistral3": ("Mistral3", ("mistral", "ministral3"), {"vision_config": {**VISION, "head_dim": 8, "model_type": "pixtral"}}),
    "llama4": ("Llama4", ("llama4_text",), {
        "vision_config": {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16, "model_type": "llama4_vision_model"}}),
    "llava": ("Llava", ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"), {"vision_config": {**VISION, "model_type": "clip_vision_model"}}),
    "internvl": ("InternVL", ("qwen2", "qwen3", "llama"), {"vision_config": {**VISION, "image_size": [28, 28], "patch_size": [14, 14], "model_type": "internvl_vision"}}),
    "smolvlm": ("SmolVLM", ("llama",), {"vision_config": {**VISION, "model_type": "smolvlm_vision"}}),
    "idefics3": ("Idefics3", ("llama",), {"vision_config": {**VISION, "model_type": "idefics3_vision"}}),
    "qwen2_vl": ("Qwen2VL", ("qwen2",), {"vision_config": {**TOWER, "embed_dim": 16}}),
    "qwen2_5_vl": ("Qwen2_5_VL", ("qwen2",), {"vision_config": {**TOWER, "intermediate_size": 24}}),
    "qwen3_vl": ("Qwen3VL", ("qwen3",), {"vision_config": {**TOWER, "intermediate_size": 24, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}}),
}
CLASSES = {family: (f"{stem}ForConditionalGeneration",) * 2 for family, (stem, _, _) in WHOLES.items()}
# What takes text_config for this, where it does not say.
SILENT = {"gemma3": "gemma3_text", "mistral3": "mistral", "llama4": "llama4_text", "llava": "llama", "internvl": "qwen2", "smolvlm": "llama", "idefics3": "llama"}


def draw(case, family, plain, tools):
    """A configuration of the whole around one of a text model."""
    _, texts, rest = WHOLES[family]
    kind = case.rng.choice(texts)
    text = tools.configuration(case, kind, "ForCausalLM", plain)
    del text["architectures"]
    whole = {**rest, "text_config": text}
    if "tie_word_embeddings" in text and case.chance(0.9):
        whole["tie_word_embeddings"] = text.pop("tie_word_embeddings")
    if kind == SILENT.get(family) and case.chance(0.3):
        del text["model_type"]
    if family.startswith("qwen"):
        three_parts(case, family, text)
        if family != "qwen3_vl" and case.chance(0.3):
            # As first published, with the numbers of the text model among those of the whole.
            whole |= whole.pop("text_config")
    return whole


def three_parts(case, family, text):
    """Qwen's text models under their own name, with positions in three parts, which sum up to half of a head."""
    text["model_type"] = f"{family}_text"
    if family == "qwen3_vl":
        for key in ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"):
            text.pop(key, None)
    elif text.pop("head_dim", None):
        # There a head is always its part of the width.
        text["hidden_size"] = text["num_attention_heads"] * max(2, 2 * (text["hidden_size"] // text["num_attention_heads"] // 2))
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if size % 2:
        return
    first = case.rng.randint(0, size // 2)
    second = case.rng.randint(0, size // 2 - first)
    sections = [first, second, size // 2 - first - second] if family != "qwen3_vl" else [size // 2 - 2 * (size // 6), size // 6, size // 6]
    theta = case.rng.choice([10000.0, 1e6])
    text.pop("rope_theta", None)
    text.pop("rope_parameters", None)
    text.pop("rope_scaling", None)
    if family != "qwen3_vl" and case.chance(0.4):
        text |= {"rope_theta": theta, "rope_scaling": {"type": "mrope", "mrope_section": sections}}
    else:
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, "mrope_section": sections}
        if family == "qwen3_vl" and case.chance(0.5):
            text["rope_parameters"]["mrope_interleaved"] = True


def of_text(config):
    """What of a drawn configuration questions look at: that of the text model, under the whole's name."""
    if config["model_type"] not in WHOLES:
        return config
    return {**config, **config.get("text_config", {}), "model_type": config["model_type"]}


def in_files(family, tensors, published):
    """The state of a model under the names that files have: as modules, or as published ones."""
    if family not in WHOLES or not published:
        return tensors
    pairs = [("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."), ("model.", "")]
    if family in ("qwen2_vl", "qwen2_5_vl"):
        pairs = [("model.language_model.", "model."), ("model.visual.", "visual.")]
    elif family in ("llama4", "smolvlm", "idefics3", "qwen3_vl"):
        pairs = []

    def spelled(name):
        return next((file + name.removeprefix(module) for module, file in pairs if name.startswith(module)), name)

    return {spelled(name): value for name, value in tensors.items()}


def numbers(model):
    """The configuration of what answers texts."""
    return model.config.get_text_config() if model.config.model_type in WHOLES else model.config


def bare(module):
    """A module's path without what files and classes put before it."""
    return re.sub(r"^((model|language_model|text_model)\.)+", "", module)


def strip(model):
    """Takes away what texts do not pass through, so that an adapter is drawn for the rest."""
    for holder in (model, model.model if hasattr(model, "model") else model):
        for part in ("vision_tower", "vision_model", "multi_modal_projector", "visual", "connector"):
            if part in holder._modules:
                del holder._modules[part]


def prepare(model):
    """Gives a loaded Gemma 3 the types of tokens that it wants in training."""
    if model.config.model_type == "gemma3":
        kind = type(model)

        @functools.wraps(kind.forward)
        def forward(self, input_ids=None, **rest):
            return kind.forward(self, input_ids=input_ids, **{"token_type_ids": torch.zeros_like(input_ids), **rest})

        # A copy, and what PEFT makes of it, is to be asked itself.
        model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return model
