"""Writes the fuzzer's first inputs and its words, from Tests/Fixtures: seeds.py FOLDER. An input is a byte that chooses, and a file."""
import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "Tests" / "Fixtures"


def whole(pattern, choice=0, largest=20_000, base=FIXTURES):
    """Files as they are, the small ones."""
    for path in sorted(base.glob(pattern)):
        if path.stat().st_size <= largest:
            yield bytes([choice]) + path.read_bytes()


def headers():
    """The texts of safetensors headers, and smaller ones with every key there is."""
    for path in sorted(FIXTURES.rglob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length <= 3000:
                yield b"\0" + file.read(length)
    for dtype, size in (("F4", 3), ("F6_E2M3", 3), ("F8_E4M3", 6), ("BOOL", 6), ("BF16", 12), ("F64", 48), ("C64", 48)):
        entry = {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, size]}
        yield b"\0" + json.dumps({"__metadata__": {"format": "pt"}, "a.weight": entry}).encode()


def tokenizers():
    yield from whole("tokenizers/small/*/tokenizer.json", 0, 13_000)
    yield from whole("stories260K/tokenizer.model", 1)
    with open(FIXTURES / "tokenizers" / "components.jsonl", encoding="utf-8") as file:
        for line in file:
            tokenizer = json.loads(line)["tokenizer"]
            tokenizer["model"] = {
                "type": "BPE", "byte_fallback": True, "unk_token": "a", "merges": [["a", "b"], "ab c"],
                "vocab": {text: id for id, text in enumerate(["a", "b", "c", "ab", "abc", "Ġ", "▁", "<0x0A>", "##b"])}}
            yield b"\0" + json.dumps(tokenizer).encode()
    vocab = {text: id for id, text in enumerate(["a", "b", "ab", "Ġ", "c", "<s>", "</s>", "Ġab"])}
    yield b"\2" + json.dumps(vocab).encode() + b"\0#version: 0.2\na b\n\xc4\xa0 ab\n"
    yield b"\3[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nhello\n##w\n!\nd\n##on\n" + b'\0{"do_lower_case": true, "strip_accents": null}'
    ranks = b"".join(b"%s %d\n" % (text, rank) for rank, text in enumerate((b"YQ==", b"Yg==", b"YWI=", b"IA==", b"SGVsbG8=")))
    yield b"\4" + ranks + b'\0{"<|begin_of_text|>": 5, "<|eot_id|>": 6}'
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "tokenizer_class": "LlamaTokenizerFast", "added_tokens_decoder": {
        "3": {"content": "<s>", "special": True, "lstrip": True, "rstrip": False, "normalized": False, "single_word": True}}}
    model = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"}}
    yield b"\5" + json.dumps(config).encode() + b"\0" + json.dumps(model).encode()


def templates():
    for name in ("conformance", "drawn"):
        with open(FIXTURES / "templates" / f"{name}.jsonl", encoding="utf-8") as file:
            yield from (b"\0" + json.loads(line)["template"].encode() for line in file)


def rows():
    found = [
        {"text": "One word, good citizens."}, {"prompt": "Hello", "completion": " world"},
        {"instruction": "Say it", "input": "this", "output": "it"}, {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"messages": [{"role": role, "content": "Hi"} for role in ("system", "user", "assistant")]}]
    text = "\n".join(map(json.dumps, found)).encode()
    for choice in (0xF8, 0xF9, 0xFA, 0xFB):
        yield bytes([choice]) + text
    for choice, row in ((0xFC, {"text": "a", "label": 2}), (0xFD, {"text": "a", "label": "yes"}), (0xFE, {"text": "a", "labels": [0, 1]})):
        yield bytes([choice]) + json.dumps(row).encode()


