"""Whole models as GGUF, compared with what llama.cpp's own converter writes: every key, every tensor, its type and its bytes."""
import json
import os
import pathlib
import shutil
import sys
import types

import numpy
import pytest
import torch
import transformers
import converter
from conftest import ROOT
from converter import assert_same_file, contents, gguf
from models import make, small_config
from running import as_float32, edit_config, expected, random_ids

TOKENIZERS = ROOT / "Tests" / "Fixtures" / "tokenizers"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0, "beta_fast": 32.0}


def gpt2_tokenizer(folder):
    path = folder / "tokenizer.json"
    shutil.copy(TOKENIZERS / "gpt2" / "tokenizer.json", path)
    # The file is of before models had types, which the converter asks for.
    tokenizer = json.loads(path.read_text())
    tokenizer["model"] = {"type": "BPE", **tokenizer["model"]}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
         "unk_token": "<|endoftext|>", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}))
    return 50257


def pieces(folder):
    shutil.copy(TOKENIZERS / "stories512" / "tokenizer.model", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": {"content": "</s>"},
         "added_tokens_decoder": {"512": {"content": "<|mark|>", "special": False}, "513": {"content": "▁twice", "special": False}}}))
    return 520


def bert_tokenizer(folder):
    shutil.copy(TOKENIZERS / "bert" / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]",
         "unk_token": "[UNK]", "do_lower_case": True}))
    return 30522


def roberta_tokenizer(folder):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZERS / "roberta" / name, folder)
    transformers.RobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return 50265


def xlm_tokenizer(folder):
    import sentencepiece
    sentencepiece.SentencePieceTrainer.train(
        input=str(ROOT / "Tests" / "Fixtures" / "stories.txt"), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=300,
        model_type="unigram", hard_vocab_limit=False, minloglevel=2)
    (folder / "sentencepiece.bpe.vocab").unlink()
    return 302


def glm_tokenizer(folder, *marks):
    """Byte pairs with the marks that GLM's converter asks for."""
    gpt2_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", *marks]})
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def glm45_tokenizer(folder):
    return glm_tokenizer(folder, "[gMASK]", "<|observation|>")


