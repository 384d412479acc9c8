"""ggml's own quantizers, compiled out of llama.cpp's sources: what nibble's blocks are compared with.

`tools/interop` unpacks the sources. Only `ggml-quants.c` is compiled, with the few functions it asks of the rest of ggml.
"""
import ctypes
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from conftest import ROOT
from running import save_random

SOURCES = pathlib.Path(sys.prefix) / "llama.cpp" / "ggml"

# Number in files, numbers and bytes of a block.
TYPES = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34), "q2_K": (10, 256, 84),
    "q3_K": (11, 256, 110), "q4_K": (12, 256, 144), "q5_K": (13, 256, 176), "q6_K": (14, 256, 210), "iq4_nl": (20, 32, 18),
    "iq4_xs": (23, 256, 136), "mxfp4": (39, 32, 17),
}

REST = """
#include <stdlib.h>
#include "ggml.h"
static size_t length(int type, int64_t *numbers) {
  *numbers = type == 10 || type == 11 || type == 12 || type == 13 || type == 14 || type == 23 ? 256 : 32;
  switch (type) { %s }
  abort();
}
size_t ggml_row_size(enum ggml_type type, int64_t columns) { int64_t n; size_t bytes = length(type, &n); return columns / n * bytes; }
size_t ggml_type_size(enum ggml_type type) { int64_t n; return length(type, &n); }
const char *ggml_type_name(enum ggml_type type) { (void)type; return ""; }
void ggml_abort(const char *file, int line, const char *text, ...) { (void)file; (void)line; (void)text; abort(); }
""" % " ".join(f"case {number}: return {size};" for number, _, size in TYPES.values())


class Quantizers:
    def __init__(self, folder=None, sources=SOURCES):
        folder = pathlib.Path(folder or tempfile.mkdtemp())
        library = folder / f"ggml-{hashlib.sha256(REST.encode()).hexdigest()[:8]}.so"
        if not library.exists():
            (folder / "rest.c").write_text(REST)
            # Nothing fused: with fused products numbers would depend on the compiler.
            subprocess.run(
                ["gcc", "-O2", "-ffp-contract=off", "-DNDEBUG", "-fPIC", "-shared", "-w", f"-I{sources}/include", f"-I{sources}/src",
                 f"-I{sources}/src/ggml-cpu", "-o", str(library), str(sources / "src" / "ggml-quants.c"), str(folder / "rest.c"), "-lm"],
                check=True)
        self.library = ctypes.CDLL(str(library))

    @staticmethod
    def _at(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def quantize(self, name, values, weights=None):
        """Blocks of a matrix, a row of bytes each, as llama-quantize makes them; with weights, an importance of each column."""
        _, numbers, size = TYPES[name]
        values = numpy.ascontiguousarray(values, numpy.float32)
        blocks = numpy.zeros((values.size // numbers, size), numpy.uint8)
        call = getattr(self.library, f"quantize_{name}")
        call.restype = ctypes.c_size_t
        columns = values.shape[-1]
        rows = values.size // columns
        weights = None if weights is None else self._at(numpy.ascontiguousarray(weights, numpy.float32))
        assert call(self._at(values), self._at(blocks), ctypes.c_int64(rows), ctypes.c_int64(columns), weights) == blocks.size
        return blocks

    def dequantize(self, name, blocks):
        _, numbers, _ = TYPES[name]
        blocks = numpy.ascontiguousarray(blocks, numpy.uint8)
        values = numpy.zeros(len(blocks) * numbers, numpy.float32)
        getattr(self.library, f"dequantize_row_{name}")(self._at(blocks), self._at(values), ctypes.c_int64(values.size))
        return values


def rows(seed, columns):
    """Rows of many kinds, by name."""
    draw = numpy.random.default_rng(seed)
    normal = lambda: draw.standard_normal(columns)
    outliers = normal() * 0.02
    outliers[draw.integers(0, columns, columns // 50 + 1)] *= 50
    half = normal()
    half[: columns // 2] = 0
    kinds = {
        "weights": normal() * 0.02, "outliers": outliers, "half zeros": half, "zeros": numpy.zeros(columns),
        "negative zeros": -numpy.zeros(columns), "constant": numpy.full(columns, 0.37), "negative constant": numpy.full(columns, -0.37),
        "steps": numpy.repeat(draw.standard_normal(columns // 16), 16), "positive": abs(normal()) + 1, "negative": -abs(normal()) - 100,
        "near": 1000 + normal() * 1e-4, "tiny": normal() * 1e-7, "tinier": normal() * 1e-20, "subnormal": normal() * 1e-36,
        "large": normal() * 100, "scales": normal() * numpy.repeat(numpy.exp2(draw.uniform(-20, 4, columns // 16)), 16),
        "wide": normal() * numpy.exp(draw.uniform(-12, 3, columns)), "whole": draw.integers(-8, 8, columns).astype(float),
        "powers": numpy.exp2(draw.integers(-12, 6, columns)) * draw.choice([-1, 1], columns), "heavy": draw.standard_cauchy(columns).clip(-2000, 2000),
    }
    return {name: row.astype(numpy.float32) for name, row in kinds.items()}


def quantizers_or_skip(folder):
    """ggml's quantizers, compiled in `folder`."""
    if not (SOURCES / "src" / "ggml-quants.c").exists():
        pytest.skip("ggml's sources were not downloaded")
    if not shutil.which("gcc"):
        pytest.skip("ggml's quantizers are compiled with gcc, which is not here")
    return Quantizers(folder)


def save_llama_of_whole_blocks(folder, layers, inner):
    """A small Llama whose rows are whole blocks of 256: ordinary rows among outliers, zeros, constants, tiny and large ones."""
    save_random(transformers.LlamaForCausalLM, "llama", folder, hidden_size=256, intermediate_size=inner, num_attention_heads=4, num_key_value_heads=2,
                num_hidden_layers=layers, head_dim=64, vocab_size=512, tie_word_embeddings=False)
    shutil.copy(ROOT / "Tests" / "Fixtures" / "tokenizers" / "stories512" / "tokenizer.model", folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for seed, (name, tensor) in enumerate(sorted(tensors.items())):
        if tensor.ndim == 2:
            found = list(rows(seed, tensor.shape[1]).values())
            for row in range(len(tensor)):
                tensor[row] = torch.from_numpy(found[row % len(found)] * numpy.float32(1 + row // len(found)))
    save_file(tensors, path, {"format": "pt"})
    return folder
