"""ViT and DeiT compared with transformers and PEFT on drawn configurations: scores, training steps, merges, packed files, new heads."""
import copy
import json
import os
import random

import peft
import pytest
import torch
import transformers
from running import TOLERANCE, distance
from safetensors.torch import load_file, save_file
from test_images import (
    BATCH, CLASSES, PLAIN, RUN, SEED, STEPS, assert_adapter_trains_as_in_peft, assert_same_steps, batches, expected, save_pictures, scores)

SLOW = bool(os.environ.get("NIBBLE_SLOW"))
CLASSES_OF = {
    "vit": (transformers.ViTForImageClassification,),
    "deit": (transformers.DeiTForImageClassification, transformers.DeiTForImageClassificationWithTeacher),
}


def draw_config(draw, family, wide=False, is_smooth=False):
    """Every key of the configuration that changes arithmetic. `wide` layers have whole blocks in a row; rounding pushes nothing of a smooth
    one over an edge, so that steps can be compared."""
    patch = [draw.choice([2, 3, 5]), draw.choice([2, 4])]
    image = [side * draw.randrange(1, 5) + draw.randrange(side) for side in patch]
    heads = draw.choice([2, 4])
    keys = dict(
        hidden_size=64 if wide else heads * draw.choice([3, 4, 8]), num_attention_heads=heads, num_hidden_layers=draw.randrange(1, 4),
        intermediate_size=128 if wide else draw.randrange(5, 40), hidden_act=draw.choice(["gelu", "gelu_new", "quick_gelu", "silu", *([] if is_smooth else ["relu"])]),
        layer_norm_eps=draw.choice([1e-12, 1e-5, 1e-3]), qkv_bias=draw.random() < 0.6, num_labels=CLASSES, encoder_stride=draw.choice([16, 3]),
        image_size=image, patch_size=patch)
    if draw.random() < 0.5:
        side = draw.choice([2, 3, 4])
        keys |= {"patch_size": side, "image_size": side * draw.randrange(1, 5) + draw.randrange(side)}
    if not wide and draw.random() < 0.2:
        keys["head_dim"] = draw.choice([2, 5])
    return getattr(transformers, {"vit": "ViTConfig", "deit": "DeiTConfig"}[family])(**keys)


def randomize(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) * (0.5 if "token" in name or "position" in name else 0.15))


def save_model(folder, draw, family=None, kind=None, wide=False, is_smooth=False):
    family = family or draw.choice(list(CLASSES_OF))
    kind = kind or draw.choice(CLASSES_OF[family])
    torch.manual_seed(draw.randrange(10**6))
    model = kind._from_config(draw_config(draw, family, wide, is_smooth), attn_implementation="eager")
    randomize(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PLAIN))
    return model.eval()


def size_of(model):
    side = model.config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return width, height


def pictures_for(model, folder, count, draw):
    return save_pictures(folder, count, draw, size=size_of(model))


def kind_of(model):
    return type(model).__name__


@pytest.mark.parametrize("case", range(40 if SLOW else 5))
def test_drawn_configurations_say_what_transformers_says(nibble, work, case):
    draw = random.Random(f"{SEED} vit {case}")
    model = save_model(work / "m", draw, ["vit", "deit"][case % 2])
    pictures, labels = pictures_for(model, work / "p", 5, draw)
    ours, report = scores(nibble, work, work / "m")
    theirs = expected(model, pictures)
    assert distance(ours, theirs) < TOLERANCE, model.config
    assert report["accuracy"] == pytest.approx((theirs.argmax(1) == torch.tensor(labels)).float().mean().item())
    assert report["loss"] == pytest.approx(torch.nn.functional.cross_entropy(theirs, torch.tensor(labels)).item(), rel=1e-5)


ADAPTERS = [
    {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}, {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "fc2", "projection"], "modules_to_save": ["classifier", "layernorm"], "bias": "lora_only"},
    {"target_modules": ["k_proj", "o_proj", "fc1", "classifier"], "use_dora": True},
]


def adapted(model, settings):
    if model.config.model_type == "deit" and "Teacher" in kind_of(model):
        settings = {key: [{"classifier": "cls_classifier"}.get(one, one) for one in value] if isinstance(value, list) else value
                    for key, value in settings.items()}
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, **settings))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.2)
    return theirs


