"""Makes blocks.safetensors: rows of several kinds, their blocks by ggml's own quantizers, and blocks of random bits with what they decode to.

    .venv-interop/bin/python Tests/Fixtures/ggml/make.py
"""
import pathlib
import sys

import numpy
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "Interop"))
import ggml

KINDS = ["weights", "outliers", "half zeros", "zeros", "constant", "negative constant", "near", "tiny", "subnormal", "scales", "wide", "whole"]

quantizers = ggml.Quantizers()
drawn = ggml.rows(1, 256)
rows = numpy.stack([drawn[kind] for kind in KINDS])
tensors = {"rows": rows}
draw = numpy.random.default_rng(2)
for name, (_, numbers, size) in ggml.TYPES.items():
    kind = name.lower()
    # ggml's exponent of mxfp4 is undefined below 2^-125.
    tensors[f"{kind}.blocks"] = quantizers.quantize(name, rows)
    noise = draw.integers(0, 256, (256 // numbers, size), dtype=numpy.uint8)
    # Scales that are finite: float16 of less than the greatest exponent, wherever they are.
    for place in {"q2_K": (81, 83), "q3_K": (109,), "q6_K": (209,), "mxfp4": ()}.get(name, (1, 3)):
        noise[:, place] &= 0xBB
    tensors[f"{kind}.noise"] = noise
    tensors[f"{kind}.decoded"] = quantizers.dequantize(name, noise)
    assert numpy.isfinite(tensors[f"{kind}.decoded"]).all()
save_file(tensors, HERE / "blocks.safetensors")
