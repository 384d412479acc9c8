"""Text models of models that take pictures as well. What they compute, the differential fuzzer compares on drawn configurations; here is what
becomes of the other parts, and of the names of both."""
import json
import shutil

import peft
import pytest
import torch
import transformers
from differential.wholes import CLASSES, WHOLES, in_files
from models import linear4bit, load, make
from running import TOLERANCE, as_float32, distance, edit_config, expected, forward
from safetensors.torch import load_file, save_file

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 130,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64}
OWN = {
    "gemma3": {"sliding_window": 6, "query_pre_attn_scalar": 16}, "llama4": {"num_local_experts": 3, "intermediate_size_mlp": 96, "interleave_moe_layer_step": 2},
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}})}
EVERY = pytest.mark.parametrize("family", list(WHOLES))


def save(folder, family, published=True, **changes):
    """A small whole with a random text model and random other parts; files spell names as published ones do, or as modules are called."""
    stem, texts, rest = WHOLES[family]
    text = {**TEXT, **OWN.get(family, {}), "model_type": f"{family}_text" if family.startswith("qwen") else texts[0], **changes}
    if family in ("qwen2_vl", "qwen2_5_vl"):
        del text["head_dim"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**rest, "model_type": family, "text_config": text}))
    model_class = getattr(transformers, CLASSES[family][0])
    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    model = make(model_class, config)
    model.save_pretrained(folder)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    state = {name: value.contiguous() for name, value in model.state_dict().items() if not (tied and name.endswith("lm_head.weight"))}
    save_file(in_files(family, state, published), folder / "model.safetensors", {"format": "pt"})
    return as_float32(model_class, folder)


def texts(model, rows=2, length=18):
    return {"input_ids": torch.randint(3, 130, (rows, length))}


def is_other(name):
    return any(part in name for part in ("vision", "visual", "projector", "connector"))


def finetune(nibble, work, *words):
    ids = [3, 4, 5, 6, 7, 8, 9, 10]
    (work / "rows.jsonl").write_text(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
    return nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--max-steps", 2, "--learning-rate", 0.05, *words)


@EVERY
def test_they_answer_texts_from_every_layout_and_tell_what_texts_have_no_use_for(nibble, work, family):
    model = save(work / "m", family)
    others = [name for name in load_file(work / "m" / "model.safetensors") if is_other(name)]
    asked = texts(model)
    assert distance(forward(nibble, work / "m", work, **asked)["logits"], expected(model, **asked)["logits"]) < TOLERANCE
    save_file(asked, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "logits.safetensors").stderr
    assert f"{len(others)} tensors of other parts" in said
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("quantize", work / "m", "-o", work / "bnb", "--format", "bnb")
    for packed in ("m.nbl", "bnb"):
        nibble("dequantize", work / packed, "-o", work / f"{packed} twin", "--dtype", "fp32")
        twin = as_float32(type(model), work / f"{packed} twin")
        assert distance(forward(nibble, work / packed, work, **asked)["logits"], expected(twin, **asked)["logits"]) < TOLERANCE
    if family != "llama4":
        # transformers takes stacked experts apart beside packed layers, and finds none.
        layers = linear4bit(load(work / "bnb", type(model)))
        assert any(is_other(name) for name in layers) and any(not is_other(name) for name in layers)


@EVERY
def test_small_files_and_other_parts_go_there_and_back(nibble, work, family):
    save(work / "m", family)
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.json"):
        (work / "m" / name).write_text(json.dumps({"chat_template": "{{ messages }}", "name": name}))
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "m.nbl", "-o", work / "back", "--dtype", "fp32")
    before, after = (load_file(work / folder / "model.safetensors") for folder in ("m", "back"))
    assert before.keys() == after.keys()
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "chat_template.json"):
        assert json.loads((work / "back" / name).read_text()) == json.loads((work / "m" / name).read_text())


