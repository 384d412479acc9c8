"""Text models of models that take pictures as well, as GGUF: llama.cpp's converter writes the same file, and llama.cpp computes the same."""
import json

import peft
import pytest
import torch
import transformers
from converter import assert_same_file, contents
from differential.wholes import CLASSES, WHOLES, in_files
from models import make, small_config
from running import TOLERANCE, as_float32, distance, edit_config, expected, forward, random_ids
from safetensors.torch import save_file
from test_gguf_out import CASES, by_llama_cpp, gpt2_tokenizer, llama_cpp, llama_cpp_logits, pieces

# The whole, its text model, tokenizer, and what the text model's configuration says.
WITH = {
    "gemma3": ("gemma3", "gemma3_text", pieces, CASES["gemma3"][2]), "mistral3": ("mistral3", "mistral", pieces, {"sliding_window": None}),
    "mistral3 of ministral3": ("mistral3", "ministral3", pieces, CASES["ministral3"][2]), "llama4": ("llama4", "llama4_text", gpt2_tokenizer, CASES["llama4"][2]),
    "llava": ("llava", "llama", pieces, {}), "llava of mistral": ("llava", "mistral", pieces, {}), "internvl": ("internvl", "qwen2", gpt2_tokenizer, {}),
    "smolvlm": ("smolvlm", "llama", gpt2_tokenizer, {}), "idefics3": ("idefics3", "llama", gpt2_tokenizer, {})}
# The converter knows these by the class of the text model only.
BY_TEXT = {"internvl": "Qwen2ForCausalLM", "smolvlm": "LlamaForCausalLM", "idefics3": "LlamaForCausalLM"}
EVERY = pytest.mark.parametrize("case", list(WITH))
# What published configurations say of their text models, and leave out, at small sizes: the whole, tokenizer, its keys and those of the text model.
WIDTHS = {"hidden_size": 64, "intermediate_size": 96}
HEADS = {**WIDTHS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 4}
PUBLISHED = {
    "Gemma 3 4B": ("gemma3", pieces, {"eos_token_id": [1, 2]}, {
        **WIDTHS, "model_type": "gemma3_text", "num_hidden_layers": 7, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}),
    "LLaVA 1.5": ("llava", pieces, {"tie_word_embeddings": False, "pad_token_id": 512}, {
        "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
        "vocab_size": 520, "hidden_size": 256, "num_hidden_layers": 1}),
    "LLaVA of Mistral without its number of keys": ("llava", pieces, {"tie_word_embeddings": False}, {
        **WIDTHS, "model_type": "mistral", "num_attention_heads": 16, "head_dim": 8, "num_hidden_layers": 1, "vocab_size": 520, "sliding_window": None}),
    "SmolVLM": ("smolvlm", gpt2_tokenizer, {"tie_word_embeddings": False}, {
        **HEADS, "_name_or_path": "None", "architectures": ["VLlama3ForCausalLM"], "model_type": "llama", "pad_token_id": 2, "qk_layer_norms": False,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "vocab_size": 50257}),
    "Llama 4 Scout": ("llama4", gpt2_tokenizer, {}, {
        **HEADS, "model_type": "llama4_text", "intermediate_size_mlp": 96, "no_rope_layers": [1, 1, 1, 0], "num_local_experts": 3, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "bos_token_id": 100, "eos_token_id": [101, 102], "pad_token_id": 103, "vocab_size": 50257}),
}


def save(folder, case, published=True):
    folder.mkdir()
    if case in PUBLISHED:
        family, tokenizer, whole, text = PUBLISHED[case]
        tokenizer(folder)
        return build(folder, family, {**whole, "text_config": text}, published)
    family, kind, tokenizer, changes = WITH[case]
    text = small_config(kind, **{"vocab_size": tokenizer(folder), **changes}).to_dict()
    text = {key: value for key, value in text.items() if value is not None and key not in ("architectures", "tie_word_embeddings", "_name_or_path")}
    if family in BY_TEXT:
        text["architectures"] = [BY_TEXT[family]]
    return build(folder, family, {"text_config": {**text, "model_type": kind}, "tie_word_embeddings": family == "gemma3"}, published)


def build(folder, family, config, published):
    (folder / "config.json").write_text(json.dumps({**WHOLES[family][2], **config, "model_type": family, "architectures": [CLASSES[family][0]]}))
    model_class = getattr(transformers, CLASSES[family][0])
    read = transformers.AutoConfig.from_pretrained(folder)
    read._attn_implementation = "eager"
    model = make(model_class, read)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if not (family == "gemma3" and name == "lm_head.weight")}
    save_file(in_files(family, state, published), folder / "model.safetensors", {"format": "pt"})
    return as_float32(model_class, folder)


@pytest.mark.parametrize("case", [*WITH, *PUBLISHED])
def test_the_file_is_that_of_llama_cpps_converter_and_llama_cpp_computes_with_it(nibble, work, case):
    model = save(work / "m", case)
    said = nibble("convert", work / "m", "-o", work / "ours.gguf").stderr
    assert "a file of their own" in said
    ids = random_ids_of(model)
    theirs = expected(model, input_ids=ids[None])["logits"][0]
    assert distance(forward(nibble, work / "ours.gguf", work, input_ids=ids[None])["logits"][0], theirs) < 1e-4
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", "f32"))
    llama_cpp()
    assert float((llama_cpp_logits(work / "ours.gguf", ids) - theirs).abs().max()) < 1e-3 * max(1, float(theirs.abs().max()))


