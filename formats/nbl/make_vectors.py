#!/usr/bin/env python3
"""Makes the test vectors: make_vectors.py NIBBLE [DIR]

Each is a small block file that the program at NIBBLE writes from tensors made here, and a .json of the same name that says what
a reader must find in it, as the program's `inspect`, `hash` and `dequantize` see it. Of the bad-*.nbl, the .json says why they
must be refused. The same program gives the same bytes; another version of it differs in the provenance. Needs numpy, xxhash.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import xxhash

NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "U8": "u1", "BOOL": "?"}
rng = np.random.default_rng(20)


def normal(*shape, dtype="F32"):
    values = rng.standard_normal(shape).astype("<f4")
    if dtype == "BF16":
        return dtype, (values.view("<u4") >> 16).astype("<u2")
    return dtype, values.astype(NUMPY[dtype])


def table(*shape, dtype="F32"):
    """Numbers that compress: few different ones."""
    values = (np.arange(np.prod(shape)) % 7 - 3).astype("<f4").reshape(shape)
    return (dtype, (values.view("<u4") >> 16).astype("<u2")) if dtype == "BF16" else (dtype, values)


def raw(dtype, data, shape):
    return dtype, np.array(data, "u1"), shape


GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 4,
        "vocab_size": 5}

# Name: options of quantize, tensors, then what is beside them: metadata and the files of a folder.
VECTORS = {
    "plain": (["--codec", "keep"],
              {"b.bf16": normal(5, dtype="BF16"), "a.f32": normal(2, 3), "f16": normal(3, dtype="F16"),
               "i64": ("I64", np.array([-1, 0, 1 << 62], "<i8")), "bool": ("BOOL", np.array([True, False, True])),
               "f8": raw("F8_E4M3", [0x38, 0xB8, 0x7E], [3]), "f4": raw("F4", [0x21, 0xF7], [2, 2]),
               "scalar": ("F32", np.array(2.5, "<f4")), "empty": ("F32", np.zeros((0, 4), "<f4")),
               "größe": ("U8", np.array([1, 2, 3], "u1"))}, {}, {}),
    "nf4": ([], {"w.weight": normal(3, 43, dtype="BF16")}, {}, {}),
    "nf4-single": (["--no-double-quant", "--block-size", "32"], {"w.bias": normal(7), "w.weight": normal(7, 11)}, {}, {}),
    "fp4": (["--codec", "fp4", "--no-double-quant", "--block-size", "32"], {"w.weight": normal(5, 20, dtype="F16")}, {}, {}),
    "nested": (["--compress", "zstd", "--tensor", "a=nf4:block=32", "--tensor", "b=fp4"],
               {"a": ("F16", (normal(260, 1)[1] * np.sin(np.arange(32))).astype("<f2")), "b": normal(1, 65)}, {}, {}),
    "gpt2": (["--no-double-quant"],
             {"transformer.h.0.attn.c_attn.weight": normal(6, 18), "transformer.h.0.attn.c_attn.bias": normal(18),
              "transformer.wte.weight": normal(5, 6)}, {}, {"config.json": json.dumps(GPT2).encode()}),
    "zstd": (["--compress", "zstd", "--no-double-quant", "--tensor", "w=nf4"],
             {"f32": table(70001), "bf16": table(90, 7, dtype="BF16"), "u8": ("U8", np.zeros(300000, "u1")), "w": table(12, 70),
              "empty": ("F32", np.zeros(0, "<f4"))}, {}, {"config.json": b'{"model_type": "none"}' + b" " * 400}),
    "model": ([], {"model.layers.0.mlp.up_proj.weight": normal(4, 16), "model.norm.weight": normal(4)},
              {"format": "pt", "note": "naïve \"quotes\""},
              {"config.json": b'{\n  "model_type": "llama"\n}\n', "generation_config.json": b"{}",
               "tokenizer.model": bytes(range(100))}),
    "int8": (["--codec", "int8"], {"a.weight": normal(5, 20, dtype="BF16"), "b.weight": normal(2, 3)}, {}, {}),
    # Scales of either sign, coded and not.
    "signed": (["--encoder", "mse-signed", "--tensor", "w=nf4"], {"w": normal(9, 70, dtype="BF16")}, {}, {}),
    "signed-single": (["--encoder", "mse-signed", "--no-double-quant", "--tensor", "w=nf4"], {"w": normal(3, 70)}, {}, {}),
    # A published model's name and revision.
    "origin": (["--base-name", "org/tiny@" + "0123456789" * 4, "--codec", "keep"], {"a": normal(3)}, {}, {}),
    "int4": (["--codec", "int4", "--group-size", "32"], {"a.weight": normal(3, 64, dtype="BF16"), "b.weight": normal(1, 32)}, {}, {}),
    "int4-symmetric": (["--codec", "int4", "--symmetric", "--group-size", "row"], {"w.weight": normal(4, 40, dtype="F16")}, {}, {}),
    "int4-whole": (["--codec", "int4", "--zeros", "int", "--encoder", "mse", "--compress", "zstd"], {"w.weight": normal(2, 192)}, {}, {}),
    "int4-offset": (["--codec", "int4", "--zeros", "offset", "--group-size", "32"], {"a.weight": normal(3, 64, dtype="BF16"), "b.weight": normal(1, 32)}, {}, {}),
    # An offset a block; the last block is short, and blocks cross rows. Scales coded and not.
    "offsets": (["--encoder", "icq", "--tensor", "w=nf4"], {"w": normal(7, 43, dtype="BF16")}, {}, {}),
    "offsets-single": (["--encoder", "icq", "--icq-score", "error", "--no-double-quant", "--block-size", "32", "--compress", "zstd"],
                       {"a.weight": normal(130, 64), "b.weight": normal(2, 32)}, {}, {}),
    # Tiles of rows and columns, with offsets of 0. Scales coded and not.
    "tiles": (["--codec", "nf4-tiles"], {"a.weight": normal(16, 24, dtype="BF16"), "b.weight": normal(8, 4)}, {}, {}),
    "tiles-single": (["--codec", "nf4-tiles", "--tile", "2x32", "--no-double-quant", "--compress", "zstd"], {"w.weight": normal(6, 96)}, {}, {}),
}


def write_safetensors(path, tensors, metadata):
    header, place = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, values, *shape) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape[0] if shape else values.shape,
                        "data_offsets": [place, place + values.nbytes]}
        place += values.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(tensor[1].tobytes() for tensor in tensors.values()))


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {name: data[start + t["data_offsets"][0]:start + t["data_offsets"][1]] for name, t in header.items()}


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def expected_tensor(tensor, data):
    """What the .json says of one tensor: its values as stored, in full if they are few, else their hash."""
    packed, dtype, shape = tensor["codec"] != "plain", tensor["dtype"], tensor["shape"]
    out = {"name": tensor["name"], "dtype": dtype, "shape": shape, "codec": tensor["codec"]}
    if packed and "block_size" in tensor:
        out["block_size"] = tensor["block_size"]
        out["double_quant"] = tensor["double_quant"]
    if dtype not in NUMPY:
        out["hex"] = data.hex()
        return out
    values = np.frombuffer(data, NUMPY[dtype]).reshape(shape)
    if dtype == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    if tensor.get("transposed"):
        values, out["transposed"] = values.T, True
        out["shape"] = list(values.shape)
    if values.size <= 160:
        out["values"] = values.reshape(-1).tolist()
    else:
        out["xxh3_128_of_float32"] = xxhash.xxh3_128_hexdigest(values.astype("<f4").tobytes())
    return out


def make(nibble, folder, name):
    options, tensors, metadata, files = VECTORS[name]
    path = os.path.join(folder, name + ".nbl")
    with tempfile.TemporaryDirectory() as work:
        source = os.path.join(work, "model.safetensors")
        write_safetensors(source, tensors, metadata)
        for file, content in files.items():
            with open(os.path.join(work, file), "wb") as out:
                out.write(content)
        run(nibble, "quantize", work if files else source, "-o", path, "--force", *options)
        plain = os.path.join(work, "plain.safetensors")
        run(nibble, "dequantize", path, "-o", plain)
        decoded = read_safetensors(plain)
    seen = json.loads(run(nibble, "inspect", path, "--json"))
    expected = {"identity": run(nibble, "hash", path).decode().split()[0], "metadata": metadata,
                **({"origin": {"name": seen["base_name"], "revision": seen["base_revision"]}} if seen["base_name"] else {}),
                "files": {file: xxhash.xxh3_128_hexdigest(content) for file, content in sorted(files.items())},
                "tensors": [expected_tensor(tensor, decoded[tensor["name"]]) for tensor in seen["tensors"]]}
    save(folder, name, expected)


def save(folder, name, expected):
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as out:
        out.write(text + "\n")


def spoil(folder):
    """Damages nf4.nbl, each time in one place, and says when a reader is to notice: at opening or reading every byte."""
    with open(os.path.join(folder, "nf4.nbl"), "rb") as file:
        good = file.read()
    table_end = 64 + struct.unpack_from("<Q", good, 40)[0]
    assert table_end % 64, "no padding after the table: choose another shape"

    section, padding, feature = bytearray(good), bytearray(good), bytearray(good)
    section[-(-table_end // 64) * 64] ^= 0x10
    padding[table_end] = 1
    feature[16] = 1
    struct.pack_into("<Q", feature, 56, xxhash.xxh3_64_intdigest(bytes(feature[:56])))
    for name, data, reason, at in [
            ("section", section, "a bit of the first code is flipped, so the section's checksum does not hold", "reading"),
            ("padding", padding, "the byte after the table is 1, not 0", "reading"),
            ("feature", feature, "bit 0 of the required features is set; the header's checksum holds", "opening"),
            ("cut", good[:-1], "the last byte is missing", "opening")]:
        with open(os.path.join(folder, f"bad-{name}.nbl"), "wb") as out:
            out.write(data)
        save(folder, f"bad-{name}", {"made_from": "nf4.nbl", "reason": reason, "refused_at": at})


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = sys.argv[2] if len(sys.argv) == 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors")
    os.makedirs(folder, exist_ok=True)
    for name in VECTORS:
        make(sys.argv[1], folder, name)
    spoil(folder)


if __name__ == "__main__":
    main()
