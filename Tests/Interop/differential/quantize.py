"""`nibble quantize`: drawn tensors and models against bitsandbytes' CPU quantizer bit for bit; transformers loads the folders whole.

What packed models answer is not compared: bitsandbytes' CPU dequantizer is wrong where rows straddle blocks, as they do in tiny models.
"""
import torch
from safetensors.torch import load_file, save_file

from models import linear4bit, load, tensors_of
from reference import BLOCK_SIZES, assert_packed_alike, by_bitsandbytes, packed_tensors, parts_of, raw, same_bits
from bitsandbytes import functional

from .common import Difference, Undrawable, peer
from .drawing import DTYPES, draw_model
from .wholes import bare


def run(case):
    try:
        case.rng.choices([tensors, models, eight_bits], [60, 25, 15])[0](case)
    except AssertionError as error:
        raise Difference(str(error)) from error


def draw_tensor(case, dtype, two_dimensions=False):
    """Values quantizers dislike, among ordinary ones."""
    rng = case.rng
    shape = rng.choice([(rng.randint(1, 70), rng.randint(1, 70)), (rng.randint(1, 8), rng.choice([64, 128, 4096, 4097])),
                        (rng.randint(1, 300),), (2, rng.randint(1, 9), rng.randint(1, 20))][: 2 if two_dimensions else 4])
    values = torch.randn(shape)
    kind = rng.choice(["normal", "normal", "heavy", "grid", "edges", "zero blocks", "tiny", "huge", "constant", "one value", "subnormal",
                       "signs"])
    if kind == "heavy":
        values = values ** 5
    elif kind == "grid":
        values = torch.randint(-8, 9, shape) / 8.0
    elif kind == "edges":
        # Half way between two codes, and a bit on either side.
        codes = functional.get_4bit_type(rng.choice(["nf4", "fp4"]), device="cpu").sort().values
        edges = (codes[1:] + codes[:-1]) / 2
        values = edges[torch.randint(0, 15, shape)] * (1 + torch.randint(-2, 3, shape) * 2.0**-23)
        values.view(-1)[:: rng.choice([7, 31, 64])] = rng.choice([1.0, -1.0])
    elif kind == "zero blocks":
        values.view(-1)[values.numel() // 4: 3 * values.numel() // 4] = rng.choice([0.0, -0.0])
    elif kind in ("tiny", "huge", "subnormal"):
        values = values * {"tiny": 1e-6, "huge": 1e4, "subnormal": 1e-38 if dtype != torch.float16 else 1e-7}[kind]
    elif kind == "constant":
        values = torch.full(shape, rng.choice([0.37, -1.0, 1e-3]))
    elif kind == "one value":
        values = torch.zeros(shape)
        values.view(-1)[rng.randrange(values.numel())] = rng.choice([1.0, -3.0])
    elif kind == "signs":
        values = torch.sign(values) * 0.5
    values = values * rng.choice([1.0, 0.02, 3.0])
    return values.clamp(-6e4, 6e4).to(dtype), kind


def tensors(case):
    rng = case.rng
    codec, block, double = rng.choice(["nf4", "fp4"]), rng.choice(BLOCK_SIZES), case.chance(0.5)
    drawn, kinds = {}, {}
    for number in range(rng.randint(1, 4)):
        dtype = rng.choice(list(DTYPES.values()))
        drawn[f"t{number}.weight"], kinds[f"t{number}"] = draw_tensor(case, dtype)
    shapes = {name: [str(one.dtype), list(one.shape)] for name, one in drawn.items()}
    case.note(codec=codec, block=block, double=double, kinds=kinds, shapes=shapes)
    save_file(drawn, case / "in.safetensors")
    case.nibble("quantize", "in.safetensors", "-o", "out.safetensors", "--bnb-rules", "cpu", "--tensor", f".*={codec}", "--block-size", block,
                "--double-quant" if double else "--no-double-quant", "-j", rng.choice([1, 2]), "-q")
    written = load_file(case / "out.safetensors")
    packed = packed_tensors(written)
    assert packed.keys() == drawn.keys(), f"packed are {sorted(packed)}"
    assert written.keys() == set().union(*(parts_of(name, packed[name]) for name in packed)), "other tensors are written"
    for name, tensor in drawn.items():
        theirs = by_bitsandbytes(tensor, block, codec, double)
        try:
            assert_packed_alike(packed[name], theirs, by_bitsandbytes(tensor, block, codec, False).absmax)
        except AssertionError as error:
            raise Difference(f"{kinds[name.split('.')[0]]} {name}: {error}") from None
    wanted = rng.choice([None, "fp32", "fp16", "bf16"])
    case.nibble("dequantize", "out.safetensors", "-o", "plain.safetensors", *(["--dtype", wanted] if wanted else []), "-q", "-j", 1,
                "--allow-nonfinite")
    plain = load_file(case / "plain.safetensors")
    for name, tensor in drawn.items():
        out = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, None: tensor.dtype}[wanted]
        assert same_bits(plain[name], packed[name].dequantized(out)), f"{name} comes back otherwise"


