"""Block quantization as bitsandbytes defines it, in as few lines as can be checked by eye.

The library's own 4-bit *quantizer* is the oracle of the tests. Its CPU *dequantizer* is not: with AVX-512 it indexes
the scales wrongly when rows straddle blocks. What a packed tensor means is therefore computed here, from its stored parts:
element = fl(codebook[code] * absmax), in float32, rounded once to the type the weight had.
"""
import dataclasses
import json

import numpy as np
import torch
from bitsandbytes import functional

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
STATE = ".quant_state.bitsandbytes__"


@dataclasses.dataclass
class Packed:
    """One packed tensor, part by part."""

    codes: torch.Tensor
    absmax: torch.Tensor  # float32, or the 8-bit codes of scales coded once more
    quant_map: torch.Tensor
    nested_absmax: torch.Tensor | None
    nested_quant_map: torch.Tensor | None
    state: dict

    @property
    def is_double(self):
        return self.nested_absmax is not None

    @property
    def offset(self):
        return torch.tensor(self.state["nested_offset"], dtype=torch.float64).to(torch.float32)

    @property
    def dtype(self):
        return getattr(torch, self.state["dtype"])

    def scales(self):
        """absmax of every block: fl(fl(map[code] * nested absmax) + offset)."""
        if not self.is_double:
            return self.absmax
        nested = self.nested_absmax.repeat_interleave(self.state["nested_blocksize"])[: self.absmax.numel()]
        return self.nested_quant_map[self.absmax.long()] * nested + self.offset

    def dequantized(self, dtype=None):
        """fl(codebook[code] * absmax), then one rounding to `dtype`."""
        count = int(np.prod(self.state["shape"]))
        # Whatever type the codes are stored as, their bytes hold two codes each, the first in the high half.
        halves = self.codes.reshape(-1).view(torch.uint8)
        codes = torch.stack((halves >> 4, halves & 15), dim=1).reshape(-1)[:count].long()
        scales = self.scales().repeat_interleave(self.state["blocksize"])[:count]
        return (self.quant_map[codes] * scales).to(dtype or self.dtype).reshape(self.state["shape"])


def packed_tensors(tensors):
    """The packed tensors among those of a bitsandbytes checkpoint, by name."""
    found = {}
    for name in tensors:
        if STATE not in name:
            continue
        base = name[: name.index(STATE)]
        found[base] = Packed(
            codes=tensors[base],
            absmax=tensors[base + ".absmax"],
            quant_map=tensors[base + ".quant_map"],
            nested_absmax=tensors.get(base + ".nested_absmax"),
            nested_quant_map=tensors.get(base + ".nested_quant_map"),
            state=json.loads(bytes(tensors[name].tolist())),
        )
    return found


def parts_of(base, packed):
    """The names that the packed tensor `base` takes in a bitsandbytes checkpoint."""
    names = {base, base + ".absmax", base + ".quant_map", base + STATE + packed.state["quant_type"]}
    return names | {base + ".nested_absmax", base + ".nested_quant_map"} if packed.is_double else names


def by_bitsandbytes(weight, block_size=64, quant_type="nf4", double=True):
    """`weight` as bitsandbytes itself packs it on a CPU."""
    codes, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=block_size, quant_type=quant_type, compress_statistics=double)
    parts = state.as_dict(packed=True)
    return Packed(
        codes=codes,
        absmax=parts["absmax"],
        quant_map=parts["quant_map"],
        nested_absmax=parts.get("nested_absmax"),
        nested_quant_map=parts.get("nested_quant_map"),
        state=json.loads(bytes(parts[STATE[1:] + quant_type].tolist())),
    )


def same_bits(a, b):
    """Whether two tensors are the same type, shape and bytes: -0 is not 0, and NaN is itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return raw(a) == raw(b)


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def ulps_apart(a, b):
    """How many float32 lie between two float32 of one sign."""
    return abs(int(a.view(torch.int32)) - int(b.view(torch.int32)))


def assert_packed_alike(ours, theirs, unpacked_scales=None):
    """`ours` is what bitsandbytes makes, bit for bit, but for the last bit of the offset.

    The offset is the mean of all scales. Ours is the float32 nearest to it; the library's comes from a vectorised sum whose
    order nobody promises, an ulp away on real weights and a few at most here. Everything else follows from the offset:
    with *our* offset the library must make our scale codes and nested absmax.

    - unpacked_scales: absmax as float32, before it was coded to 8 bits
    """
    assert same_bits(ours.codes, theirs.codes), f"{differing(ours.codes, theirs.codes)} code bytes differ"
    assert same_bits(ours.quant_map, theirs.quant_map), "the codebook differs"
    assert ours.is_double == theirs.is_double, "double quantization differs"
    open_keys = {"nested_offset"} if ours.is_double else set()
    assert {k: v for k, v in ours.state.items() if k not in open_keys} == {
        k: v for k, v in theirs.state.items() if k not in open_keys}, f"{ours.state} is not {theirs.state}"
    assert list(ours.state) == list(theirs.state), "keys of the state stand in another order"
    if not ours.is_double:
        assert same_bits(ours.absmax, theirs.absmax), f"{differing(ours.absmax, theirs.absmax)} bytes of scales differ"
        return
    assert same_bits(ours.nested_quant_map, theirs.nested_quant_map), "the nested codebook differs"
    mean = unpacked_scales.double().sum() / unpacked_scales.numel()
    assert ulps_apart(ours.offset, mean.float()) == 0, f"the offset is {ours.offset}, the mean {mean}"
    assert ulps_apart(ours.offset, theirs.offset) <= 8, f"the offset is {ours.offset}, the library's {theirs.offset}"
    codes, state = functional.quantize_blockwise(unpacked_scales - ours.offset, blocksize=256)
    assert same_bits(ours.absmax, codes), f"{differing(ours.absmax, codes)} scale codes differ, given the offset"
    assert same_bits(ours.nested_absmax, state.absmax), "nested absmax differs, given the offset"


def differing(a, b):
    x, y = np.frombuffer(raw(a), np.uint8), np.frombuffer(raw(b), np.uint8)
    return f"{np.count_nonzero(x != y)} of {x.size}" if x.size == y.size else f"{x.size} against {y.size}"
