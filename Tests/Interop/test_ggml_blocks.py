"""GGUF files that nibble writes and reads, number by number: blocks are compared with ggml's own quantizers, compiled here out of its C source,
and with gguf's; what they decode to with both.

A model's weights are rows of many kinds: ordinary ones, outliers, zeros, constants, tiny and large ones.
"""

import numpy
import pytest
from safetensors.torch import load_file

import ggml
from converter import gguf

KINDS = {number: name for name, (number, _, _) in ggml.TYPES.items()}
LAYERS = 8
MIXES = ["q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k"]


@pytest.fixture(scope="module")
def quantizers(tmp_path_factory):
    return ggml.quantizers_or_skip(tmp_path_factory.mktemp("ggml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ggml.save_llama_of_whole_blocks(tmp_path_factory.mktemp("rows") / "m", layers=LAYERS, inner=512)


def floats(tensors):
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def names():
    """llama.cpp's names by Hugging Face's."""
    pairs = {"model.embed_tokens": "token_embd", "lm_head": "output"}
    inside = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for layer in range(LAYERS):
        pairs |= {f"model.layers.{layer}.{theirs}": f"blk.{layer}.{ours}" for theirs, ours in inside.items()}
    return {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in pairs.items()}


@pytest.mark.parametrize("mix", MIXES)
def test_written_blocks_are_ggmls(nibble, quantizers, model, tmp_path, mix):
    nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", mix)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    source, seen = floats(load_file(model / "model.safetensors")), set()
    for theirs, ours in names().items():
        kind, rows = KINDS[int(stored[ours].tensor_type)], source[theirs]
        seen.add(kind)
        expected = quantizers.quantize(kind, rows).reshape(len(rows), -1)
        found = stored[ours].data.reshape(len(rows), -1)
        if ours.endswith(("attn_q.weight", "attn_k.weight")):
            # These rows have another order there.
            expected, found = (numpy.unique(rows, axis=0) for rows in (expected, found))
        assert numpy.array_equal(found, expected), (ours, kind)
        if kind in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"):
            # gguf's own differ where reciprocals of scales are infinite; the ordinary rows are every 20th.
            both = gguf.quants.quantize(rows[::20], stored[ours].tensor_type)
            assert numpy.array_equal(both.reshape(len(both), -1), quantizers.quantize(kind, rows[::20]).reshape(len(both), -1)), (ours, kind)
    assert seen


@pytest.fixture(scope="module")
def plain(nibble, model, tmp_path_factory):
    """The model with its numbers as they are."""
    path = tmp_path_factory.mktemp("plain") / "m.gguf"
    nibble("convert", model, "-o", path, "--gguf-type", "f32")
    return path


@pytest.mark.parametrize("kind", ggml.TYPES)
def test_blocks_of_any_bits_decode_as_ggml_decodes_them(nibble, quantizers, plain, tmp_path, kind):
    number, numbers, size = ggml.TYPES[kind]
    reader = gguf.GGUFReader(plain)
    draw, expected = numpy.random.default_rng(number), {}
    writer = gguf.GGUFWriter(tmp_path / "noise.gguf", "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    back = {ours: theirs for theirs, ours in names().items()}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        if tensor.name not in back or "blk.0" not in tensor.name:
            writer.add_tensor(tensor.name, tensor.data)
            continue
        blocks = draw.integers(0, 256, (shape[0] * shape[1] // numbers, size), dtype=numpy.uint8)
        for place in {"q2_K": (81, 83), "q3_K": (109,), "q6_K": (209,), "mxfp4": ()}.get(kind, (1, 3)):
            # Scales of less than float16's greatest exponent are finite.
            blocks[:, place] &= 0xBB
        if kind == "mxfp4":
            blocks[:, 0] = 127 + blocks[:, 0] % 8
        values = quantizers.dequantize(kind, blocks).reshape(shape)
        expected[back[tensor.name]] = values
        stored = blocks.reshape(shape[0], -1)
        assert numpy.array_equal(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType(number)), values)
        writer.add_tensor(tensor.name, stored, raw_dtype=gguf.GGMLQuantizationType(number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    nibble("dequantize", tmp_path / "noise.gguf", "-o", tmp_path / "out", "--dtype", "fp32")
    found = floats(load_file(tmp_path / "out" / "model.safetensors"))
    for name, values in expected.items():
        if "q_proj" in name or "k_proj" in name:
            # These rows have another order there.
            assert numpy.array_equal(*(numpy.sort(rows.view(numpy.uint32).ravel()) for rows in (numpy.ascontiguousarray(found[name]), values))), name
        else:
            assert numpy.array_equal(found[name].view(numpy.uint32), values.view(numpy.uint32)), name
