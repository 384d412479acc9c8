"""GGUF files that llama.cpp's own converter and gguf-py wrote, read by nibble: the logits of transformers on the model they were made
from, the token ids and conversations of its tokenizer, and one clear line for files that are wrong."""
import json
import os
import pathlib
import struct

import numpy
import pytest
import torch
import transformers
import converter
from conftest import ROOT
from converter import gguf
from running import assert_same, expected, forward, padded, random_ids, save_random
from small_tokenizers import small_tokenizer
from unicode_texts import texts

FIXTURES = ROOT / "Tests" / "Fixtures" / "tokenizers"
pytestmark = pytest.mark.skipif(not converter.IS_HERE, reason="llama.cpp's converter was not downloaded")


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
FAMILIES = {
    "llama": ("LlamaForCausalLM", "llama", "llama", {}),
    "llama, tied, one key, biases": (
        "LlamaForCausalLM", "llama", "llama", {"tie_word_embeddings": True, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama, its own scaling, wide heads": (
        "LlamaForCausalLM", "llama", "smollm", {"head_dim": 32, "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}),
    "llama, yarn": ("LlamaForCausalLM", "llama", "llama", {"rope_parameters": {**YARN, "rope_theta": 10000.0}}),
    "mistral": ("MistralForCausalLM", "mistral", "llama", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", "qwen2", {}),
    "gpt2": ("GPT2LMHeadModel", "gpt2", "gpt2", {}),
    "bert": ("BertModel", "bert", "bert", {}),
    "roberta": ("RobertaModel", "roberta", "roberta", {}),
    # Rows of whole blocks of every type.
    "wide": ("LlamaForCausalLM", "llama", "llama", {
        "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}),
}
QUICK = ["llama, its own scaling, wide heads", "qwen2", "gpt2", "bert", "roberta"]
NAMES = list(FAMILIES) if os.environ.get("NIBBLE_SLOW") else QUICK


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By name: a drawn model of a family, its tokenizer, and the file that llama.cpp's converter writes of both."""
    torch.manual_seed(20261130)
    made = {}
    for name in dict.fromkeys([*NAMES, "wide"]):
        class_name, model_type, kind, changes = FAMILIES[name]
        folder = tmp_path_factory.mktemp("model") / "model"
        model = save_random(getattr(transformers, class_name), model_type, folder, vocab_size=304, **changes)
        tokenizer, rule = small_tokenizer(kind)
        tokenizer.save_pretrained(folder)
        if model_type == "gpt2":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "n_ctx": config["n_positions"]}))
        made[name] = model, tokenizer, folder.parent / "model.gguf"
        converter.convert(folder, made[name][2], pre=rule)
        if name == "wide":
            converter.convert(folder, folder.parent / "part.gguf", "f32", "--split-max-tensors", "9", pre=rule)
    return made


def ask(model):
    ids, mask = padded(random_ids(model, 2, 20), model, [20, 13])
    return {"input_ids": ids, "attention_mask": mask}


def ids_of(nibble, path, work, rows):
    """Token ids with special ones, and what they read as."""
    (work / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows) + "\n")
    lines = nibble("tokenize", "--tokenizer", path, "--file", work / "rows.jsonl").stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_models_of_the_converter_say_what_the_original_says(nibble, work, models, name):
    model, tokenizer, path = models[name]
    question = ask(model)
    assert_same(forward(nibble, path, work, **question), expected(model, **question), question["attention_mask"], tolerance=1e-4)
    # The tokenizer is the same one.
    rows = texts(60, 5, ["<|im_start|>", "<|im_end|>", "<mask>", "[MASK]"])
    for text, row in zip(rows, ids_of(nibble, path, work, rows), strict=True):
        assert row["ids_with_special"] == tokenizer(text)["input_ids"], text
    # What comes out again is the model.
    nibble("verify", path)
    nibble("convert", path, "-o", work / "again", "--format", "safetensors")
    again = getattr(transformers, FAMILIES[name][0]).from_pretrained(work / "again", dtype=torch.float32, attn_implementation="eager").eval()
    assert_same(expected(again, **question), expected(model, **question), question["attention_mask"], tolerance=1e-5)


def test_conversations_read_as_the_original_template_writes_them(nibble, work, models):
    _, tokenizer, path = models["wide"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, 1234!"}]
    (work / "messages.json").write_text(json.dumps(messages))
    found = nibble.json("tokenize", "--tokenizer", path, "--messages", work / "messages.json", "--add-generation-prompt")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert found["text"] == text
    assert found["ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]


BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4"]


def with_blocks(source, out, name):
    """The same file with matrices in blocks, and what they decode to: gguf-py's quantizers and decoders."""
    kind = gguf.GGMLQuantizationType[name]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value, types = field.contents(), field.types
        if types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, types[0])
    decoded = {}
    for tensor in reader.tensors:
        data = numpy.array(tensor.data)
        if data.ndim == 2 and data.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            blocks = gguf.quants.quantize(data, kind)
            decoded[tensor.name] = gguf.quants.dequantize(blocks, kind)
            writer.add_tensor(tensor.name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return decoded


def written(name):
    """Whether gguf-py writes blocks of this type itself."""
    try:
        gguf.quants.quantize(numpy.zeros((1, 256), numpy.float32), gguf.GGMLQuantizationType[name])
        return True
    except NotImplementedError:
        return False


def by_nibble(nibble, source, out, name):
    """The same where gguf-py has no quantizer: nibble's blocks, and what gguf-py decodes them to."""
    nibble("convert", source, "-o", out, "--gguf-type", name.lower(), "--gguf-pre", "llama-bpe")
    kind = gguf.GGMLQuantizationType[name]
    return {tensor.name: gguf.quants.dequantize(numpy.array(tensor.data), kind)
            for tensor in gguf.GGUFReader(out).tensors if tensor.tensor_type == kind}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_what_gguf_py_decodes(nibble, work, models, name):
    model, _, path = models["wide"]
    decoded = with_blocks(path, work / "blocks.gguf", name) if written(name) else by_nibble(nibble, path, work / "blocks.gguf", name)
    assert len(decoded) >= 8
    # The original with the decoded numbers, put through the converter's names the other way.
    nibble("dequantize", work / "blocks.gguf", "-o", work / "plain")
    other = transformers.LlamaForCausalLM.from_pretrained(work / "plain", dtype=torch.float32, attn_implementation="eager").eval()
    heads = {"attn_q": 4, "attn_k": 2}
    for ours, theirs in (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("mlp.down_proj", "ffn_down")):
        rows = decoded[f"blk.0.{theirs}.weight"]
        if count := heads.get(theirs):
            rows = rows.reshape(count, rows.shape[0] // count // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
        assert numpy.array_equal(other.state_dict()[f"model.layers.0.{ours}.weight"].numpy(), rows), ours
    question = ask(model)
    assert_same(forward(nibble, work / "blocks.gguf", work, **question), expected(other, **question), question["attention_mask"], tolerance=1e-4)


def test_every_verb_takes_a_file_with_blocks(nibble, work, models):
    model, tokenizer, path = models["wide"]
    with_blocks(path, work / "q.gguf", "Q8_0")
    base = work / "q.gguf"
    found = nibble.json("inspect", base)
    assert found["container"] == "gguf" and found["model_type"] == "llama" and found["packed_count"] >= 8
    assert nibble.json("diff", base, path)["changed"]
    nibble("evaluate", "--base", base, "--task", "perplexity", "--data", texts_file(work))
    text = nibble.json("generate", "--base", base, "--prompt", "Once upon", "--max-new-tokens", "4", "--temperature", "0")
    assert text["new_tokens"] <= 4
    done = nibble("quantize", base, "-o", work / "q.nbl")
    assert "quantized already" in done.stderr
    nibble("verify", work / "q.nbl")
    (work / "train.jsonl").write_text("\n".join(json.dumps({"text": "Once upon a time there was a world."}) for _ in range(4)) + "\n")
    nibble("finetune", "--base", base, "--data", work / "train.jsonl", "-o", work / "adapter", "--max-steps", "2", "--lora-r", "2", "--learning-rate", "0.05")
    nibble("generate", "--base", base, "--adapter", work / "adapter", "--prompt", "Once", "--max-new-tokens", "2")
    nibble("merge", "--base", base, "--adapter", work / "adapter", "-o", work / "merged", "--format", "safetensors")
    merged = transformers.LlamaForCausalLM.from_pretrained(work / "merged", dtype=torch.float32)
    assert transformers.AutoTokenizer.from_pretrained(work / "merged")("Once")["input_ids"] == tokenizer("Once")["input_ids"]
    question = ask(model)
    # nibble's adapter on the base is the merged model.
    ours = forward(nibble, base, work, "--adapter", work / "adapter", **question)
    assert_same(ours, expected(merged, **question), question["attention_mask"], tolerance=1e-4)


def test_blocks_stay_blocks_from_file_to_file(nibble, work, models):
    path = models["wide"][2]
    with_blocks(path, work / "q.gguf", "Q8_0")
    nibble("convert", work / "q.gguf", "-o", work / "again.gguf", "--gguf-pre", "llama-bpe")
    assert nibble("hash", work / "again.gguf").stdout.split()[0] == nibble("hash", work / "q.gguf").stdout.split()[0]
    ours, theirs = (
        {tensor.name: (tensor.tensor_type, bytes(tensor.data)) for tensor in gguf.GGUFReader(work / name).tensors} for name in ("again.gguf", "q.gguf"))
    assert ours == theirs


def texts_file(work):
    path = work / "text.txt"
    path.write_text("Once upon a time there was a little world. " * 20)
    return path


def test_parts_are_one_model(nibble, models):
    path = models["wide"][2]
    (first,) = path.parent.glob("part-00001-of-*.gguf")
    assert nibble("hash", first).stdout.split()[0] == nibble("hash", path).stdout.split()[0]


# What runs the model, or makes its tokens, refuses: a key, and what it becomes.
LIES = {
    "a layer that is not there": ("llama.block_count", "u32", 3, ["forward"], "layers.2"),
    "a layer too few": ("llama.block_count", "u32", 1, ["forward"], "layers.1"),
    "another width": ("llama.embedding_length", "u32", 128, ["forward"], "shape"),
    "other heads": ("llama.attention.head_count", "u32", 8, ["forward"], "shape"),
    "no context": ("llama.context_length", "u32", 0, ["forward"], "context_length"),
    "a template that cannot be parsed": ("tokenizer.chat_template", "text", "{% for %}", ["tokenize"], "tokenizer_config.json"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_one_line(nibble, work, models, lie):
    _, _, path = models["wide"]
    key, kind, value, (verb,), words = LIES[lie]
    data = bytearray(path.read_bytes())
    name = struct.pack("<Q", len(key)) + key.encode()
    at = data.index(name) + len(name) + 4
    if kind == "u32":
        data[at:at + 4] = struct.pack("<I", value)
    else:
        (length,) = struct.unpack_from("<Q", data, at)
        assert len(value) <= length
        data[at + 8:at + 8 + length] = value.encode().ljust(length)
    (work / "lie.gguf").write_bytes(data)
    if verb == "forward":
        from safetensors.torch import save_file
        save_file({"input_ids": torch.arange(3, 9).reshape(1, 6)}, work / "ask.safetensors")
        words_of = ["forward", "--base", work / "lie.gguf", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors"]
    else:
        (work / "messages.json").write_text('[{"role": "user", "content": "a"}]')
        words_of = ["tokenize", "--tokenizer", work / "lie.gguf", "--messages", work / "messages.json"]
    done = nibble(*words_of, exits=3)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("nibble: error:") and words in lines[0], lines
    assert not (work / "said.safetensors").exists()


@pytest.mark.skipif(not os.environ.get("NIBBLE_EXTRA_TOKENIZERS"), reason="needs NIBBLE_EXTRA_TOKENIZERS with llama2")
def test_the_vocabulary_of_llama_2_is_that_of_sentencepiece(nibble, work):
    import sentencepiece
    extra = pathlib.Path(os.environ["NIBBLE_EXTRA_TOKENIZERS"])
    path = extra.parent / "gguf" / "ggml-vocab-llama-spm.gguf"
    model = sentencepiece.SentencePieceProcessor(str(extra / "llama2" / "tokenizer.model"))
    rows = [text for text in texts(300, 11) if "<s>" not in text and "</s>" not in text and "<unk>" not in text]
    for text, row in zip(rows, ids_of(nibble, path, work, rows), strict=True):
        assert row["ids"] == model.encode(text), text


@pytest.mark.skipif(
    not os.environ.get("NIBBLE_SLOW") or not os.environ.get("NIBBLE_SMOLLM2"), reason="NIBBLE_SLOW and NIBBLE_SMOLLM2, a folder")
def test_smollm2_goes_there_and_back(nibble, work):
    folder = os.environ["NIBBLE_SMOLLM2"]
    path = work / "smollm2.gguf"
    converter.convert(pathlib.Path(folder), path, "bf16")
    asked = ["--prompt", "The capital of France is", "--max-new-tokens", "24", "--temperature", "0"]
    assert nibble.json("generate", "--base", path, *asked)["ids"] == nibble.json("generate", "--base", folder, *asked)["ids"]
    nibble("convert", path, "-o", work / "back", "--format", "safetensors")
    assert nibble.json("generate", "--base", work / "back", *asked)["text"] == nibble.json("generate", "--base", folder, *asked)["text"]