@pytest.mark.parametrize("settings", ADAPTERS, ids=["attention", "all", "patches", "dora"])
@pytest.mark.parametrize("case", range(5 if SLOW else 1))
def test_adapters_train_as_in_peft_and_merge(nibble, work, settings, case):
    draw = random.Random(f"{SEED} vit lora {settings} {case}")
    model = save_model(work / "m", draw, is_smooth=True)
    pictures, labels = pictures_for(model, work / "p", STEPS * BATCH, draw)
    theirs = adapted(model, settings)
    learned = assert_adapter_trains_as_in_peft(nibble, work, model, theirs, pictures, labels)
    nibble("merge", work / "m", work / "out", "-o", work / "merged")
    merged = type(model).from_pretrained(work / "merged", attn_implementation="eager").eval()
    assert distance(expected(merged, pictures), expected(learned, pictures)) < TOLERANCE
    assert distance(scores(nibble, work, work / "merged")[0], expected(learned, pictures)) < TOLERANCE


@pytest.mark.parametrize("targets, modules", [("query,value", {"q_proj", "v_proj"}), ("q_proj,v_proj", {"q_proj", "v_proj"})])
def test_a_new_adapter_loads_in_peft(nibble, work, targets, modules):
    """Modules may be called as files call them; the adapter has the names of transformers' modules."""
    draw = random.Random(f"{SEED} vit new")
    model = save_model(work / "m", draw)
    pictures, _ = pictures_for(model, work / "p", 2 * BATCH, draw)
    nibble("finetune", "--base", work / "m", "--data", work / "p" / "rows.jsonl", "-o", work / "out", "--target-modules", targets,
           "--max-steps", 2, *RUN)
    assert {name.split(".")[-3] for name in load_file(work / "out" / "adapter_model.safetensors") if ".lora_A." in name} == modules
    learned = peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "out").eval()
    assert distance(scores(nibble, work, work / "m", "--adapter", work / "out")[0], expected(learned, pictures)) < TOLERANCE


def test_adapters_of_transformers_4_are_those_of_transformers_5(nibble, work):
    draw = random.Random(f"{SEED} vit old")
    model = save_model(work / "m", draw, "vit")
    pictures, _ = pictures_for(model, work / "p", 4, draw)
    theirs = adapted(model, ADAPTERS[0])
    theirs.save_pretrained(work / "new")
    (work / "old").mkdir()
    tensors = load_file(work / "new" / "adapter_model.safetensors")
    old = {name.replace("layers.", "encoder.layer.").replace("attention.q_proj", "attention.attention.query")
           .replace("attention.v_proj", "attention.attention.value"): value for name, value in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, work / "old" / "adapter_model.safetensors")
    config = json.loads((work / "new" / "adapter_config.json").read_text()) | {"target_modules": ["query", "value"]}
    (work / "old" / "adapter_config.json").write_text(json.dumps(config))
    for name in ("new", "old"):
        assert distance(scores(nibble, work, work / "m", "--adapter", work / name)[0], expected(theirs.eval(), pictures)) < TOLERANCE
        nibble("merge", work / "m", work / name, "-o", work / f"merged {name}")
    assert (work / "merged old" / "model.safetensors").read_bytes() == (work / "merged new" / "model.safetensors").read_bytes()


def test_an_adapter_taken_out_of_a_tuned_model_loads_in_peft(nibble, work):
    draw = random.Random(f"{SEED} vit extract")
    model = save_model(work / "m", draw, "vit")
    pictures, _ = pictures_for(model, work / "p", 4, draw)
    theirs = adapted(model, {"target_modules": ["q_proj", "fc1"]})
    theirs.save_pretrained(work / "a")
    nibble("merge", work / "m", work / "a", "-o", work / "tuned")
    nibble("adapter", "extract", "--base", work / "m", "--tuned", work / "tuned", "--rank", 3, "-o", work / "e")
    found = peft.PeftModel.from_pretrained(copy.deepcopy(model), work / "e").eval()
    assert distance(expected(found, pictures), expected(theirs.eval(), pictures)) < 1e-3