def random_ids_of(model):
    return torch.randint(3, model.config.get_text_config().vocab_size, (20,))


@EVERY
def test_names_of_modules_give_the_same_file(nibble, work, case):
    save(work / "m", case)
    torch.manual_seed(1)
    model = save(work / "files", case)
    torch.manual_seed(1)
    save(work / "modules", case, published=False)
    for name in ("files", "modules"):
        nibble("convert", work / name, "-o", work / f"{name}.gguf")
    assert contents(work / "files.gguf")[1] == contents(work / "modules.gguf")[1]
    assert model is not None


@pytest.mark.parametrize("case", ["gemma3", "mistral3", "llava", "smolvlm"])
def test_adapters_of_the_whole_are_merged_into_it(nibble, work, case):
    model = save(work / "m", case)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*(language_model|text_model).*(v|down)_proj", init_lora_weights=False))
    adapted.save_pretrained(work / "a")
    nibble("merge", work / "m", work / "a", "-o", work / "merged.gguf", "--min-survival", 0)
    nibble("merge", work / "m", work / "a", "-o", work / "merged", "--min-survival", 0)
    nibble("convert", work / "merged", "-o", work / "again.gguf")
    assert contents(work / "merged.gguf")[1] == contents(work / "again.gguf")[1]
    ids = random_ids_of(model)
    assert distance(forward(nibble, work / "merged.gguf", work, input_ids=ids[None])["logits"], expected(adapted, input_ids=ids[None])["logits"]) < 1e-4
    others = peft.get_peft_model(as_float32(type(model), work / "m"),
                                 peft.LoraConfig(r=2, target_modules=r".*(vision|projector|connector).*(fc1|linear_1|proj)", init_lora_weights=False))
    others.save_pretrained(work / "b")
    said = nibble("merge", work / "m", work / "b", "-o", work / "lost.gguf", "--min-survival", 0, exits=2).stderr
    assert "left out of the file" in said and not (work / "lost.gguf").exists()


@pytest.mark.parametrize("case", ["gemma3", "mistral3", "llava", "smolvlm"])
def test_adapters_become_llama_cpps_and_come_back(nibble, work, case):
    model = save(work / "m", case)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*(language_model|text_model).*(q|v|down)_proj", init_lora_weights=False))
    adapted.save_pretrained(work / "a")
    nibble("adapter", "convert", work / "a", "-o", work / "a.gguf", "--base", work / "m")
    nibble("adapter", "convert", work / "a.gguf", "-o", work / "back", "--base", work / "m")
    ids = random_ids_of(model)
    theirs = expected(adapted, input_ids=ids[None])["logits"]
    assert distance(forward(nibble, work / "m", work, "--adapter", work / "back", input_ids=ids[None])["logits"], theirs) < TOLERANCE
    nibble("convert", work / "m", "-o", work / "m.gguf")
    model = llama_cpp().Llama(str(work / "m.gguf"), lora_path=str(work / "a.gguf"), n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False)
    model.eval(ids.tolist())
    assert float((torch.tensor(model.scores[: len(ids)]) - theirs[0]).abs().max()) < 1e-3 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("case", ["gemma3", "llava", "smolvlm"])
def test_an_importance_matrix_of_it_weighs_the_same_columns(nibble, work, case):
    save(work / "m", case)
    (work / "text.jsonl").write_text("".join(json.dumps({"input_ids": [5 + (7 * row + step) % 90 for step in range(12)], "labels": [1] * 12}) + "\n" for row in range(4)))
    nibble("calibrate", work / "m", "--calibration", work / "text.jsonl", "-o", work / "i.gguf")
    nibble("quantize", work / "m", "-o", work / "by file.gguf", "--gguf-type", "iq4_nl", "--imatrix", work / "i.gguf")
    nibble("quantize", work / "m", "-o", work / "by text.gguf", "--gguf-type", "iq4_nl", "--encoder", "imatrix", "--calibration", work / "text.jsonl")
    nibble("quantize", work / "m", "-o", work / "plain.gguf", "--gguf-type", "iq4_nl")
    assert contents(work / "by file.gguf")[1] == contents(work / "by text.gguf")[1] != contents(work / "plain.gguf")[1]


def test_what_llama_cpp_has_under_another_architecture_is_refused_by_name(nibble, work):
    family = "qwen2_vl"
    (work / "m").mkdir()
    (work / "m" / "config.json").write_text(json.dumps({"model_type": family, "architectures": ["Qwen2VLForConditionalGeneration"], "text_config": {}}))
    save_file({"model.norm.weight": torch.ones(4)}, work / "m" / "model.safetensors", {"format": "pt"})
    said = nibble("convert", work / "m", "-o", work / "m.gguf", exits=2).stderr
    assert "qwen2_vl" in said and len(said.splitlines()) == 1