SLIDING, FULL = "sliding_attention", "full_attention"
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [1.5, 2.0, 4.0, 8.0] * 2, "short_factor": [1.0, 1.1, 1.2, 1.3] * 2}
CASES = {
    "llama": ("LlamaForCausalLM", pieces, {}),
    "llama, llama3's positions": ("LlamaForCausalLM", pieces, {"rope_parameters": LLAMA3, "num_key_value_heads": 4, "attention_bias": True}),
    "llama, yarn": ("LlamaForCausalLM", pieces, {"rope_parameters": YARN}),
    "llama of byte pairs": ("LlamaForCausalLM", gpt2_tokenizer, {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", pieces, {}),
    "qwen2": ("Qwen2ForCausalLM", gpt2_tokenizer, {}),
    "qwen2, yarn": ("Qwen2ForCausalLM", gpt2_tokenizer, {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", gpt2_tokenizer, {}),
    "gemma": ("GemmaForCausalLM", pieces, {}),
    "gemma2": ("Gemma2ForCausalLM", pieces, {"query_pre_attn_scalar": 16}),
    "granite": ("GraniteForCausalLM", pieces, {"attention_multiplier": 0.25, "embedding_multiplier": 12.0}),
    "olmo2": ("Olmo2ForCausalLM", gpt2_tokenizer, {}),
    "smollm3": ("SmolLM3ForCausalLM", gpt2_tokenizer, {"tie_word_embeddings": True}),
    "gemma3": ("Gemma3ForCausalLM", pieces, {"query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7, "layer_types": [SLIDING] * 5 + [FULL, SLIDING]}),
    "olmo3": ("Olmo3ForCausalLM", gpt2_tokenizer, {"sliding_window": 8, "layer_types": [SLIDING, FULL]}),
    "phi3": ("Phi3ForCausalLM", pieces, {"pad_token_id": 0}),
    "phi3, longrope": ("Phi3ForCausalLM", pieces, {
        "pad_token_id": 0, "rope_parameters": {**LONGROPE, "original_max_position_embeddings": 256}, "original_max_position_embeddings": 256,
        "max_position_embeddings": 512}),
    "phi": ("PhiForCausalLM", gpt2_tokenizer, {"hidden_act": "gelu_new"}),
    "starcoder2": ("Starcoder2ForCausalLM", gpt2_tokenizer, {"hidden_act": "gelu_pytorch_tanh"}),
    "gpt_neox": ("GPTNeoXForCausalLM", gpt2_tokenizer, {"hidden_act": "gelu_new"}),
    "falcon": ("FalconForCausalLM", gpt2_tokenizer, {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "glm4": ("Glm4ForCausalLM", glm_tokenizer, {"pad_token_id": 0}),
    "glm": ("GlmForCausalLM", glm_tokenizer, {"pad_token_id": 0}),
    "mixtral": ("MixtralForCausalLM", pieces, {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", gpt2_tokenizer, {
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}),
    "olmoe": ("OlmoeForCausalLM", gpt2_tokenizer, {"num_experts": 5, "num_experts_per_tok": 3, "num_key_value_heads": 4}),
    "gpt_oss": ("GptOssForCausalLM", gpt2_tokenizer, {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 96, "sliding_window": 8}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", gpt2_tokenizer, {}),
    "granite4": ("GraniteMoeHybridForCausalLM", gpt2_tokenizer, {"attention_multiplier": 0.25, "embedding_multiplier": 12.0, "logits_scaling": 2.0}),
    "granite4 without positions": ("GraniteMoeHybridForCausalLM", gpt2_tokenizer, {"position_embedding_type": "nope", "tie_word_embeddings": True}),
    "ministral3": ("Ministral3ForCausalLM", pieces, {"rope_parameters": {
        **YARN, "original_max_position_embeddings": 8, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}, "sliding_window": None}),
    "llama4": ("Llama4ForCausalLM", gpt2_tokenizer, {"num_hidden_layers": 5, "interleave_moe_layer_step": 2, "num_experts_per_tok": 2}),
    "glm4_moe": ("Glm4MoeForCausalLM", glm45_tokenizer, {"pad_token_id": 0, "use_qk_norm": True, "attention_bias": True, "routed_scaling_factor": 2.5}),
    "glm4_moe, no groups": ("Glm4MoeForCausalLM", glm45_tokenizer, {
        "pad_token_id": 0, "n_group": 1, "topk_group": 1, "n_routed_experts": 5, "num_hidden_layers": 3, "first_k_dense_replace": 2, "norm_topk_prob": False,
        "tie_word_embeddings": True}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", gpt2_tokenizer, {"pad_token_id": 0}),
    "deepseek_v3, yarn": ("DeepseekV3ForCausalLM", gpt2_tokenizer, {
        "pad_token_id": 0, "q_lora_rank": None, "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}, "first_k_dense_replace": 0}),
    "deepseek_v2": ("DeepseekV2ForCausalLM", gpt2_tokenizer, {"pad_token_id": 0, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "deepseek_v2, lite": ("DeepseekV2ForCausalLM", gpt2_tokenizer, {
        "pad_token_id": 0, "topk_method": "greedy", "n_group": None, "topk_group": None, "q_lora_rank": None, "num_hidden_layers": 27, "n_routed_experts": 4,
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "gpt2": ("GPT2LMHeadModel", gpt2_tokenizer, {"n_ctx": 64}),
    "bert": ("BertModel", bert_tokenizer, {"num_labels": 2}),
    "bert with its head of tokens": ("BertForMaskedLM", bert_tokenizer, {"num_labels": 2}),
    "distilbert": ("DistilBertModel", bert_tokenizer, {"num_labels": 2}),
    "modernbert": ("ModernBertModel", gpt2_tokenizer, {"num_hidden_layers": 4, "local_attention": 8}),
    "roberta": ("RobertaModel", roberta_tokenizer, {"num_labels": 2}),
    "roberta classifier": ("RobertaForSequenceClassification", roberta_tokenizer, {"id2label": {0: "no", 1: "maybe", 2: "yes"}}),
    "xlm-roberta": ("XLMRobertaModel", xlm_tokenizer, {"num_labels": 2}),
}
# Keys in which a file is not the converter's, docs/gguf.md.
OWN = {"deepseek_v3": ("expert_gating_func",), "deepseek_v3, yarn": ("expert_gating_func", "q_lora_rank"), "phi": ("feed_forward_length", "head_count_kv"), "falcon": ("context_length", "feed_forward_length"), "modernbert": ("layer_norm_epsilon",),
       "granite4 without positions": ("rope.scaling.finetuned",),
       "glm": ("context_length", "layer_norm_rms_epsilon", "freq_base", "dimension_count")}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def save(folder, name, tokenizer, changes, dtype=torch.float32):
    folder.mkdir()
    model_class = getattr(transformers, name)
    vocabulary = tokenizer(folder)
    config = small_config(model_class.config_class.model_type, **{"vocab_size": vocabulary, **changes})
    make(model_class, config, dtype).save_pretrained(folder)
    if config.model_type == "granitemoehybrid":
        # As published: the converter takes the kinds that transformers writes for Mamba, and looks at another key for the width of the MLP.
        edit_config(folder, layer_types=["attention"] * config.num_hidden_layers, intermediate_size=config.shared_intermediate_size)


def by_llama_cpp(folder, out, kind, *options):
    """What llama.cpp's converter makes of a folder."""
    if not converter.IS_HERE:
        pytest.skip("llama.cpp's converter was not downloaded")
    # transformers gives a model of this type Qwen's own pre-tokenizer, whatever its tokenizer.json says.
    is_qwen2 = json.loads((folder / "config.json").read_text())["model_type"] == "qwen2"
    return converter.convert(folder, out, kind, *options, pre="gpt-2" if is_qwen2 else None)


def some(*quick):
    """Every case; all but these only where time does not matter."""
    slow = pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="NIBBLE_SLOW")
    return [pytest.param(case, marks=() if case in quick else slow) for case in CASES]


@pytest.mark.parametrize("case", some(
    "llama, llama3's positions", "llama, yarn", "mistral", "gemma2", "granite", "mixtral", "bert with its head of tokens", "roberta"))
def test_the_file_is_that_of_llama_cpps_converter(nibble, work, case):
    name, tokenizer, changes = CASES[case]
    save(work / "m", name, tokenizer, changes)
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    near = ("rope_freqs.weight",) if changes.get("rope_parameters") is LLAMA3 else ()
    theirs = by_llama_cpp(work / "m", work / "theirs.gguf", "f32")
    own = [key[0] for path in (work / "ours.gguf", theirs) for key in contents(path)[0] if key[0].endswith(OWN.get(case, ("-",)))]
    assert_same_file(work / "ours.gguf", theirs, near, ignoring=own)


@pytest.mark.parametrize("stored, kind, case", [
    ("f32", "f16", "llama"), ("f32", "q8_0", "llama"), ("bf16", "bf16", "gemma2"), ("f16", "f32", "mistral"), ("bf16", "q8_0", "gpt2"),
    ("bf16", "auto", "gemma2"), ("f32", "auto", "llama"),
])
def test_types_are_those_of_the_converter(nibble, work, stored, kind, case):
    name, tokenizer, changes = CASES[case]
    save(work / "m", name, tokenizer, changes, DTYPES[stored])
    nibble("convert", work / "m", "-o", work / "ours.gguf", "--gguf-type", kind)
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", kind))


def test_several_files_are_those_of_the_converter(nibble, work):
    save(work / "m", *CASES["llama"])
    nibble("convert", work / "m", "-o", work / "ours", "--format", "gguf", "--max-shard-size", "60KB")
    by_llama_cpp(work / "m", work / "model.gguf", "f32", "--split-max-size", "60K")
    theirs = sorted(work.glob("model-*.gguf"))
    assert len(theirs) > 2 and sorted(path.name for path in (work / "ours").iterdir()) == [path.name for path in theirs]
    for path in theirs:
        assert_same_file(work / "ours" / path.name, path)


CARDS = {
    "a published card": """---
license: apache-2.0
language:
- en
- no
pipeline_tag: text-generation
tags:
- chat
base_model: Some-Org/Base-v1.5-7B
datasets:
- some-org/some-set
- https://huggingface.co/datasets/other
---
# A model
""",
    "a merge": """---
base_model:
- https://huggingface.co/Org/Left-Model
- https://example.org/right
- name: A third
  organization: Somebody
  version: v2
license: other
license_name: its-own
license_link: LICENSE
tags: [merge, "a: b"]
---
""",
    "a card of llama.cpp's own keys": """---
model_name: My Model
model_creator: Somebody
model_type: llama
version: v3
description: >
  Two lines
  of text.
url: https://example.org
size_label: 7B
license: [mit, apache-2.0]
---
""",
    "no head": "# A model\n\n---\nlicense: mit\n---\n",
    "an empty head": "---\n---\ntext\n",
    "tabs, and no end": "---\nlicense: mit\nbase_model:\n\t- a/b\n",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_model_card_is_read_as_the_converter_reads_it(nibble, work, card):
    save(work / "m", *CASES["llama"])
    (work / "m" / "README.md").write_text(CARDS[card])
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", "f32"))


def test_what_a_file_says_of_its_model_goes_on_into_the_next(nibble, work):
    save(work / "m", *CASES["llama"])
    (work / "m" / "README.md").write_text(CARDS["a merge"])
    nibble("convert", work / "m", "-o", work / "one.gguf")
    nibble("convert", work / "one.gguf", "-o", work / "two.gguf", "--gguf-type", "q8_0")
    one, two = ({key[0]: key[1:] for key in contents(work / name)[0] if key[0].startswith("general.")} for name in ("one.gguf", "two.gguf"))
    assert "general.base_model.2.organization" in one and one | {"general.file_type": 0} == two | {"general.file_type": 0}


@pytest.mark.parametrize("card, said", [
    ("license: [mit\n", "line 3: no YAML"), ("license: &a mit\ntags: *a\n", "line 3: an alias"), ("a: 1\na: 2\n", "line 3: key 'a' twice")])
def test_a_model_card_that_is_no_yaml_is_left_out(nibble, work, card, said):
    save(work / "m", *CASES["llama"])
    (work / "m" / "README.md").write_text(f"---\n{card}---\n")
    warned = nibble("convert", work / "m", "-o", work / "ours.gguf").stderr
    assert "licence, languages and origin are left out" in warned and "README.md: " + said in warned
    assert not [key for key in contents(work / "ours.gguf")[0] if key[0] == "general.license"]


def llama_cpp():
    """The binding of llama.cpp, where it is installed."""
    # Only its cache on disk needs this.
    sys.modules.setdefault("diskcache", types.ModuleType("diskcache"))
    return pytest.importorskip("llama_cpp")


def llama_cpp_logits(path, ids):
    """What llama.cpp computes for a row of ids, keys and values in float32."""
    model = llama_cpp().Llama(
        str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False)
    model.eval(ids.tolist())
    return torch.tensor(numpy.array(model.scores[: len(ids)]))


def llama_cpp_states(path, ids, pooling):
    """States of an encoder, a row a token, or one row of its head."""
    binding = llama_cpp()
    model = binding.Llama(str(path), n_ctx=64, embedding=True, verbose=False, n_threads=1, pooling_type=pooling)
    model._batch.reset()
    model._batch.add_sequence(ids.tolist(), 0, True)
    model._ctx.decode(model._batch)
    width = binding.llama_model_n_embd(model._model.model)
    if pooling:
        count = binding.llama_model_n_cls_out(model._model.model)
        return torch.tensor(binding.llama_get_embeddings_seq(model._ctx.ctx, 0)[:count])
    rows = [binding.llama_get_embeddings_ith(model._ctx.ctx, row)[:width] for row in range(len(ids))]
    return torch.tensor(rows)


def written(nibble, work, case, *options):
    name, tokenizer, changes = CASES[case]
    save(work / "m", name, tokenizer, changes)
    nibble("convert", work / "m", "-o", work / "ours.gguf", *options)
    return as_float32(getattr(transformers, name), work / "m")


@pytest.mark.parametrize("case", [
    case for case in some("llama, llama3's positions", "gemma2", "gpt2") if not case.values[0].startswith(("bert", "roberta", "xlm", "distilbert", "modernbert"))])
def test_llama_cpp_computes_the_models_logits(nibble, work, case):
    llama_cpp()
    model = written(nibble, work, case)
    ids = random_ids(model, batch=1, length=20, low=300)[0]
    theirs = expected(model, input_ids=ids[None])["logits"][0]
    ours = llama_cpp_logits(work / "ours.gguf", ids)
    assert float((ours - theirs).abs().max()) < 1e-3 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("case", [case for case in some("bert") if case.values[0] in ("bert", "roberta", "distilbert", "modernbert")])
def test_llama_cpp_computes_an_encoders_states(nibble, work, case):
    llama_cpp()
    model = written(nibble, work, case)
    ids = random_ids(model, batch=1, length=20, low=300)[0]
    theirs = model(input_ids=ids[None]).last_hidden_state[0].detach()
    assert float((llama_cpp_states(work / "ours.gguf", ids, 0) - theirs).abs().max()) < 5e-3


@pytest.mark.parametrize("name, tokenizer", [
    ("BertForSequenceClassification", bert_tokenizer), ("RobertaForSequenceClassification", roberta_tokenizer)])
def test_llama_cpp_computes_a_classifiers_scores(nibble, work, name, tokenizer):
    """BERT's pooler too, which llama.cpp's converter leaves out."""
    llama_cpp()
    save(work / "m", name, tokenizer, {"id2label": {0: "no", 1: "maybe", 2: "yes"}})
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    model = as_float32(getattr(transformers, name), work / "m")
    ids = random_ids(model, batch=1, length=12, low=300)[0]
    theirs = model(input_ids=ids[None]).logits[0].detach()
    assert float((llama_cpp_states(work / "ours.gguf", ids, 4) - theirs).abs().max()) < 5e-3


def test_llama_cpp_tells_the_bundled_story(nibble, work, stories):
    """The same text, and the same tokens of the prompt."""
    nibble("convert", stories, "-o", work / "s.gguf")
    prompt = "Once upon a time"
    model = llama_cpp().Llama(str(work / "s.gguf"), n_ctx=64, verbose=False, n_threads=1)
    ours = nibble("generate", "--base", stories, "--prompt", prompt, "--max-new-tokens", 20, "--temperature", 0, "--json")
    assert model(prompt, max_tokens=20, temperature=0)["choices"][0]["text"] == json.loads(ours.stdout)["text"]


real = pytest.mark.skipif(
    not os.environ.get("NIBBLE_SLOW") or not os.environ.get("NIBBLE_SMOLLM2"), reason="NIBBLE_SLOW and NIBBLE_SMOLLM2, a folder")


@real
@pytest.mark.parametrize("kind", ["bf16", "q8_0"])
def test_a_real_model_is_that_of_llama_cpp(nibble, work, kind):
    folder = os.environ["NIBBLE_SMOLLM2"]
    nibble("convert", folder, "-o", work / "ours.gguf", "--gguf-type", kind)
    assert_same_file(work / "ours.gguf", by_llama_cpp(pathlib.Path(folder), work / "theirs.gguf", kind))


@real
@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
def test_llama_cpp_says_what_a_real_model_says(nibble, work, kind):
    """nibble runs its own GGUF file, too."""
    folder, prompt = os.environ["NIBBLE_SMOLLM2"], "The capital of France is"
    nibble("convert", folder, "-o", work / "s.gguf", "--gguf-type", kind)
    model = llama_cpp().Llama(str(work / "s.gguf"), n_ctx=64, verbose=False, n_threads=2, type_k=0, type_v=0, flash_attn=False)
    ours = nibble("generate", "--base", work / "s.gguf", "--prompt", prompt, "--max-new-tokens", 16, "--temperature", 0, "--json")
    assert model(prompt, max_tokens=16, temperature=0)["choices"][0]["text"] == json.loads(ours.stdout)["text"]


def test_packed_models_are_not_rounded_twice(nibble, work, stories):
    nibble("quantize", stories, "-o", work / "m.nbl")
    said = nibble("convert", work / "m.nbl", "-o", work / "m.gguf", "--gguf-type", "q4_0", exits=2).stderr
    assert "30 tensors are nf4 already" in said and "--allow-requantize goes on" in said and not (work / "m.gguf").exists()
    nibble("convert", work / "m.nbl", "-o", work / "m.gguf", "--gguf-type", "f32")
    nibble("dequantize", work / "m.nbl", "-o", work / "plain", "--dtype", "fp32")
    nibble("convert", work / "plain", "-o", work / "plain.gguf")
    assert contents(work / "m.gguf")[1] == contents(work / "plain.gguf")[1]


def test_groups_of_whole_numbers_move_into_blocks(nibble, work, stories):
    nibble("quantize", stories, "-o", work / "m.nbl", "--codec", "int4", "--group-size", 32, "--symmetric", "--keep", "down_proj")
    nibble("convert", work / "m.nbl", "-o", work / "m.gguf", "--gguf-type", "q4_0")
    nibble("dequantize", work / "m.nbl", "-o", work / "plain", "--dtype", "fp32")
    nibble("convert", work / "plain", "-o", work / "plain.gguf", "--gguf-type", "f32")
    values = {tensor.name: tensor.data for tensor in gguf.GGUFReader(work / "plain.gguf").tensors}
    blocks = [tensor for tensor in gguf.GGUFReader(work / "m.gguf").tensors if tensor.name.startswith("blk.") and tensor.tensor_type.name == "Q4_0"]
    assert len(blocks) == 30
    for tensor in blocks:
        assert numpy.array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), values[tensor.name])


def test_a_merged_adapter_is_in_the_file(nibble, work, stories):
    """The file of a merge is that of the merged model."""
    adapter = ROOT / "Tests" / "Fixtures" / "shakespeare" / "adapter"
    nibble("merge", "--base", stories, "--adapter", adapter, "-o", work / "m.gguf", "--any-base")
    nibble("merge", "--base", stories, "--adapter", adapter, "-o", work / "s", "--any-base", "--format", "safetensors")
    nibble("convert", work / "s", "-o", work / "m2.gguf")
    assert contents(work / "m.gguf")[1] == contents(work / "m2.gguf")[1]
