"""What nibble packs when nobody says what to pack is what transformers packs with bitsandbytes.

For every model type of the family table and every class transformers has for it, with and without tied weights: the
weights `nibble plan quantize` chooses are those of the modules transformers would replace, and the folder loads.
"""
import importlib
import re

import pytest
import torch
import transformers
from conftest import ROOT
from models import linear4bit, load, make, raw_bytes_of, small_config
from transformers.models.auto import configuration_auto
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

FAMILIES = ROOT / "Sources" / "NibbleFormats" / "Families"


def listed_types():
    """The model types of the families, read from the program's own source, so that a new one is tested at once."""
    text = "".join(path.read_text() for path in sorted(FAMILIES.glob("*Family.swift")))
    lists = re.findall(r'(?:runs|packsOnly): \[([^\]]*)\]', text)
    # Networks of images are in test_images.py and test_vision_transformers.py.
    types = [name for entries in lists for name in re.findall(r'"([^"]+)"', entries) if not name.startswith(("resnet", "vit", "deit"))]
    assert {"llama", "gpt2", "bert"} <= set(types), f"the families in {FAMILIES} have another form than this test expects"
    return types


def classes_of(model_type):
    """Every model class transformers exports for a type, by name."""
    folder = configuration_auto.model_type_to_module_name(model_type)
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    exported = {name: getattr(module, name) for name in module.__all__}
    return {
        name: found for name, found in exported.items()
        if issubclass(found, transformers.PreTrainedModel) and not name.endswith("PreTrainedModel")
        # The text model of Gemma 3 shares its file with the one of images and texts.
        and found.config_class.model_type == model_type}


def variants():
    # transformers replaces none of Falcon's layers: nibble packs them, but not into these folders.
    # It loads no packed folder that has Llama 4's stacks of experts: `quantize` warns.
    for model_type in sorted({*listed_types()} - {"falcon", "llama4_text"}):
        for name in classes_of(model_type):
            labels = {"num_labels": 2} if name == "DistilBertForQuestionAnswering" else {}
            yield pytest.param(model_type, name, labels, id=f"{model_type}-{name}")
            if re.search("CausalLM|LMHead|MaskedLM|PreTraining|DoubleHeads", name):
                tied = not transformers.AutoConfig.for_model(model_type).tie_word_embeddings
                yield pytest.param(
                    model_type, name, {"tie_word_embeddings": tied}, id=f"{model_type}-{name}-{'tied' if tied else 'untied'}")
    for model_type, name in (("bert", "BertLMHeadModel"), ("roberta", "RobertaForCausalLM"), ("gpt2", "GPT2LMHeadModel")):
        yield pytest.param(
            model_type, name, {"add_cross_attention": True, "is_decoder": True}, id=f"{model_type}-{name}-cross-attention")
    yield pytest.param("deberta-v2", "DebertaV2ForMaskedLM", {"legacy": False}, id="deberta-v2-DebertaV2ForMaskedLM-not-legacy")
    for name in ("LlamaForCausalLM", "LlamaForSequenceClassification"):
        yield pytest.param("llama", name, {"attention_bias": True, "mlp_bias": True}, id=f"llama-{name}-biases")


def transformers_converts(model):
    """The weights of the modules transformers replaces, by its own functions."""
    skipped = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return {
        name + ".weight" for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, skipped)}


@pytest.mark.parametrize("model_type, class_name, changes", list(variants()))
def test_the_default_choice_is_transformers_own(nibble, work, model_type, class_name, changes):
    model_class = classes_of(model_type)[class_name]
    model = make(model_class, small_config(model_type, **changes))
    model.save_pretrained(work / "source")
    stored = raw_bytes_of(work / "source")
    expected = transformers_converts(model)
    assert expected <= stored.keys(), "a module that transformers converts is not stored under its own name"

    plan = nibble.json("plan", "quantize", work / "source")
    # Experts are packed in block files; transformers stacks them, so the folder below keeps them. So it does with the last layers of T5's MLPs.
    elsewhere = re.compile(r"\.experts\.|\.DenseReluDense\.wo\.")
    chosen = {tensor["name"] for tensor in plan["tensors"] if tensor["to"] != tensor["from"] and not elsewhere.search(tensor["name"])}
    assert chosen - expected == set(), "nibble packs what transformers does not"
    assert expected - chosen == set(), "transformers packs what nibble does not"

    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb")
    packed = load(work / "packed", model_class)
    assert {name + ".weight" for name in linear4bit(packed)} == expected


@pytest.mark.parametrize("model_type, class_name, changes", list(variants()))
def test_another_choice_is_written_so_that_transformers_follows_it(nibble, work, model_type, class_name, changes):
    """With a layer kept, config.json must name what is not packed: tied heads that no file stores included."""
    model_class = classes_of(model_type)[class_name]
    model = make(model_class, small_config(model_type, **changes))
    model.save_pretrained(work / "source")
    first_layer = r"(^|\.)(layers|layer|h|albert_layers)\.0\."
    nibble("quantize", work / "source", "-o", work / "packed", "--format", "bnb", "--keep", first_layer)
    packed = load(work / "packed", model_class)
    assert {name + ".weight" for name in linear4bit(packed)} == {
        name for name in transformers_converts(model) if not re.search(first_layer, name)}