SEEDS = {
    "header": lambda: [*headers(), *whole("adapters/*/*.safetensors", 1, 9_000)],
    "json": lambda: [*whole("**/*config.json"), *whole("**/*.json", 1, 2_000, ROOT / "formats"), *whole("tokenizers/small/*/pair*", 2)],
    "index": lambda: [*whole("models/*/*.index.json"), *whole("models/*/config.json", 1), b"\1" + (
        b'{"model_type":"llama","tie_word_embeddings":false,"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}}')],
    "block-file": lambda: [*whole("nbl/vectors/*.nbl", 0, 9_000, ROOT / "formats"), *whole("nbl/vectors/bad*.nbl", 1, 9_000, ROOT / "formats")],
    "bitsandbytes": lambda: [*whole("golden/*.safetensors"), *whole("int8_rowwise.safetensors"), *states(), *eights()],
    "layouts": lambda: [*layouts()],
    "gguf": lambda: [*ggufs()],
    "pictures": lambda: [*pictures()],
    "adapter-config": lambda: [*whole("**/adapter_config.json"), *whole("adapters/*/*.safetensors", 1, 9_000)],
    "tokenizer": tokenizers,
    "rows": rows,
    "template": templates,
    "products": lambda: [bytes([way, rows, inputs, 0, outputs, way]) for way in range(11) for rows, inputs, outputs in (
        (0, 63, 63), (1, 127, 36), (15, 255, 79), (39, 69, 8))],
    "passes": lambda: [bytes([way]) + b"A token a byte\0and a row a part" for way in range(5)],
    "yaml": lambda: [b"\0lora_r: 8\nkeep: [q_proj, 'k_proj']\nrank_pattern: {\"a\": 4}\n# why\nbase: >\n  folded\n  text\n"],
}


def pictures():
    yield from whole("images/*.png", 0)
    yield from whole("images/*.jpg", 0)
    for config in ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 24, "crop_pct": 0.875, "resample": 3},
                   {"image_processor_type": "DeiTImageProcessor", "size": {"height": 20, "width": 24}, "crop_size": {"height": 9, "width": 9}},
                   {"image_processor_type": "ViTImageProcessorFast", "size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": 10,
                    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 0.00392, "do_normalize": True}):
        yield b"\1" + json.dumps(config).encode()
    yield b'\2{"image": "a.png", "label": 1}\n{"image": "/b.jpg", "label": "cat"}\n'
    yield b'\2[{"image": "a.png", "label": 1}]'
    yield from whole("images/*/config.json", 3)
    yield b"\3" + json.dumps({"model_type": "resnet-cifar", "hidden_sizes": [4, 8], "depths": [1, 2], "num_labels": 7, "layer_type": "basic",
                              "shortcut_type": "A", "hidden_act": "relu", "embedding_size": 4, "downsample_in_first_stage": False}).encode()


