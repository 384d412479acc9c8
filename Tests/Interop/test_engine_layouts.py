"""Folders in the layouts of other engines: GPTQ's and AWQ's against the formulas of their programs in NumPy, MLX's against MLX."""
import json
import pathlib

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import make, small_config

IDS = torch.tensor([[5, 6, 7, 8, 20, 33, 2, 9]])
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
RNG = np.random.default_rng(5)


@pytest.fixture
def source(request, tmp_path):
    """A tiny Llama's folder: rows of 128 and 256, which a group of 128 divides."""
    torch.manual_seed(3)
    config = small_config("llama", hidden_size=128, intermediate_size=256, head_dim=32, tie_word_embeddings=False)
    make(transformers.LlamaForCausalLM, config, getattr(request, "param", torch.float32)).save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def words(numbers, order=range(8)):
    """Eight numbers of the last axis to a word of 32 bits."""
    groups = numbers.reshape(*numbers.shape[:-1], -1, 8).astype(np.uint64)
    packed = sum(groups[..., number] << np.uint64(4 * place) for place, number in enumerate(order))
    return torch.from_numpy((packed & 0xFFFFFFFF).astype(np.uint32).view(np.int32).copy())


def numbers(packed, order=range(8)):
    bits = packed.numpy().view(np.uint32)
    found = np.zeros((*bits.shape, 8), np.uint8)
    for place, number in enumerate(order):
        found[..., number] = (bits >> np.uint32(4 * place)) & 15
    return found.reshape(*bits.shape[:-1], -1)


def gptq_weight(tensors, module, added):
    """What the first programs compute: zero points one by one, not as words, so without zero points of 0."""
    codes = numbers(tensors[module + ".qweight"].T.contiguous()).astype(np.float32)
    zeros = numbers(tensors[module + ".qzeros"]).astype(np.float32) + added
    scales, index = tensors[module + ".scales"].float().numpy(), tensors[module + ".g_idx"].numpy()
    values = scales[index] * (codes.T - zeros[index])
    return torch.from_numpy(np.ascontiguousarray(values.T)).to(tensors[module + ".scales"].dtype)


def modules(tensors, ending=".qweight"):
    return [name[: -len(ending)] for name in tensors if name.endswith(ending)]