@EVERY
@pytest.mark.parametrize("published", [True, False])
def test_a_new_adapter_is_of_the_text_model_alone_in_peft_too(nibble, work, family, published):
    model = save(work / "m", family, published)
    finetune(nibble, work, "--target-modules", "q_proj,o_proj,v_proj")
    adapted = peft.PeftModel.from_pretrained(as_float32(type(model), work / "m"), work / "out")
    layers = [name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert len(layers) == 6 and not any(is_other(name) for name in layers)
    assert {name for name in load_file(work / "out" / "adapter_model.safetensors")} == {
        f"{name}.lora_{part}.weight" for name in layers for part in "AB"}
    asked = texts(model)
    theirs = expected(adapted, **asked)["logits"]
    assert distance(theirs, expected(model, **asked)["logits"]) > 10 * TOLERANCE
    assert distance(forward(nibble, work / "m", work, "--adapter", work / "out", **asked)["logits"], theirs) < TOLERANCE
    nibble("merge", work / "m", work / "out", "-o", work / "merged", "--min-survival", 0)
    assert distance(expected(as_float32(type(model), work / "merged"), **asked)["logits"], theirs) < 2 * TOLERANCE


@EVERY
@pytest.mark.parametrize("packed", [False, True])
def test_adapters_of_other_parts_are_merged_and_left_out_of_texts_with_their_number(nibble, work, family, packed):
    model = save(work / "m", family)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "lm_head" not in name]
    others = [name for name in linear if is_other(name)]
    targets = [*others, *(name for name in linear if name.endswith("layers.0.self_attn.v_proj") and not is_other(name))]
    adapted = peft.get_peft_model(as_float32(type(model), work / "m"), peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    adapted.save_pretrained(work / "a")
    asked = texts(model)
    base = work / "m"
    if packed:
        nibble("quantize", work / "m", "-o", work / "m.nbl")
        nibble("dequantize", work / "m.nbl", "-o", work / "twin", "--dtype", "fp32")
        base = work / "m.nbl"
        adapted = peft.PeftModel.from_pretrained(as_float32(type(model), work / "twin"), work / "a")
    save_file(asked, work / "ids.safetensors")
    said = nibble("forward", "--base", base, "--ids", work / "ids.safetensors", "-o", work / "said.safetensors", "--adapter", work / "a").stderr
    assert f"adapts {len(others)} module" in said
    assert distance(load_file(work / "said.safetensors")["logits"], expected(adapted, **asked)["logits"]) < TOLERANCE
    nibble("merge", base, work / "a", "-o", work / "merged", "--format", "safetensors", "--dtype", "fp32", "--min-survival", 0)
    ours = as_float32(type(model), work / "merged").state_dict()
    for name, value in adapted.merge_and_unload().state_dict().items():
        assert torch.allclose(ours[name], value, rtol=1e-4, atol=1e-5), name


@EVERY
def test_full_training_leaves_other_parts_as_they_are(nibble, work, family):
    model = save(work / "m", family)
    finetune(nibble, work, "--method", "full")
    before, after = (load_file(work / folder / "model.safetensors") for folder in ("m", "out"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == is_other(name) or "router" in name or "experts" in name, name
    asked = texts(model)
    trained = as_float32(type(model), work / "out")
    assert distance(forward(nibble, work / "out", work, **asked)["logits"], expected(trained, **asked)["logits"]) < TOLERANCE


@EVERY
def test_a_lone_file_is_merged_into_by_names_of_modules(nibble, work, family):
    model = save(work / "m", family)
    adapted = peft.get_peft_model(as_float32(type(model), work / "m"), peft.LoraConfig(r=2, target_modules=r".*(language_model|text_model).*v_proj", init_lora_weights=False))
    adapted.save_pretrained(work / "a")
    nibble("merge", work / "m" / "model.safetensors", work / "a", "-o", work / "alone.safetensors", "--min-survival", 0)
    nibble("merge", work / "m", work / "a", "-o", work / "folder", "--min-survival", 0)
    alone, folder = load_file(work / "alone.safetensors"), load_file(work / "folder" / "model.safetensors")
    assert alone.keys() == folder.keys() and all(torch.equal(alone[name], folder[name]) for name in alone)


@pytest.mark.parametrize("family", ["gemma3", "llama4", "qwen2_vl"])
def test_groups_leave_other_parts_whole_and_say_so(nibble, work, family):
    model = save(work / "m", family)
    words = ["--keep", "experts"] if family == "llama4" else []
    said = nibble("quantize", work / "m", "-o", work / "ct", "--format", "compressed-tensors", "--encoder", "mse", "--group-size", 32, *words).stderr
    assert "weights of parts that take pictures" in said
    written = load_file(work / "ct" / "model.safetensors")
    assert all(not is_other(name) for name in written if name.endswith("weight_packed"))
    if family != "llama4":
        theirs = expected(type(model).from_pretrained(work / "ct", dtype=torch.float32).eval(), **texts(model))
        assert torch.isfinite(theirs["logits"]).all()


REFUSED = [
    ("llava", {"text_config": {**TEXT, "model_type": "opt"}}, "opt"), ("gemma3", {"architectures": ["Gemma3ForSequenceClassification"]}, "Gemma3ForSequenceClassification"),
    ("llava", {"text_config": {"model_type": "gpt2", "n_embd": 32}}, "gpt2"), ("gemma3", {"text_config": {"model_type": "bert"}}, "bert"),
    ("gemma3", {"text_config": {**TEXT, "model_type": 7}}, "model_type"), ("gemma3", {"text_config": []}, "text_config"), ("gemma3", {"text_config": "text"}, "text_config"),
    ("mistral3", {"text_config": {**TEXT, "hidden_size": 1 << 60}}, "hidden_size"), ("smolvlm", {"text_config": {**TEXT, "num_hidden_layers": 3}}, "model.text_model.layers.2"),
    ("qwen2_vl", {"text_config": {**TEXT, "rope_scaling": {"type": "mrope2"}}}, "mrope2"), ("gemma3", {"model_type": "gemma3n"}, "gemma3n"),
    ("llama4", {"text_config": {**TEXT, **OWN["llama4"], "vocab_size": 131}}, "embed_tokens"),
]


@pytest.mark.parametrize("family, changes, named", REFUSED, ids=lambda value: str(value)[:40])
def test_what_makes_no_sense_or_does_not_run_is_one_line(nibble, work, family, changes, named):
    save(work / "m", family)
    edit_config(work / "m", **changes)
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert named in said.stderr and len(said.stderr.splitlines()) == 1, said.stderr


def test_a_new_head_and_an_adapter_without_texts_are_refused(nibble, work):
    model = save(work / "m", "gemma3")
    (work / "rows.jsonl").write_text(json.dumps({"text": "a", "label": 0}) + "\n")
    said = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--max-steps", 1, "--num-labels", 2, exits=2)
    assert "new heads are not implemented" in said.stderr
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*vision_tower.*fc1", init_lora_weights=False))
    adapted.save_pretrained(work / "a")
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", "--adapter", work / "a", exits=5)
    assert "texts do not pass through it" in said.stderr


def test_a_folder_with_a_tower_and_no_text_model_says_what_is_missing(nibble, work):
    save(work / "m", "gemma3")
    tensors = {name: value for name, value in load_file(work / "m" / "model.safetensors").items() if is_other(name)}
    shutil.rmtree(work / "m" / "model.safetensors", ignore_errors=True)
    save_file(tensors, work / "m" / "model.safetensors", {"format": "pt"})
    save_file({"input_ids": torch.ones(1, 3, dtype=torch.long)}, work / "ids.safetensors")
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "out.safetensors", exits=3)
    assert "model.language_model.embed_tokens.weight" in said.stderr


@pytest.mark.parametrize("family, kind, tied", [("llava", "gemma2", True), ("llava", "llama", False), ("qwen2_5_vl", None, False), ("llama4", None, False)])
def test_where_nothing_says_the_text_models_own_default_ties_its_head(nibble, work, family, kind, tied):
    model = save(work / "m", family, **({"model_type": kind} if kind else {}))
    edit_config(work / "m", tie_word_embeddings=None)
    config = json.loads((work / "m" / "config.json").read_text())
    config["text_config"].pop("tie_word_embeddings", None)
    (work / "m" / "config.json").write_text(json.dumps(config))
    tensors = load_file(work / "m" / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.endswith("lm_head.weight")}
    asked = texts(model)
    save_file(asked, work / "ids.safetensors")
    save_file(kept, work / "m" / "model.safetensors", {"format": "pt"})
    said = nibble("forward", "--base", work / "m", "--ids", work / "ids.safetensors", "-o", work / "logits.safetensors", exits=0 if tied else 3).stderr
    if not tied:
        # transformers draws a head at random.
        assert "lm_head.weight' is missing" in said
        return
    assert distance(load_file(work / "logits.safetensors")["logits"], expected(as_float32(type(model), work / "m"), **asked)["logits"]) < TOLERANCE