def models(case):
    """The folder loads in transformers whole, and each weight is packed as bitsandbytes packs it."""
    rng = case.rng
    drawn = draw_model(case, plain=case.chance(0.7), others=0.3)
    with peer("loading"):
        drawn.load()
    codec, block, double = rng.choice(["nf4", "fp4"]), rng.choice([64, 64, 128, 32]), case.chance(0.5)
    case.nibble("quantize", "m", "-o", "packed", "--format", "bnb", "--bnb-rules", "cpu", "--codec", codec, "--block-size", block,
                "--double-quant" if double else "--no-double-quant", "-q", "-j", 1)
    try:
        layers = linear4bit(load(case / "packed", drawn.model_class))
    except Exception as error:  # noqa: BLE001
        raise Difference(f"transformers does not load it: {str(error).splitlines()[0][:200]}") from None
    source, written = tensors_of(case / "m"), tensors_of(case / "packed")
    packed = packed_tensors(written)
    assert layers.keys() == {one.removesuffix(".weight") for one in with_prefix(packed, layers)}, "other layers are packed"
    for name, ours in packed.items():
        weight = source[name].T.contiguous() if drawn.config["model_type"] == "gpt2" and ".c_" in name else source[name]
        try:
            assert_packed_alike(ours, by_bitsandbytes(weight, block, codec, double), by_bitsandbytes(weight, block, codec, False).absmax)
        except AssertionError as error:
            raise Difference(f"{name}: {error}") from None
    parts = set().union(*(parts_of(name, packed[name]) for name in packed))
    for name in written.keys() - parts:
        assert same_bits(written[name], source[name]), f"{name} is not packed and must not change"
    assert written.keys() - parts == source.keys() - packed.keys(), "tensors are missing or added"


def with_prefix(packed, layers):
    """Names as the model has them, whether or not the file leaves the model's prefix out."""
    for name in packed:
        module = name.removesuffix(".weight")
        same = (layer for layer in layers if layer == module or layer.endswith("." + module) or module.endswith("." + layer) or bare(layer) == bare(module))
        yield next(same, name)


def eight_bits(case):
    """LLM.int8's codes and scales, from values rounded to float16 as the library does."""
    tensor, kind = draw_tensor(case, case.rng.choice(list(DTYPES.values())), two_dimensions=True)
    case.note(kind=kind, shape=list(tensor.shape), dtype=str(tensor.dtype))
    half = tensor.half()
    if not half.isfinite().all():
        raise Undrawable("beyond float16")
    save_file({"a.weight": tensor}, case / "in.safetensors")
    case.nibble("quantize", "in.safetensors", "-o", "out.safetensors", "--codec", "int8", "--format", "bnb", "-q", "-j", 1)
    found = load_file(case / "out.safetensors")
    codes, scales, _ = functional.int8_vectorwise_quant(half)
    assert raw(found["a.weight"]) == raw(codes), f"{kind}: codes differ"
    assert raw(found["a.SCB"]) == raw(scales), f"{kind}: scales differ"


