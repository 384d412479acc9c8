"""llama.cpp's own converters, run in this process (they take longer to start than to convert), and what the files they write hold.

`tools/interop` unpacks them. Import `gguf` from here: the converters come with one of their own, which may be newer than the released one.
"""
import contextlib
import importlib
import io
import logging
import pathlib
import runpy
import sys
import unittest.mock

import torch

LLAMA_CPP = pathlib.Path(sys.prefix) / "llama.cpp"
IS_HERE = (LLAMA_CPP / "convert_hf_to_gguf.py").exists()
for module in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
    del sys.modules[module]
sys.path.insert(0, str(LLAMA_CPP / "gguf-py"))
import gguf  # noqa: E402


@contextlib.contextmanager
def _running(*words):
    """Words of a command line, and a converter that says nothing."""
    if str(LLAMA_CPP) not in sys.path:
        sys.path.insert(1, str(LLAMA_CPP))
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with unittest.mock.patch.object(sys, "argv", [str(word) for word in words]), contextlib.redirect_stderr(io.StringIO()):
            yield
    except SystemExit as exit:
        if exit.code:
            raise RuntimeError(f"{words[0]} exited {exit.code}") from None
    finally:
        logging.disable(before)


def convert(folder, out, kind="f32", *options, pre=None):
    """A model's folder as GGUF.

    - pre: the name of the pre-tokenizer, of which the converter knows those of published tokenizers only; None for what it finds
    """
    with _running("convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", kind, *options):
        converter = importlib.import_module("convert_hf_to_gguf")
        base = importlib.import_module("conversion.base")
        model, load = base.TextModel, base.ModelBase.load_hparams
        found = (lambda self, tokenizer: pre) if pre else model.get_vocab_base_pre

        def numbers(*words, **more):
            """Those of a configuration; transformers 5 has another name for a number of GPT-NeoX than the converter asks for."""
            read = load(*words, **more)
            if read.get("model_type") == "gpt_neox":
                read.setdefault("rotary_pct", (read.get("rope_parameters") or {}).get("partial_rotary_factor", 0.25))
            return read

        with unittest.mock.patch.object(model, "get_vocab_base_pre", found), unittest.mock.patch.object(base.ModelBase, "load_hparams", numbers):
            converter.main()
    return out


def convert_adapter(adapter, base, out, kind="f32"):
    """PEFT's adapter as GGUF."""
    with _running("convert_lora_to_gguf.py", adapter, "--base", base, "--outfile", out, "--outtype", kind):
        runpy.run_path(str(LLAMA_CPP / "convert_lora_to_gguf.py"), run_name="__main__")
    return out


def contents(path):
    """Keys with types and values, and tensors with types, shapes and bytes, in the order of the file."""
    reader = gguf.GGUFReader(path)
    keys = [(name, [kind.name for kind in field.types], field.contents())
            for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    tensors = [(tensor.name, tensor.tensor_type.name, list(tensor.shape), tensor.data.tobytes()) for tensor in reader.tensors]
    return keys, tensors


def assert_same_file(ours, theirs, near=(), ordered=True, ignoring=(), sorted_keys=False):
    """The same bytes; where they are not, what is different.

    - near: tensors that may be a rounding apart
    - ordered: whether tensors must come in the same order
    - ignoring: keys that may differ
    - sorted_keys: whether keys may come in another order
    """
    if ours.read_bytes() == theirs.read_bytes():
        return
    (keys, tensors), (their_keys, their_tensors) = (
        ([key for key in keys if key[0] not in ignoring], tensors if ordered else sorted(tensors)) for keys, tensors in (contents(ours), contents(theirs)))
    if sorted_keys:
        keys, their_keys = (sorted(both, key=lambda key: key[0]) for both in (keys, their_keys))
    assert [key[0] for key in keys] == [key[0] for key in their_keys], set(key[0] for key in keys) ^ set(key[0] for key in their_keys)
    for own, other in zip(keys, their_keys):
        # NaN, such as the score of a token, is itself.
        assert own == other or repr(own) == repr(other), f"{own[0]} is {str(own[1:])[:200]}, not {str(other[1:])[:200]}"
    assert [tensor[:3] for tensor in tensors] == [tensor[:3] for tensor in their_tensors]
    for own, other in zip(tensors, their_tensors):
        if own[0] in near:
            a, b = (torch.frombuffer(bytearray(data[3]), dtype=torch.float32) for data in (own, other))
            assert torch.allclose(a, b, rtol=1e-6), f"{own[0]} differs"
        else:
            assert own[3] == other[3], f"{own[0]} differs"
    assert near or not ordered or ignoring, "keys and tensors are the same, and the files are not"
