"""T5 and mT5 as GGUF: files are the converter's, come back as the model that they were made of with its tokenizer, and llama.cpp computes the
model's logits of them."""
import json
import pathlib

import numpy
import pytest
import sentencepiece
import torch
import transformers
from conftest import ROOT
from converter import assert_same_file, contents, gguf
from models import make
from running import as_float32, edit_config, expected, forward
from safetensors.torch import load_file, save_file
from test_gguf_experts import changed
from test_gguf_out import by_llama_cpp, llama_cpp
from unicode_texts import texts

CLASSES = {"t5": transformers.T5ForConditionalGeneration, "mt5": transformers.MT5ForConditionalGeneration}
SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
# The converter has no decoder of more layers than the encoder has. The first models: a head that is the embedding, before which states are divided. Then those of today.
KINDS = {
    "t5, the first": ("t5", {"feed_forward_proj": "relu", "tie_word_embeddings": True}),
    "t5": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 16}),
    "mt5": ("mt5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 3, "d_kv": 8}),
}


def pieces(folder):
    """A unigram model whose texts end with </s>."""
    sentencepiece.SentencePieceTrainer.train(
        input=str(ROOT / "Tests" / "Fixtures" / "stories.txt"), model_prefix=str(folder / "spiece"), vocab_size=300, model_type="unigram", hard_vocab_limit=False,
        minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>")
    (folder / "spiece.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}))
    return sentencepiece.SentencePieceProcessor(str(folder / "spiece.model")).vocab_size()


def save(folder, kind, **changes):
    name, own = KINDS[kind]
    folder.mkdir()
    count = pieces(folder)
    config = transformers.AutoConfig.for_model(name, **{**SMALL, **own, "vocab_size": count + 5, **changes})
    model = make(CLASSES[name], config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "relative_attention_bias" in path:
                parameter.copy_(torch.randn(parameter.shape))
        if not own["tie_word_embeddings"]:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape) * 0.1)
    model.save_pretrained(folder)
    edit_config(folder, tie_word_embeddings=own["tie_word_embeddings"], scale_decoder_outputs=None)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return as_float32(CLASSES[name], folder)


def asked(model):
    source = torch.randint(3, 250, (1, 14))
    target = torch.cat([torch.zeros(1, 1, dtype=torch.long), torch.randint(3, 250, (1, 8))], 1)
    return source, target, model(input_ids=source, decoder_input_ids=target).logits[0].detach()


def ours(nibble, work, path, source, target):
    """The logits of the written text."""
    save_file({"input_ids": source, "decoder_input_ids": target}, work / "ask.safetensors")
    nibble("forward", "--base", path, "--ids", work / "ask.safetensors", "-o", work / "said.safetensors")
    return load_file(work / "said.safetensors")["logits"][0]


def by_llama(path, source, target):
    """llama.cpp's logits of the written text, after it has read the other."""
    binding = llama_cpp()
    model = binding.Llama(str(path), n_ctx=64, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False)
    context = model._ctx.ctx

    def batch(ids):
        one = binding.llama_batch_init(len(ids), 0, 1)
        one.n_tokens = len(ids)
        for place, token in enumerate(ids):
            one.token[place], one.pos[place], one.n_seq_id[place], one.logits[place] = token, place, 1, 1
            one.seq_id[place][0] = 0
        return one

    assert binding.llama_encode(context, batch(source[0].tolist())) == 0
    assert binding.llama_decode(context, batch(target[0].tolist())) == 0
    count = binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model._model.model))
    return torch.tensor(numpy.array([[binding.llama_get_logits_ith(context, row)[token] for token in range(count)] for row in range(target.shape[1])]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_that_of_llama_cpps_converter(nibble, work, kind):
    model = save(work / "m", kind)
    said = nibble("convert", work / "m", "-o", work / "ours.gguf").stderr
    assert ("divide states" in said) == (kind == "t5, the first")
    theirs = by_llama_cpp(work / "m", work / "theirs.gguf", "f32")
    assert_same_file(work / "ours.gguf", theirs)
    identity = nibble("hash", work / "m").stdout.split()[0]
    assert nibble("hash", theirs).stdout.split()[0] == identity
    nibble("verify", theirs)
    source, target, logits = asked(model)
    assert float((ours(nibble, work, theirs, source, target) - logits).abs().max()) < 1e-4 * max(1, float(logits.abs().max()))
    nibble("convert", theirs, "-o", work / "back", "--format", "safetensors")
    assert nibble("hash", work / "back").stdout.split()[0] == identity
    nibble("convert", work / "back", "-o", work / "again.gguf")
    assert contents(work / "again.gguf")[1] == contents(theirs)[1]
    again = as_float32(transformers.T5ForConditionalGeneration, work / "back")
    assert torch.allclose(again(input_ids=source, decoder_input_ids=target).logits[0], logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_the_models_logits(nibble, work, kind):
    llama_cpp()
    model = save(work / "m", kind)
    nibble("convert", work / "m", "-o", work / "ours.gguf")
    source, target, logits = asked(model)
    # llama.cpp does not divide states before the head.
    scale = model.config.d_model ** 0.5 if kind == "t5, the first" else 1
    difference = (by_llama(work / "ours.gguf", source, target) / scale - logits).abs().max()
    assert float(difference) < 1e-3 * max(1, float(logits.abs().max()))


def test_the_tokenizer_comes_back(nibble, work):
    save(work / "m", "t5")
    nibble("convert", work / "m", "-o", work / "m.gguf")
    rows = [text for text in texts(60, 5) if "<" not in text]
    (work / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows) + "\n")
    ids = [[json.loads(line)["ids_with_special"] for line in nibble("tokenize", "--tokenizer", path, "--file", work / "rows.jsonl").stdout.splitlines()]
           for path in (work / "m.gguf", work / "m")]
    assert len(ids[0]) == len(rows) and ids[0] == ids[1]


@pytest.mark.parametrize("mix", ["f16", "q8_0", "q4_k_m", "q3_k_m"])
def test_blocks_are_those_of_llama_cpps_own_quantize(nibble, work, mix):
    from test_gguf_experts import quantized_by_llama_cpp
    llama_cpp()
    save(work / "m", "t5", d_model=256, d_kv=64, d_ff=512, num_layers=3, num_decoder_layers=5)
    nibble("convert", work / "m", "-o", work / "f32.gguf", "--gguf-type", "f32")
    nibble("quantize", work / "m", "-o", work / "ours.gguf", "--gguf-type", mix)
    theirs = quantized_by_llama_cpp(work / "f32.gguf", work / "theirs.gguf", mix)
    one, two = ({tensor[0]: tensor[1:] for tensor in contents(path)[1]} for path in (work / "ours.gguf", theirs))
    assert {name: tensor[0] for name, tensor in one.items()} == {name: tensor[0] for name, tensor in two.items()}
    assert [name for name in one if one[name] != two[name]] == []
    assert nibble("hash", work / "ours.gguf").stdout.split()[0] == nibble("hash", theirs).stdout.split()[0]


REFUSED = [
    ({"feed_forward_proj": "gated-silu"}, 2, "feed_forward_proj"), ({"feed_forward_proj": "gelu"}, 2, "feed_forward_proj"), ({"dense_act_fn": "silu"}, 2, "dense_act_fn"),
    ({"relative_attention_max_distance": 64}, 2, "relative_attention_max_distance"), ({"scale_decoder_outputs": True}, 2, "scale_decoder_outputs"),
    ({"num_layers": 3}, 2, "layer 2 are missing"), ({"num_decoder_layers": 1}, 2, "tensors of 2"), ({"decoder_start_token_id": None}, 3, "decoder_start_token_id"),
    ({"num_layers": 4000000000}, 2, "are missing"), ({"vocab_size": 299}, 3, "299 tokens"),
]


def test_what_llama_cpp_computes_otherwise_is_refused_by_name(nibble, work):
    save(work / "m", "t5")
    original = (work / "m" / "config.json").read_text()
    for changes, code, words in REFUSED:
        edit_config(work / "m", **changes)
        done = nibble("convert", work / "m", "-o", work / "m.gguf", exits=code)
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("nibble: error:")]
        assert len(lines) == 1 and words in lines[0], (changes, done.stderr)
        assert not (work / "m.gguf").exists()
        (work / "m" / "config.json").write_text(original)


def test_files_that_lie_are_one_line(nibble, work):
    save(work / "m", "t5")
    nibble("convert", work / "m", "-o", work / "m.gguf")
    good = (work / "m.gguf").read_bytes()
    save_file({"input_ids": torch.arange(3, 9).reshape(1, 6), "decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}, work / "ask.safetensors")
    lies = [changed(good, "t5." + key, value) for key, value in (
        ("block_count", 3), ("block_count", 1), ("block_count", 0), ("block_count", 1 << 31), ("decoder_block_count", 5), ("decoder_block_count", 0),
        ("decoder_block_count", 1 << 31), ("attention.head_count", 0), ("attention.head_count", 3), ("attention.key_length", 1 << 30), ("embedding_length", 1),
        ("attention.relative_buckets_count", 1 << 31), ("attention.relative_buckets_count", 0), ("decoder_start_token_id", 1 << 31), ("feed_forward_length", 7))]
    lies += [good.replace(b"dec.blk.1.cross_attn_q", b"dec.blk.1.cross_attn_x"), good.replace(b"enc.blk.0.attn_rel_b", b"enc.blk.1.attn_rel_b"),
             good.replace(b"enc.blk.1.", b"enc.blk.x."), good.replace(b"enc.output_norm", b"dec.output_norm")]
    for number, data in enumerate(lies):
        (work / "lie.gguf").write_bytes(data)
        done = nibble("forward", "--base", work / "lie.gguf", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", exits=3)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("nibble: error:"), (number, lines)
        assert not (work / "said.safetensors").exists()