def layouts():
    """A weight of 16 outputs and 64 inputs in each layout, in the order of the target's settings."""
    codes, half = bytes(range(256)) * 2, b"\0\x38"
    index = struct.pack("<64i", *(i // 32 for i in range(64)))
    found = [
        [("m.qweight", "I32", [8, 16], codes), ("m.qzeros", "I32", [2, 2], codes[:16]), ("m.scales", "F16", [2, 16], half * 32),
         ("m.g_idx", "I32", [64], index)],
        [("m.qweight", "I32", [8, 16], codes), ("m.qzeros", "I32", [1, 2], b"\x88" * 8), ("m.scales", "F16", [1, 16], half * 16)],
        [("m.qweight", "I32", [64, 2], codes), ("m.qzeros", "I32", [2, 2], codes[:16]), ("m.scales", "F16", [2, 16], half * 32)],
        [("m.weight", "U32", [16, 8], codes), ("m.scales", "F16", [16, 2], half * 32), ("m.biases", "F16", [16, 2], half * 32)],
        [("m.weight_packed", "I32", [16, 8], codes), ("m.weight_scale", "F16", [16, 2], half * 32),
         ("m.weight_shape", "I64", [2], struct.pack("<2q", 16, 64)), ("m.weight_zero_point", "I32", [2, 2], codes[:16])],
    ]
    yield from (bytes([choice]) + safetensors(tensors) for choice, tensors in enumerate(found))


def ggufs():
    """A model of each kind of tokenizer, with tensors plain and in blocks, and an adapter."""
    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value(given):
        if isinstance(given, bool):
            return struct.pack("<IB", 7, given)
        if isinstance(given, int):
            return struct.pack("<II", 4, given)
        if isinstance(given, float):
            return struct.pack("<If", 6, given)
        if isinstance(given, str):
            return struct.pack("<I", 8) + text(given)
        if isinstance(given, bytes):
            return struct.pack("<IIQ", 9, 0, len(given)) + given
        if isinstance(given[0], str):
            return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(map(text, given))
        kind, form = (6, "f") if isinstance(given[0], float) else (5, "i")
        return struct.pack("<IIQ", 9, kind, len(given)) + struct.pack(f"<{len(given)}{form}", *given)

    def file(keys, tensors):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(text(key) + value(given) for key, given in keys.items())
        data = b""
        for name, shape, kind, length in tensors:
            head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
            data += bytes(n % 251 for n in range(length)) + bytes(-length % 32)
        return head + bytes(-len(head) % 32) + data

    sizes = {"block_count": 1, "context_length": 8, "embedding_length": 32, "feed_forward_length": 32, "attention.head_count": 2}
    for architecture, model, more in (
            ("llama", "llama", {"tokenizer.ggml.scores": [0.0, 0.0, 0.0, -3.0, -4.0, -1.0, 0.0], "llama.rope.freq_base": 10000.0}),
            ("qwen2", "gpt2", {"tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.merges": ["a b"], "tokenizer.chat_template": "{{ messages }}"}),
            ("gpt2", "gpt2", {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.add_bos_token": True}),
            ("bert", "bert", {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.seperator_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}),
            ("bert", "t5", {"tokenizer.ggml.scores": [0.0, 0.0, 0.0, -3.0, -4.0, -1.0, 0.0], "tokenizer.ggml.precompiled_charsmap": bytes(8)})):
        keys = {"general.architecture": architecture, **{f"{architecture}.{key}": size for key, size in sizes.items()},
                "tokenizer.ggml.model": model, "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab", "<0x0A>"],
                "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 6], **more}
        yield b"\0" + file(keys, [
            ("token_embd.weight", (7, 32), 0, 896), ("blk.0.attn_q.weight", (32, 32), 8, 1088), ("blk.0.attn_qkv.weight", (4, 32), 1, 256),
            ("position_embd.weight", (8, 32), 30, 512), ("rope_freqs.weight", (8,), 0, 32)])
    yield b"\1" + file(
        {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0},
        [("blk.0.attn_q.weight.lora_a", (2, 32), 0, 256), ("blk.0.attn_q.weight.lora_b", (16, 2), 0, 128)])


def states():
    """The smallest checkpoint bitsandbytes could have written: one packed tensor, its scales coded or not."""
    for nested in (False, True):
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}
        tensors = [("w.weight", "U8", [64, 1], bytes(range(64))), ("w.weight.quant_map", "F32", [16], struct.pack("<16f", *range(-8, 8)))]
        if nested:
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05}
            tensors += [("w.weight.absmax", "U8", [2], b"\1\2"), ("w.weight.nested_absmax", "F32", [1], struct.pack("<f", 0.5)),
                        ("w.weight.nested_quant_map", "F32", [256], struct.pack("<256f", *(i / 256 for i in range(256))))]
        else:
            tensors.append(("w.weight.absmax", "F32", [2], struct.pack("<2f", 1, 2)))
        text = json.dumps(state).encode()
        tensors.append(("w.weight.quant_state.bitsandbytes__nf4", "U8", [len(text)], text))
        yield b"\0" + safetensors(tensors)


def eights():
    """A matrix of LLM.int8."""
    yield b"\0" + safetensors([("w.weight", "I8", [3, 2], bytes(range(6))), ("w.SCB", "F32", [3], struct.pack("<3f", 1, 0, 2)),
                               ("w.weight_format", "U8", [], b"\0")])


def safetensors(tensors):
    header, at = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(data for *_, data in tensors)


def words(inputs):
    """Strings and numbers between quotes and commas of the texts: what a grammar would have taught the fuzzer."""
    found = {'"', '":', "{}", "[]", "null", "true", "false", "-1", "0", "1e999", "9223372036854775807", "18446744073709551616",
             "\\u0000", "\\ud800", "\\udc00", "NaN", ",", "]", "}"}
    for data in inputs:
        try:
            text = data[1:].decode()
        except UnicodeDecodeError:
            continue
        found |= {f'"{part}"' for part in text.split('"')[1:400:2] if 0 < len(part) < 40 and part.isprintable()}
    return sorted(found)[:1500]


def quoted(word):
    return "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\x{b:02X}" for b in word.encode())


def main(folder):
    for target, make in SEEDS.items():
        inputs = list(make())
        place = folder / target
        place.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (place / f"seed-{number:03}").write_bytes(data)
        lines = (f'"{quoted(word)}"\n' for word in words(inputs))
        (folder / f"{target}.words").write_text("".join(lines))


main(pathlib.Path(sys.argv[1]))