@pytest.mark.parametrize("case", range(8 if SLOW else 1))
def test_full_training_is_torch_s(nibble, work, case):
    draw = random.Random(f"{SEED} vit full {case}")
    model = save_model(work / "m", draw, is_smooth=True)
    pictures, labels = pictures_for(model, work / "p", STEPS * BATCH, draw)
    nibble("finetune", "--base", work / "m", "--data", work / "p" / "rows.jsonl", "-o", work / "out", "--method", "full", "--max-steps", STEPS, *RUN)
    assert_same_steps(work / "out", model, batches(pictures, labels))
    ours = type(model).from_pretrained(work / "out", attn_implementation="eager").state_dict()
    for name, value in model.state_dict().items():
        assert torch.allclose(ours[name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_packed_models_say_what_their_decoded_weights_say(nibble, work, family):
    draw = random.Random(f"{SEED} vit packed {family}")
    model = save_model(work / "m", draw, family, wide=True)
    pictures, _ = pictures_for(model, work / "p", 5, draw)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("quantize", work / "m", "-o", work / "b", "--format", "bnb", "--bnb-rules", "cpu")
    for name in ("m.nbl", "b"):
        nibble("dequantize", work / name, "-o", work / f"{name} twin", "--dtype", "fp32")
        twin = expected(type(model).from_pretrained(work / f"{name} twin", attn_implementation="eager").eval(), pictures)
        assert distance(scores(nibble, work, work / name)[0], twin) < TOLERANCE
    # How much four bits do to random weights is anyone's guess; that they do something is not.
    assert distance(twin, expected(model, pictures)) > TOLERANCE
    loaded = type(model).from_pretrained(work / "b", attn_implementation="eager").eval()
    assert sum("Linear4bit" in type(one).__name__ for one in loaded.modules()) == sum(isinstance(one, torch.nn.Linear) for one in model.modules())
    assert distance(expected(loaded, pictures), twin) < TOLERANCE


def test_an_adapter_trains_on_a_packed_base(nibble, work):
    draw = random.Random(f"{SEED} vit qlora")
    model = save_model(work / "m", draw, wide=True, is_smooth=True)
    pictures, labels = pictures_for(model, work / "p", STEPS * BATCH, draw)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "m.nbl", "-o", work / "d", "--dtype", "fp32")
    theirs = adapted(type(model).from_pretrained(work / "d", attn_implementation="eager").eval(), {"target_modules": ["q_proj", "v_proj"]})
    theirs.save_pretrained(work / "start")
    nibble("finetune", "--base", work / "m.nbl", "--data", work / "p" / "rows.jsonl", "-o", work / "out", "--init-adapter", work / "start",
           "--any-base", "--max-steps", STEPS, *RUN)
    assert_same_steps(work / "out", theirs, batches(pictures, labels))
    nibble("merge", work / "m.nbl", work / "out", "-o", work / "merged.nbl", "--min-survival", 0)
    scores(nibble, work, work / "merged.nbl")


@pytest.mark.parametrize("kind", ["ViTModel", "DeiTForImageClassificationWithTeacher", *(["ViTForImageClassification"] if SLOW else [])])
def test_a_new_head_on_a_model_without_it_or_with_another(nibble, work, kind):
    draw = random.Random(f"{SEED} vit head {kind}")
    model = save_model(work / "m", draw, "deit" if kind.startswith("DeiT") else "vit", getattr(transformers, kind))
    pictures, _ = pictures_for(model, work / "p", 2 * BATCH, draw)
    (work / "p" / "rows.jsonl").write_text("".join(json.dumps({"image": f"{n}.png", "label": "ab"[n % 2]}) + "\n" for n in range(2 * BATCH)))
    nibble("finetune", "--base", work / "m", "--data", work / "p" / "rows.jsonl", "-o", work / "out", "--labels", "a,b", "--max-steps", 2, *RUN)
    nibble("merge", work / "m", work / "out", "-o", work / "merged")
    merged = getattr(transformers, kind[:3 if kind[0] == "V" else 4] + "ForImageClassification").from_pretrained(work / "merged").eval()
    assert merged.config.id2label == {0: "a", 1: "b"}
    assert distance(scores(nibble, work, work / "m", "--adapter", work / "out")[0], expected(merged, pictures)) < TOLERANCE
    assert distance(scores(nibble, work, work / "merged")[0], expected(merged, pictures)) < TOLERANCE


@pytest.mark.parametrize("keys, said", [
    ({"hidden_act": "elu"}, "hidden_act"), ({"architectures": ["ViTForMaskedImageModeling"]}, "ViTForMaskedImageModeling"),
    ({"patch_size": 99}, "patch_size"), ({"image_size": [8, 8, 8]}, "image_size"), ({"image_size": 10**9}, "image_size"),
    ({"num_attention_heads": 1000}, "num_attention_heads"), ({"num_channels": 1}, "projection"), ({"image_size": 64}, "position_embeddings"),
])
def test_what_is_not_implemented_is_refused_by_name(nibble, work, keys, said):
    draw = random.Random(f"{SEED} vit refusals")
    model = save_model(work / "m", draw, "vit")
    pictures_for(model, work / "p", 1, draw)
    config = json.loads((work / "m" / "config.json").read_text()) | keys
    (work / "m" / "config.json").write_text(json.dumps(config))
    line = nibble("evaluate", work / "m", work / "p" / "rows.jsonl", "--task", "images", exits=3).stderr.strip()
    assert said in line and "\n" not in line


def test_images_of_another_size_are_refused(nibble, work):
    draw = random.Random(f"{SEED} vit size")
    model = save_model(work / "m", draw)
    width, height = size_of(model)
    save_pictures(work / "p", 1, draw, size=(width + 1, height))
    line = nibble("evaluate", work / "m", work / "p" / "rows.jsonl", "--task", "images", exits=3).stderr.strip()
    assert "preprocessor_config.json" in line and f"{width} x {height}" in line
