"""Importance matrices: nibble's weighted blocks against ggml's own quantizers with weights, compiled here out of its C source, files that
llama-imatrix would write and files that lie, and whole models against `llama_model_quantize`.
"""
import ctypes
import os
import shutil
import struct
import sys
import types

import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import ggml
from conftest import ROOT
from converter import gguf
from running import save_random

KINDS = {number: name for name, (number, _, _) in ggml.TYPES.items()}
LAYERS = 8
SLOW = pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="NIBBLE_SLOW is not set")
MIXES = ["q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k"]
INSIDE = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NAMES = {f"model.layers.{layer}.{theirs}.weight": f"blk.{layer}.{ours}.weight" for layer in range(LAYERS) for theirs, ours in INSIDE.items()}


@pytest.fixture(scope="module")
def quantizers(tmp_path_factory):
    return ggml.quantizers_or_skip(tmp_path_factory.mktemp("ggml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ggml.save_llama_of_whole_blocks(tmp_path_factory.mktemp("rows") / "m", layers=LAYERS, inner=256)


def draw(seed, columns):
    """Mean squares over many magnitudes, some of them 0."""
    random = numpy.random.default_rng(seed)
    values = numpy.exp(random.uniform(-9, 4, columns)).astype(numpy.float32)
    values[random.random(columns) < 0.05] = 0
    return values


def entries(model, seed=0):
    """Sums and counts by llama.cpp's names."""
    shapes = {name: tensor.shape for name, tensor in load_file(model / "model.safetensors").items()}
    return {ours: (draw(seed + index, shapes[theirs][1]) * numpy.float32(512), 512.0) for index, (theirs, ours) in enumerate(NAMES.items())}


def write(path, found, **other):
    """The form that llama-imatrix writes today."""
    writer = gguf.GGUFWriter(path, "imatrix", use_temp_file=False)
    del writer.kv_data[0]["general.architecture"]
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["a text"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 128)
    for name, (sums, count) in found.items():
        writer.add_tensor(f"{name}.in_sum2", numpy.asarray(sums, numpy.float32).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", numpy.array([[count]], numpy.float32))
    for name, values in other.items():
        writer.add_tensor(name.replace("__", "."), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_older(path, found, calls=4, end=True):
    """The form of .dat files."""
    data = struct.pack("<i", len(found))
    for name, (sums, count) in found.items():
        values = numpy.asarray(sums, numpy.float32) / numpy.float32(count) * numpy.float32(calls)
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes()
    path.write_bytes(data + (struct.pack("<ii", calls, 6) + b"a text" if end else b""))


def importance(found):
    return {name: numpy.asarray(sums, numpy.float32) / numpy.float32(count) for name, (sums, count) in found.items()}


def mended(values, kind):
    """Columns of groups that nothing is known of count as much as the least."""
    values, group = values.copy(), 16 if kind in ("q2_K", "q3_K", "q6_K") else 32
    least = values[values > 0].min()
    for start in range(0, len(values), group):
        if not values[start:start + group].any():
            values[start:start + group] = least
    return values


def assert_blocks(path, model, quantizers, weights):
    stored, seen = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}, set()
    source = {name: tensor.float().numpy() for name, tensor in load_file(model / "model.safetensors").items()}
    for theirs, ours in NAMES.items():
        kind, rows = KINDS[int(stored[ours].tensor_type)], source[theirs]
        seen.add(kind)
        own = mended(weights[ours], kind) if ours in weights else None
        expected = quantizers.quantize(kind, rows, own).reshape(len(rows), -1)
        found = stored[ours].data.reshape(len(rows), -1)
        if ours.endswith(("attn_q.weight", "attn_k.weight")):
            # These rows have another order there.
            expected, found = (numpy.unique(rows, axis=0) for rows in (expected, found))
        assert numpy.array_equal(found, expected), (ours, kind)
    return seen


def test_weighted_blocks_are_ggmls(nibble, quantizers, model, tmp_path):
    """A type for each layer, and those that are left among parts of layers."""
    found = entries(model)
    write(tmp_path / "i.gguf", found)
    kinds = ["q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "iq4_nl", "iq4_xs"]
    rules = ["v_proj=q2_k", "up_proj=q3_k", "o_proj=q6_k"] + [f"layers[.]{layer}[.].*_proj={kind}" for layer, kind in enumerate(kinds)]
    nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", "q8_0", "--imatrix", tmp_path / "i.gguf",
           *(word for rule in rules for word in ("--tensor", rule)))
    seen = assert_blocks(tmp_path / "m.gguf", model, quantizers, importance(found))
    assert {kind.lower() for kind in seen} == {*kinds, "q2_k", "q3_k", "q6_k"}
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert [fields[f"quantize.imatrix.{key}"].contents() for key in ("file", "dataset", "entries_count", "chunks_count")] == [
        "i.gguf", "a text", len(found), 4]


@SLOW
@pytest.mark.parametrize("mix", MIXES)
def test_mixes_are_weighted(nibble, quantizers, model, tmp_path, mix):
    found = entries(model, seed=len(mix))
    write(tmp_path / "i.gguf", found)
    nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", mix, "--imatrix", tmp_path / "i.gguf")
    seen = assert_blocks(tmp_path / "m.gguf", model, quantizers, importance(found))
    # A guard of llama.cpp's for the first layers.
    assert ("q4_1" in seen) if mix == "q4_0" else ("q5_1" in seen) if mix == "q5_0" else seen


def test_older_files_weigh_alike(nibble, quantizers, model, tmp_path):
    found = entries(model)
    write_older(tmp_path / "i.dat", found)
    nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", "q4_0", "--imatrix", tmp_path / "i.dat")
    # Multiplied and divided by the calls, as llama.cpp does.
    weights = {name: values * numpy.float32(4) / numpy.float32(4) for name, values in importance(found).items()}
    assert_blocks(tmp_path / "m.gguf", model, quantizers, weights)
    write_older(tmp_path / "short.dat", found, end=False)
    nibble("quantize", model, "-o", tmp_path / "short.gguf", "--gguf-type", "q4_0", "--imatrix", tmp_path / "short.dat")
    assert_blocks(tmp_path / "short.gguf", model, quantizers, weights)


def test_the_bytes_do_not_depend_on_threads(nibble, model, tmp_path):
    write(tmp_path / "i.gguf", entries(model))
    for threads in (1, 3):
        nibble("quantize", model, "-o", tmp_path / f"{threads}.gguf", "--gguf-type", "q4_k_m", "--imatrix", tmp_path / "i.gguf", "-j", threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


def test_what_has_no_importance_is_counted(nibble, quantizers, model, tmp_path):
    found = entries(model)
    del found["blk.3.ffn_up.weight"]
    found["blk.4.ffn_up.weight"] = (numpy.zeros(256), 512.0)
    found["blk.5.ffn_up.weight"] = (found["blk.5.ffn_up.weight"][0], 0.0)
    found["blk.6.ffn_up.weight"][0][64:128] = 0
    found["blk.99.ffn_up.weight"] = (numpy.ones(256), 512.0)
    found["token_embd.weight"] = (numpy.ones(7), 512.0)
    write(tmp_path / "i.gguf", found)
    result = nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", "q4_0", "--imatrix", tmp_path / "i.gguf")
    warnings = result.stderr
    # The head, the embedding, and two of the layers.
    assert "4 of 58 tensors of blocks have no importance" in warnings, warnings
    assert "1 entries met no token" in warnings and "64 inputs have an importance of 0" in warnings, warnings
    assert "1 of 57 entries are of no tensor here" in warnings, warnings
    weights = importance({name: entry for name, entry in found.items() if entry[1]})
    del weights["blk.4.ffn_up.weight"]
    weights["blk.5.ffn_up.weight"] = numpy.ones(256, numpy.float32)
    assert_blocks(tmp_path / "m.gguf", model, quantizers, weights)


def lie(kind, model, path):
    found, name = entries(model), "blk.1.ffn_down.weight"
    if kind == "nan":
        found[name][0][5] = numpy.nan
    elif kind == "infinite":
        found[name][0][5] = numpy.inf
    elif kind == "negative":
        found[name][0][5] = -1
    elif kind == "negative count":
        found[name] = (found[name][0], -1.0)
    elif kind == "count nan":
        found[name] = (found[name][0], float("nan"))
    elif kind == "wrong size":
        found[name] = (found[name][0][:128], 512.0)
    elif kind == "another model":
        found = {f"x.{name}": entry for name, entry in found.items()}
    elif kind == "no matrix":
        found = {}
    write(path, found, **({"blk__0__attn_q__weight__counts2": numpy.ones((1, 1), numpy.float32)} if kind == "no matrix" else {}),
          **({"lone__in_sum2": numpy.ones((1, 4), numpy.float32)} if kind == "no counts" else {}),
          **({"lone__counts": numpy.ones((1, 1), numpy.float32)} if kind == "no sums" else {}),
          **({"odd__in_sum2": numpy.ones((1, 5), numpy.float32), "odd__counts": numpy.ones((2, 1), numpy.float32)} if kind == "odd" else {}),
          **({"across__in_sum2": numpy.ones((4, 2), numpy.float32), "across__counts": numpy.ones((2, 1), numpy.float32)} if kind == "across" else {}),
          **({"deep__in_sum2": numpy.ones((2, 2, 2), numpy.float32), "deep__counts": numpy.ones((1, 1), numpy.float32)} if kind == "deep" else {}),
          **({"none__in_sum2": numpy.ones((1, 4), numpy.float32), "none__counts": numpy.ones((0, 1), numpy.float32)} if kind == "none counted" else {}),
          **({"f16__in_sum2": numpy.ones((1, 4), numpy.float16), "f16__counts": numpy.ones((1, 1), numpy.float32)} if kind == "f16" else {}))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("kind, code", [
    ("nan", 3), ("infinite", 3), ("negative", 3), ("negative count", 3), ("count nan", 3), ("wrong size", 5), ("another model", 5), ("no matrix", 3),
    ("no counts", 3), ("no sums", 3), ("odd", 3), ("across", 3), ("deep", 3), ("none counted", 3), ("f16", 3), ("cut", 3)])
def test_files_that_lie_are_refused(nibble, model, tmp_path, kind, code):
    lie(kind, model, tmp_path / "i.gguf")
    assert_refused(nibble, model, tmp_path, tmp_path / "i.gguf", code)


def assert_refused(nibble, model, folder, file, code, *options):
    result = nibble("quantize", model, "-o", folder / "m.gguf", *(options or ("--gguf-type", "q4_0")), "--imatrix", file, exits=code)
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("nibble: error: "), result.stderr
    assert not list(folder.glob("*m.gguf*"))


@pytest.mark.parametrize("kind", ["empty", "noise", "many entries", "long name", "negative calls", "no numbers", "many numbers", "cut", "twice", "more", "nan"])
def test_older_files_that_lie_are_refused(nibble, model, tmp_path, kind):
    path, one = tmp_path / "i.dat", struct.pack("<i", 4) + b"name" + struct.pack("<ii", 2, 3) + numpy.ones(3, numpy.float32).tobytes()
    write_older(path, entries(model))
    whole = path.read_bytes()
    path.write_bytes({
        "empty": b"", "noise": bytes(range(256)), "many entries": struct.pack("<i", 1 << 30) + whole[4:],
        "long name": struct.pack("<ii", 1, 1 << 30) + bytes(64), "negative calls": struct.pack("<i", 1) + one.replace(struct.pack("<ii", 2, 3), struct.pack("<ii", -2, 3)),
        "no numbers": struct.pack("<i", 1) + struct.pack("<i", 4) + b"name" + struct.pack("<ii", 2, 0) + bytes(8),
        "many numbers": struct.pack("<i", 1) + struct.pack("<i", 4) + b"name" + struct.pack("<ii", 2, 2**31 - 1) + bytes(8),
        "cut": whole[: len(whole) // 2], "twice": struct.pack("<i", 2) + one + one, "more": whole + bytes(5),
        "nan": struct.pack("<i", 1) + one[:-4] + struct.pack("<f", float("nan"))}[kind])
    assert_refused(nibble, model, tmp_path, path, 3)


def test_flags_without_an_effect_are_refused(nibble, model, tmp_path):
    write(tmp_path / "i.gguf", entries(model))
    assert_refused(nibble, model, tmp_path, tmp_path / "i.gguf", 2, "--gguf-type", "q8_0")
    result = nibble("quantize", model, "-o", tmp_path / "m.nbl", "--imatrix", tmp_path / "i.gguf", exits=2)
    assert "--imatrix is for GGUF files" in result.stderr, result.stderr


class Data(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


@pytest.mark.parametrize("mix", ["q4_k_m", "q4_0", "iq4_nl", "q5_0", "q3_k_l", "q2_k"])
def test_whole_models_are_those_of_llama_cpps_quantizer(nibble, model, tmp_path, mix):
    # Only its cache on disk needs this.
    sys.modules.setdefault("diskcache", types.ModuleType("diskcache"))
    llama_cpp = pytest.importorskip("llama_cpp")
    found = entries(model)
    write(tmp_path / "i.gguf", found)
    nibble("convert", model, "-o", tmp_path / "f32.gguf", "--gguf-type", "f32")
    nibble("quantize", model, "-o", tmp_path / "ours.gguf", "--gguf-type", mix, "--imatrix", tmp_path / "i.gguf")
    weights = importance(found)
    data = (Data * (len(weights) + 1))()
    for place, (name, values) in enumerate(weights.items()):
        data[place] = Data(name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), len(values))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(gguf.GGUFReader(tmp_path / "ours.gguf").fields["general.file_type"].contents())
    params.imatrix, params.nthread = ctypes.cast(data, type(params.imatrix)), 1
    assert llama_cpp.llama_model_quantize(str(tmp_path / "f32.gguf").encode(), str(tmp_path / "theirs.gguf").encode(), ctypes.byref(params)) == 0
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors}
    for tensor in gguf.GGUFReader(tmp_path / "ours.gguf").tensors:
        assert tensor.tensor_type == theirs[tensor.name].tensor_type, tensor.name
        assert numpy.array_equal(tensor.data, theirs[tensor.name].data), (tensor.name, tensor.tensor_type)


# MARK: Importance and codes from a text


def mean_squares(folder, windows):
    """What the matrices of a model's layers take: the mean of x² over all tokens, with transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums, hooks = {}, []
    for name, module in model.named_modules():
        if ".layers." in name and isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(
                lambda _, x, name=name: sums.__setitem__(name, sums.get(name, 0) + x[0].double().square().sum((0, 1)))))
    with torch.no_grad():
        for window in windows:
            model(input_ids=torch.tensor([window]), use_cache=False)
    count = sum(len(window) for window in windows)
    return {name: (total / count).float().numpy() for name, total in sums.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of ids, which are taken as they are."""
    path, random = tmp_path_factory.mktemp("rows") / "rows.jsonl", numpy.random.default_rng(5)
    windows = [[int(token) for token in random.integers(3, 512, 64)] for _ in range(24)]
    path.write_text("".join(f'{{"input_ids": {window}, "labels": {window}}}\n' for window in windows))
    return path, windows


def test_calibrate_writes_what_llama_imatrix_would(nibble, stories, rows, tmp_path):
    path, windows = rows
    nibble("calibrate", stories, "--data", path, "--tokens", 24 * 64, "-o", tmp_path / "i.gguf")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "i.gguf").tensors}
    expected = mean_squares(stories, windows)
    assert len(found) == 2 * len(expected)
    for name, values in expected.items():
        layer, inside = name.split(".layers.")[1].split(".", 1)
        ours = f"blk.{layer}.{INSIDE[inside]}.weight"
        assert found[f"{ours}.counts"].item() == 24 * 64
        assert numpy.allclose(found[f"{ours}.in_sum2"].ravel() / (24 * 64), values, rtol=2e-4, atol=1e-9), name
    # The same in one step.
    nibble("quantize", stories, "-o", tmp_path / "a.gguf", "--gguf-type", "q4_0", "--imatrix", tmp_path / "i.gguf")
    nibble("quantize", stories, "-o", tmp_path / "b.gguf", "--gguf-type", "q4_0", "--encoder", "imatrix", "--calibration", path,
           "--calibration-tokens", 24 * 64)
    a, b = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in "ab")
    assert all(numpy.array_equal(one.data, other.data) for one, other in zip(a, b))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A layer whose rows are blocks of 256."""
    folder = tmp_path_factory.mktemp("wide") / "m"
    save_random(transformers.LlamaForCausalLM, "llama", folder, hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2,
                num_hidden_layers=1, head_dim=64, vocab_size=512, tie_word_embeddings=True)
    shutil.copy(ROOT / "Tests" / "Fixtures" / "tokenizers" / "stories512" / "tokenizer.model", folder)
    return folder


@pytest.mark.parametrize("kind", ["q4_0", "q4_k", *(pytest.param(kind, marks=SLOW) for kind in ("q4_1", "iq4_nl", "iq4_xs"))])
def test_calibrated_codes_leave_less(nibble, stories, wide, rows, tmp_path, kind):
    """Blocks as ggml decodes them, with a smaller error of the outputs than the weighted search leaves."""
    path, windows = rows
    is_wide, mix = kind in ("q4_k", "iq4_xs"), {"q4_k": "q4_k_s"}.get(kind, kind)
    stories = wide if is_wide else stories
    text = ("--calibration", path, "--calibration-tokens", 24 * 64)
    nibble("quantize", stories, "-o", tmp_path / "imatrix.gguf", "--gguf-type", mix, "--encoder", "imatrix", *text)
    words = ("quantize", stories, "--gguf-type", mix, "--encoder", "calibrated", *text)
    report = nibble.json(*words, "-o", tmp_path / "calibrated.gguf")["calibration"]
    if kind == "q4_0":
        nibble(*words, "-o", tmp_path / "again.gguf", "-j", 1)
        assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "calibrated.gguf").read_bytes()
    weight = load_file(stories / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float().numpy()
    energies, left = mean_squares(stories, windows)["model.layers.0.mlp.up_proj"], {}
    for encoder in ("imatrix", "calibrated"):
        tensor = next(one for one in gguf.GGUFReader(tmp_path / f"{encoder}.gguf").tensors if one.name == "blk.0.ffn_up.weight")
        assert tensor.tensor_type.name.lower() == kind
        left[encoder] = gguf.quants.dequantize(tensor.data, tensor.tensor_type) - weight
        assert (left[encoder] ** 2 * energies).sum() < 0.05 * (weight**2 * energies).sum()
    # Single columns err more; what matters is what they do together, which the program's own report measures.
    assert report["output_error"] < report["output_error_mse"] and report["calibrated_tensors"] > 0, report


@pytest.mark.parametrize("mix, bad", [("q4_k_m", numpy.nan), ("q4_k_m", 7e7), ("iq4_xs", 1e9)])
def test_weights_that_no_block_holds_are_refused(nibble, wide, rows, tmp_path, mix, bad):
    """NaN, and numbers beyond what scales in float16 reach: with a text as without."""
    folder = shutil.copytree(wide, tmp_path / "m")
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = float(bad)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for text in ((), ("--encoder", "calibrated", "--calibration", rows[0], "--calibration-tokens", 24 * 64)):
        result = nibble("quantize", folder, "-o", tmp_path / "m.gguf", "--gguf-type", mix, *text, exits=6)
        errors = [line for line in result.stderr.splitlines() if "warning: " not in line]
        assert len(errors) == 1 and errors[0].startswith("nibble: error: "), result.stderr
        assert not list(tmp_path.glob("*m.gguf*"))


def test_an_importance_far_from_1_leaves_the_weights(nibble, model, tmp_path):
    found = entries(model)
    found["blk.1.ffn_up.weight"] = (numpy.full(256, 1e-44, numpy.float32), 1.0)
    found["blk.2.ffn_up.weight"] = (numpy.full(256, 3e38, numpy.float32), 1.0)
    write(tmp_path / "i.gguf", found)
    nibble("quantize", model, "-o", tmp_path / "m.gguf", "--gguf-type", "q4_0", "--imatrix", tmp_path / "i.gguf")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    source = load_file(model / "model.safetensors")
    for layer in (1, 2):
        tensor, weight = stored[f"blk.{layer}.ffn_up.weight"], source[f"model.layers.{layer}.mlp.up_proj.weight"].float().numpy()
        left = gguf.quants.dequantize(tensor.data, tensor.tensor_type) - weight
        assert (left.astype(float) ** 2).sum() < 0.1 * (weight.astype(float) ** 2).sum(), layer


def test_a_type_without_a_search_is_refused_before_the_text(nibble, stories, tmp_path):
    """The text is not there: nothing opens it."""
    result = nibble("quantize", stories, "-o", tmp_path / "m.gguf", "--gguf-type", "q8_0", "--encoder", "imatrix", "--calibration",
                    tmp_path / "none.jsonl", exits=2)
    assert "--encoder imatrix is for types" in result.stderr and "--imatrix" not in result.stderr, result.stderr


@pytest.mark.parametrize("words, code", [(("--encoder", "mse"), 2), (("--calibration", "x"), 2), (("--encoder", "calibrated", "--imatrix", "x"), 3)])
def test_encoders_of_other_codecs_are_refused(nibble, stories, tmp_path, words, code):
    result = nibble("quantize", stories, "-o", tmp_path / "m.gguf", "--gguf-type", "q4_0", *words, exits=code)
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "m.gguf").exists(), result.stderr
