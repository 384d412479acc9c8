#!/usr/bin/env python3
"""Makes the test vectors: make_vectors.py NIBBLE [DIR]

first.nbl and second.nbl are small block files that the program at NIBBLE writes from tensors made here, task.patch leads from one
to the other; bad-*.patch are to be refused, and their .json says why. Needs numpy, xxhash.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import xxhash


def write_safetensors(path, tensors):
    header, place = {}, 0
    for name, (dtype, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [place, place + values.nbytes]}
        place += values.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for _, values in tensors.values()))


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def signed(data):
    """The patch with its two checksums made to hold."""
    first, second, spans = struct.unpack_from("<3Q", data, 40)
    content = bytes(data[80:80 + first + second] + data[len(data) - 32 * spans:])
    struct.pack_into("<Q", data, 64, xxhash.xxh3_64_intdigest(content))
    struct.pack_into("<Q", data, 72, xxhash.xxh3_64_intdigest(bytes(data[:72])))
    return data


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    nibble = sys.argv[1]
    folder = sys.argv[2] if len(sys.argv) == 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors")
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(21)
    listed = np.arange(600, dtype="u1")
    other = listed.copy()
    for at, value in ((3, 0x01), (4, 0x80), (300, 0x22), (599, 0xFF)):
        other[at] ^= value
    weight = rng.standard_normal((3, 40)).astype("<f4")
    ends = {
        "first": ([], {"bytes": ("U8", listed), "c.weight": ("F32", weight), "only.first": ("F32", weight[0, :2])}),
        "second": (["--tensor", "^c=int8"], {"bytes": ("U8", other), "c.weight": ("F32", weight), "z": ("F32", weight[0, :3])}),
    }
    for name, (options, tensors) in ends.items():
        with tempfile.TemporaryDirectory() as work:
            source = os.path.join(work, "model.safetensors")
            write_safetensors(source, tensors)
            run(nibble, "quantize", source, "-o", os.path.join(folder, name + ".nbl"), "--no-double-quant", "--force", *options)
    path = os.path.join(folder, "task.patch")
    run(nibble, "patch", "--from", os.path.join(folder, "first.nbl"), "--to", os.path.join(folder, "second.nbl"), "-o", path,
        "--force")
    with open(path, "rb") as file:
        good = file.read()

    heads = 80 + sum(struct.unpack_from("<2Q", good, 40))
    span, order, behind, feature = (bytearray(good) for _ in range(4))
    span[heads] ^= 1
    order[-64:] = good[-32:] + good[-64:-32]
    struct.pack_into("<I", behind, len(good) - 28, 1)
    feature[16] = 1
    for name, data, reason, at in [
            ("span", span, "a bit of the first span is flipped, so its checksum does not hold", "applying"),
            ("order", signed(order), "the last two spans of the index are exchanged; the checksums hold", "opening"),
            ("behind", signed(behind), "the last span is numbered 1, but its part ends in span 0; the checksums hold", "opening"),
            ("feature", signed(feature), "bit 0 of the required features is set; the checksums hold", "opening"),
            ("cut", good[:-1], "the last byte is missing", "opening")]:
        with open(os.path.join(folder, f"bad-{name}.patch"), "wb") as out:
            out.write(data)
        with open(os.path.join(folder, f"bad-{name}.json"), "w", encoding="utf-8") as out:
            json.dump({"made_from": "task.patch", "reason": reason, "refused_at": at}, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
