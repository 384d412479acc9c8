"""Whole models as GGUF, compared with what llama.cpp's own converter writes: every key, every tensor, its type and its bytes."""
import contextlib
import importlib
import json
import logging
import shutil
import sys

import gguf
import pytest
import torch
import transformers
from conftest import ROOT
from models import make, small_config

LLAMA_CPP = ROOT / ".venv-interop" / "llama.cpp"
TOKENIZERS = ROOT / "Tests" / "Fixtures" / "tokenizers"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0, "beta_fast": 32.0}


def gpt2_tokenizer(folder):
    shutil.copy(TOKENIZERS / "gpt2" / "tokenizer.json", folder)
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


CASES = {
    "llama": ("LlamaForCausalLM", pieces, {}),
    "llama, llama3's positions": ("LlamaForCausalLM", pieces, {"rope_parameters": LLAMA3, "num_key_value_heads": 4, "attention_bias": True}),
    "llama of byte pairs": ("LlamaForCausalLM", gpt2_tokenizer, {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", pieces, {}),
    "qwen2": ("Qwen2ForCausalLM", gpt2_tokenizer, {}),
    "qwen2, yarn": ("Qwen2ForCausalLM", gpt2_tokenizer, {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", gpt2_tokenizer, {}),
    "gemma": ("GemmaForCausalLM", pieces, {}),
    "gemma2": ("Gemma2ForCausalLM", pieces, {}),
    "granite": ("GraniteForCausalLM", pieces, {"attention_multiplier": 0.25, "embedding_multiplier": 12.0}),
    "olmo2": ("Olmo2ForCausalLM", gpt2_tokenizer, {}),
    "smollm3": ("SmolLM3ForCausalLM", gpt2_tokenizer, {"tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", gpt2_tokenizer, {}),
    "bert": ("BertModel", bert_tokenizer, {"num_labels": 2}),
    "bert with its head of tokens": ("BertForMaskedLM", bert_tokenizer, {"num_labels": 2}),
    "roberta": ("RobertaModel", roberta_tokenizer, {"num_labels": 2}),
    "roberta classifier": ("RobertaForSequenceClassification", roberta_tokenizer, {"id2label": {0: "no", 1: "maybe", 2: "yes"}}),
    "xlm-roberta": ("XLMRobertaModel", xlm_tokenizer, {"num_labels": 2}),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def save(folder, name, tokenizer, changes, dtype=torch.float32):
    folder.mkdir()
    model_class = getattr(transformers, name)
    vocabulary = tokenizer(folder)
    config = small_config(model_class.config_class.model_type, **{"vocab_size": vocabulary, **changes})
    make(model_class, config, dtype).save_pretrained(folder)


@contextlib.contextmanager
def words(*arguments):
    before, sys.argv = sys.argv, ["convert_hf_to_gguf.py", *map(str, arguments)]
    try:
        yield
    finally:
        sys.argv = before


def by_llama_cpp(folder, out, kind, *options):
    """What llama.cpp's converter makes of a folder."""
    if not (LLAMA_CPP / "convert_hf_to_gguf.py").exists():
        pytest.skip("llama.cpp's converter was not downloaded")
    if str(LLAMA_CPP) not in sys.path:
        sys.path.insert(0, str(LLAMA_CPP))
    logging.disable(logging.CRITICAL)
    converter = importlib.import_module("convert_hf_to_gguf")
    with words(folder, "--outfile", out, "--outtype", kind, *options):
        converter.main()
    return out


def contents(path):
    """Keys with types and values, and tensors with types, shapes and bytes, in the order of the file."""
    reader = gguf.GGUFReader(path)
    keys = [(name, [kind.name for kind in field.types], field.contents())
            for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    tensors = [(tensor.name, tensor.tensor_type.name, list(tensor.shape), tensor.data.tobytes()) for tensor in reader.tensors]
    return keys, tensors


def assert_same_file(ours, theirs, near=()):
    keys, tensors = contents(ours)
    their_keys, their_tensors = contents(theirs)
    assert [key[0] for key in keys] == [key[0] for key in their_keys]
    for own, other in zip(keys, their_keys):
        assert own == other
    assert [tensor[:3] for tensor in tensors] == [tensor[:3] for tensor in their_tensors]
    for own, other in zip(tensors, their_tensors):
        if own[0] in near:
            a, b = (torch.frombuffer(bytearray(data[3]), dtype=torch.float32) for data in (own, other))
            assert torch.allclose(a, b, rtol=1e-6)
        else:
            assert own[3] == other[3], f"{own[0]} differs"
    if not near:
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_that_of_llama_cpps_converter(nibble, work, case):
    name, tokenizer, changes = CASES[case]
    save(work / "m", name, tokenizer, changes)
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    near = ("rope_freqs.weight",) if changes.get("rope_parameters") is LLAMA3 else ()
    assert_same_file(work / "ours.gguf", by_llama_cpp(work / "m", work / "theirs.gguf", "f32"), near)


@pytest.mark.parametrize("stored, kind, case", [
    ("f32", "f16", "llama"), ("f32", "q8_0", "llama"), ("bf16", "bf16", "qwen2"), ("f16", "f32", "gpt2"), ("bf16", "q8_0", "gpt2"),
    ("bf16", "auto", "gemma2"), ("f32", "auto", "bert"),
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