def settings(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def change_config(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("options", [(), ("--group-size", "32", "--zeros", "int"), ("--group-size", "row", "--encoder", "absmax")])
def test_gptq_weights_are_those_of_its_formula(nibble, source, tmp_path, options):
    folder, again = tmp_path / "packed", tmp_path / "again"
    nibble("quantize", source, "-o", folder, "--format", "gptq", "-q", *options)
    said, found = settings(folder), load_file(folder / "model.safetensors")
    assert said["sym"] == ("--zeros" not in options)
    assert said["checkpoint_format"] == ("gptq" if said["sym"] else "gptq_v2") and said["bits"] == 4
    assert len(modules(found)) == 14
    nibble("dequantize", folder, "-o", tmp_path / "plain", "--dtype", "fp16", "-q")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for module in modules(found):
        expected = gptq_weight(found, module, 1 if said["sym"] else 0)
        assert found[module + ".scales"].dtype == torch.float16
        assert torch.equal(plain[module + ".weight"], expected), module
    # Codes move there and back, and the folder is the same to the byte.
    nibble("convert", folder, "-o", tmp_path / "model.nbl", "-q")
    nibble("convert", tmp_path / "model.nbl", "-o", again, "--format", "gptq", "-q")
    for name in ("model.safetensors", "config.json", "nibble.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def foreign(source, folder, make_tensors, quantization):
    """A folder as another program writes it: every projection packed by `make_tensors`, the rest as it was."""
    tensors, expected = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            tensors[name] = weight
            continue
        own, expected[name] = make_tensors(*weight.shape)
        tensors |= {f"{module}.{key}": value for key, value in own.items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((source / "config.json").read_text())
    change_config(folder, quantization_config=quantization)
    return expected


def drawn(outputs, inputs, group):
    codes = RNG.integers(0, 16, (outputs, inputs))
    zeros = RNG.integers(0, 16, (outputs, inputs // group))
    scales = RNG.uniform(0.001, 0.02, (outputs, inputs // group)).astype(np.float16)
    spread = [np.repeat(x, group, axis=1) for x in (scales, zeros)]
    weight = (spread[0].astype(np.float32) * (codes.astype(np.float32) - spread[1])).astype(np.float16)
    return codes, zeros, scales, torch.from_numpy(weight)


def gptq_tensors(group, version):
    def made(outputs, inputs):
        codes, zeros, scales, weight = drawn(outputs, inputs, group)
        packed = words(np.ascontiguousarray(zeros.T))
        # GPTQModel takes one from each of a word's zero points by a subtraction of words, with borrows.
        packed = packed if version == "gptq_v2" else (packed.long() - 0x11111111 & 0xFFFFFFFF).to(torch.int64)
        packed = torch.from_numpy(packed.numpy().astype(np.uint32).view(np.int32).copy()) if packed.dtype == torch.int64 else packed
        return {
            "qweight": words(codes).T.contiguous(), "qzeros": packed, "scales": torch.from_numpy(np.ascontiguousarray(scales.T)),
            "g_idx": torch.arange(inputs, dtype=torch.int32) // group,
        }, weight
    return made


def awq_tensors(group):
    def made(outputs, inputs):
        codes, zeros, scales, weight = drawn(outputs, inputs, group)
        return {
            "qweight": words(np.ascontiguousarray(codes.T), AWQ_ORDER), "qzeros": words(np.ascontiguousarray(zeros.T), AWQ_ORDER),
            "scales": torch.from_numpy(np.ascontiguousarray(scales.T)),
        }, weight
    return made


def logits(nibble, base, tmp_path):
    save_file({"input_ids": IDS}, tmp_path / "ids.safetensors")
    nibble("forward", "--base", base, "--ids", tmp_path / "ids.safetensors", "-o", tmp_path / "logits.safetensors", "-q", "--force")
    return load_file(tmp_path / "logits.safetensors")["logits"].float()


CASES = [
    ("gptq", {"bits": 4, "group_size": 32, "desc_act": False, "sym": False, "quant_method": "gptq"}),
    ("gptq", {"bits": 4, "group_size": 64, "sym": False, "quant_method": "gptq", "checkpoint_format": "gptq_v2"}),
    ("awq", {"bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "quant_method": "awq"}),
]


@pytest.mark.parametrize("layout, said", CASES)
def test_folders_of_others_are_read_run_and_moved(nibble, source, tmp_path, layout, said):
    folder, group = tmp_path / "theirs", said["group_size"]
    made = awq_tensors(group) if layout == "awq" else gptq_tensors(group, said.get("checkpoint_format", "gptq"))
    expected = foreign(source, folder, made, said)
    nibble("verify", folder)
    nibble("dequantize", folder, "-o", tmp_path / "plain", "-q")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    for name, weight in expected.items():
        assert torch.equal(plain[name], weight), name
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    # A dense model of the same values gives the same logits, up to the order of sums.
    nibble("dequantize", folder, "-o", tmp_path / "dense", "--dtype", "fp32", "-q")
    theirs, dense = logits(nibble, folder, tmp_path), logits(nibble, tmp_path / "dense", tmp_path)
    assert (theirs - dense).abs().max() <= 1e-4 * dense.abs().max()
    for format in ("gptq", "compressed-tensors"):
        nibble("convert", folder, "-o", tmp_path / format, "--format", format, "-q")
        nibble("dequantize", tmp_path / format, "-o", tmp_path / f"{format}-plain", "-q")
        moved = load_file(tmp_path / f"{format}-plain" / "model.safetensors")
        assert all(torch.equal(moved[name], weight) for name, weight in expected.items())
        assert nibble("hash", tmp_path / format).stdout.split()[0] == nibble("hash", folder).stdout.split()[0]


@pytest.mark.parametrize("outputs", [128, 20])
def test_the_library_reads_zero_points(nibble, tmp_path, outputs):
    """Asymmetric weights, as compressed-tensors itself takes them apart and puts them together. transformers does not load such folders,
    its own included: it expects zero points that are not packed."""
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    save_file({"m.weight": torch.randn(outputs, 128)}, tmp_path / "m.safetensors")
    nibble("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "packed.safetensors", "--format", "compressed-tensors", "--zeros", "int",
           "--group-size", "32", "-q")
    nibble("dequantize", tmp_path / "packed.safetensors", "-o", tmp_path / "plain.safetensors", "--dtype", "fp16", "-q")
    found, plain = load_file(tmp_path / "packed.safetensors"), load_file(tmp_path / "plain.safetensors")["m.weight"]
    own = {name.removeprefix("m."): value for name, value in found.items()}
    weight = PackedQuantizationCompressor.decompress(own, scheme)["weight"]
    assert torch.equal(weight.float(), plain.float())
    zeros = torch.randint(-8, 8, (outputs, 4), dtype=torch.int8)
    theirs = PackedQuantizationCompressor.compress(
        {"weight": weight, "weight_scale": own["weight_scale"], "weight_zero_point": zeros}, scheme)
    save_file({f"m.{name}": value.contiguous() for name, value in theirs.items()}, tmp_path / "theirs.safetensors")
    nibble("dequantize", tmp_path / "theirs.safetensors", "-o", tmp_path / "again.safetensors", "-q")
    expected = PackedQuantizationCompressor.decompress(theirs, scheme)["weight"]
    assert torch.equal(load_file(tmp_path / "again.safetensors")["m.weight"].float(), expected.float())


def test_mlx_lm_reads_an_awq_folder_as_nibble_does(nibble, source, tmp_path):
    """mlx-lm has a reader of AWQ's layout of its own."""
    import mlx.core as mx
    from mlx_lm.utils import _transform_awq_weights

    folder = tmp_path / "theirs"
    foreign(source, folder, awq_tensors(32), CASES[2][1])
    nibble("dequantize", folder, "-o", tmp_path / "plain", "--dtype", "fp32", "-q")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    weights, _ = _transform_awq_weights(mx.load(str(folder / "model.safetensors")), CASES[2][1])
    for name in [name for name in plain if name.endswith("_proj.weight")]:
        module = name.removesuffix(".weight")
        parts = [weights[f"{module}.{part}"] for part in ("weight", "scales", "biases")]
        values = np.array(mx.dequantize(*parts, group_size=32, bits=4).astype(mx.float32))
        # MLX rounds scale, product and sum to float16.
        assert np.abs(values - plain[name].numpy()).max() <= 2e-3 * np.abs(values).max(), name


BROKEN = [
    ("scales or qzeros are missing", lambda t: t.pop("scales")),
    ("scales is F16 of shape", lambda t: t.update(scales=t["scales"][:1].contiguous())),
    ("qzeros is I64", lambda t: t.update(qzeros=t["qzeros"].long())),
    ("qweight is I64", lambda t: t.update(qweight=t["qweight"].long())),
    ("in group 99 of", lambda t: t["g_idx"].__setitem__(3, 99)),
    ("in group -1 of", lambda t: t["g_idx"].__setitem__(3, -1)),
    ("desc_act", lambda t: t.update(g_idx=t["g_idx"].flip(0).contiguous())),
    ("g_idx is I32 of shape", lambda t: t.update(g_idx=t["g_idx"][:8].contiguous())),
    ("plain as well", lambda t: t.update(weight=torch.zeros(4, 4))),
    ("the codes it belongs to", lambda t: t.pop("qweight")),
]


@pytest.mark.parametrize("words, damage", BROKEN)
def test_broken_weights_are_refused_by_name(nibble, source, tmp_path, words, damage):
    folder = tmp_path / "theirs"

    def made(*shape):
        tensors, weight = gptq_tensors(32, "gptq_v2")(*shape)
        damage(tensors)
        return tensors, weight

    foreign(source, folder, made, CASES[1][1] | {"group_size": 32})
    error = nibble("inspect", folder, exits=3).stderr
    assert words in error and "_proj" in error and len(error.strip().splitlines()) == 1, error


@pytest.mark.parametrize("said, words", [
    ({"bits": 8}, "bits"), ({"bits": 3}, "bits"), ({"group_size": 0}, "group_size"), ({"group_size": 48}, "group_size"),
    ({"checkpoint_format": "marlin"}, "checkpoint_format"), ({"pack_dtype": "int64"}, "pack_dtype"),
    ({"dynamic": {"+:.*down.*": {"bits": 8}}}, "dynamic"), ({"sym": True}, "zero points are not 8"),
    ({"group_size": -1}, "scales is F16"),
])
def test_settings_that_are_not_read_are_refused_by_name(nibble, source, tmp_path, said, words):
    foreign(source, tmp_path / "theirs", gptq_tensors(32, "gptq_v2"), CASES[1][1] | {"group_size": 32} | said)
    assert words in nibble("inspect", tmp_path / "theirs", exits=3).stderr


def test_settings_in_a_file_of_their_own(nibble, source, tmp_path):
    folder = tmp_path / "theirs"
    expected = foreign(source, folder, gptq_tensors(32, "gptq"), None)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "sym": False}))
    nibble("dequantize", folder, "-o", tmp_path / "plain", "-q")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert all(torch.equal(plain[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("version", ["gemv", "gemv_fast"])
def test_other_versions_of_awq_are_refused(nibble, source, tmp_path, version):
    foreign(source, tmp_path / "theirs", awq_tensors(32), CASES[2][1] | {"version": version})
    assert "version" in nibble("inspect", tmp_path / "theirs", exits=3).stderr


def mlx_model(folder):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder)
    return mx, model


def mlx_logits(mx, model):
    return torch.from_numpy(np.array(model(mx.array(IDS.numpy())).astype(mx.float32)))


def plain_mlx(tensors, module):
    codes = numbers(tensors[module + ".weight"].view(torch.int32)).astype(np.float32)
    scales, offsets = (tensors[f"{module}.{part}"].float().numpy() for part in ("scales", "biases"))
    group = codes.shape[1] // scales.shape[1]
    return torch.from_numpy(np.repeat(scales, group, 1) * codes + np.repeat(offsets, group, 1))


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("options", [(), ("--group-size", "32", "--encoder", "absmax")])
def test_mlx_lm_loads_it(nibble, source, tmp_path, options):
    folder, again = tmp_path / "packed", tmp_path / "again"
    nibble("quantize", source, "-o", folder, "--format", "mlx", "-q", *options)
    mx, model = mlx_model(folder)
    found = load_file(folder / "model.safetensors")
    nibble("dequantize", folder, "-o", tmp_path / "plain", "--dtype", "fp32", "-q")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert len(modules(found, ".scales")) == 14
    for module in modules(found, ".scales"):
        assert torch.equal(plain[module + ".weight"], plain_mlx(found, module)), module
    theirs, own = mlx_logits(mx, model), logits(nibble, folder, tmp_path)
    tolerance = 1e-4 if found["model.norm.weight"].dtype == torch.float32 else 0.1
    assert (theirs - own.view_as(theirs)).abs().max() <= tolerance * theirs.abs().max()
    nibble("convert", folder, "-o", tmp_path / "model.nbl", "-q")
    nibble("convert", tmp_path / "model.nbl", "-o", again, "--format", "mlx", "-q")
    for name in ("model.safetensors", "config.json", "nibble.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


@pytest.mark.parametrize("group", [32, 64])
def test_it_reads_what_mlx_lm_writes(nibble, source, tmp_path, group):
    """Embedding and head are packed too, and scales are of either sign."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import quantize_model, save_config

    mx, model = mlx_model(source)
    config = json.loads((source / "config.json").read_text())
    model, config = quantize_model(model, config, group_size=group, bits=4)
    folder = tmp_path / "theirs"
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
    save_config(config, folder / "config.json")
    nibble("verify", folder)
    nibble("dequantize", folder, "-o", tmp_path / "plain", "-q")
    stored, plain = load_file(folder / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors")
    assert len(modules(stored, ".scales")) == 16
    for module in modules(stored, ".scales"):
        assert torch.equal(plain[module + ".weight"], plain_mlx(stored, module)), module
    said = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization" not in said and "quantization_config" not in said
    theirs, own = mlx_logits(mx, model), logits(nibble, folder, tmp_path)
    assert (theirs - own.view_as(theirs)).abs().max() <= 1e-4 * theirs.abs().max()
    nibble("convert", folder, "-o", tmp_path / "model.nbl", "-q")
    nibble("convert", tmp_path / "model.nbl", "-o", tmp_path / "again", "--format", "mlx", "-q")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in stored.items())


def test_a_module_of_its_own_bits_is_refused(nibble, source, tmp_path):
    nibble("quantize", source, "-o", tmp_path / "packed", "--format", "mlx", "-q")
    change_config(tmp_path / "packed", quantization={"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8}},
                  quantization_config=None)
    (tmp_path / "packed" / "nibble.json").unlink()
    assert "model.layers.0.mlp.up_proj: bits = '8'" in nibble("inspect", tmp_path / "packed", exits=3).stderr


FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "Fixtures"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("options", [("gptq",), ("gptq", "--zeros", "int"), ("compressed-tensors", "--zeros", "int"), ("mlx",)])
def test_merges_are_undone(nibble, tmp_path, options, own):
    """Of folders that nibble wrote, and of those of others, which have no nibble.json."""
    base, merged, undone = tmp_path / "base", tmp_path / "merged", tmp_path / "undone"
    nibble("quantize", FIXTURES / "models" / "llama", "-o", base, "--group-size", "32", "-q", "--format", *options)
    if not own:
        (base / "nibble.json").unlink()
    nibble("merge", base, FIXTURES / "adapters" / "dec_lora_qv", "-o", merged, "--undo", tmp_path / "undo", "--min-survival", "0", "-q")
    assert settings(merged) == settings(base)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, merged))
    changed = {name.rsplit(".", 1)[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qv"}
    nibble("unmerge", merged, "--undo", tmp_path / "undo", "-o", undone, "-q")
    again = load_file(undone / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in before.items()) and again.keys() == before.keys()
    assert (undone / "config.json").read_bytes() == (base / "config.json").read_bytes()


@pytest.mark.parametrize("made, said", [
    (gptq_tensors(32, "gptq_v2"), CASES[1][1] | {"group_size": 32}), (awq_tensors(32), CASES[2][1])])
def test_large_weights_go_through_in_pieces(nibble, tmp_path, made, said):
    """Pieces begin and end within a row, and within the rows that share words."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    tensors, weight = made(1032, 2080)
    save_file({f"m.{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none", "quantization_config": said}))
    nibble("convert", folder, "-o", tmp_path / "model.nbl", "-q")
    for number, source in enumerate((folder, tmp_path / "model.nbl")):
        nibble("dequantize", source, "-o", tmp_path / f"{number}.safetensors", "-q")
        assert torch.equal(load_file(tmp_path / f"{number}.safetensors")["m.weight"], weight)
    nibble("convert", tmp_path / "model.nbl", "-o", tmp_path / "gptq", "--format", "gptq", "-q")
    moved = load_file(tmp_path / "gptq" / "model.safetensors")
    assert torch.equal(gptq_weight(moved, "m", 0), weight)


def test_a_merge_into_awq_is_compressed_tensors(nibble, source, tmp_path):
    folder = tmp_path / "theirs"
    foreign(source, folder, awq_tensors(32), CASES[2][1])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file({name + "A.weight": torch.randn(2, 128), name + "B.weight": torch.randn(128, 2)}, adapter / "adapter_model.safetensors")
    nibble("merge", folder, adapter, "-o", tmp_path / "merged", "--min-survival", "0", "-q")
    assert settings(tmp_path / "merged")["quant_method"] == "compressed-tensors"
    error = nibble("merge", folder, adapter, "-o", tmp_path / "again", "--undo", tmp_path / "undo", "-q", exits=2).stderr
    assert "AWQ" in error and not (tmp_path / "again").exists()
