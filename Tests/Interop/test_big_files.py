"""Checkpoints that are large in bytes or in tensors: what opens them takes neither long nor much memory. NIBBLE_SLOW=1 runs this."""
import json
import os
import struct
import subprocess
import sys
import time

import pytest

# Ten seconds where Python reads a header of 200 000 tensors in 0.4 s, and longer where it takes longer: processors differ, and other tests
# run beside this one.
SECONDS, MEGABYTES, PACE = 10, 500, 0.4

pytestmark = pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="files of 23 GB and 200 000 tensors: NIBBLE_SLOW=1")


def write(path, tensors):
    """A file of bfloat16 tensors of zeros that takes no room: its data is a hole."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at


def llama(hidden=4096, inner=14336, vocabulary=128256, keys=1024, layers=range(48)):
    """The weights of a Llama of 11.5 billion: (layer, name, shape)."""
    yield 0, "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in layers:
        for name, shape in (
                ("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [keys, hidden]), ("self_attn.v_proj", [keys, hidden]),
                ("self_attn.o_proj", [hidden, hidden]), ("mlp.gate_proj", [inner, hidden]), ("mlp.up_proj", [inner, hidden]),
                ("mlp.down_proj", [hidden, inner]), ("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden])):
            yield layer, f"model.layers.{layer}.{name}.weight", shape
    yield 0, "model.norm.weight", [hidden]
    yield 0, "lm_head.weight", [vocabulary, hidden]


def experts():
    for number in range(200_000):
        yield number // 2000, f"model.layers.{number // 2000}.mlp.experts.{number % 2000}.down_proj.weight", [8, 8]


def sharded(folder, tensors, shards):
    """A folder of shards with their index."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    parts = [[] for _ in range(shards)]
    for layer, name, shape in tensors:
        parts[layer % shards].append((name, shape))
    names = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    total = sum(write(folder / name, part) for name, part in zip(names, parts))
    places = {tensor: name for name, part in zip(names, parts) for tensor, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    assert write(folder / "bytes.safetensors", [rest for _, *rest in llama()]) > 20e9
    write(folder / "tensors.safetensors", [rest for _, *rest in experts()])
    sharded(folder / "shards-of-bytes", llama(), 8)
    sharded(folder / "shards-of-tensors", experts(), 8)
    return folder


# Started from here, a program would be given the memory of this process as its own before it begins. Seconds are the processor's:
# other tests run beside this one.
MEASURE = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr)
"""


def assert_within_bounds(nibble, folder, *words):
    with open(folder / "said", "wb") as said:
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, nibble.path, *words], cwd=folder, stdout=said, stderr=subprocess.PIPE, text=True)
    code, seconds, megabytes = map(float, done.stderr.splitlines()[-1].split())
    print(f"\n{' '.join(words)}: {seconds:.2f} s, {megabytes:.0f} MB")
    assert code == 0 and (folder / "said").stat().st_size > 0
    assert megabytes < MEGABYTES
    assert seconds < SECONDS or seconds < SECONDS * pace() / PACE


def pace():
    """Processor seconds in which Python reads such a header now, the median of three."""
    header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 128]} for _, name, shape in experts()})
    taken = []
    for _ in range(3):
        began = time.process_time()
        json.loads(header)
        taken.append(time.process_time() - began)
    return sorted(taken)[1]


# What many bytes take shows in one verb; many tensors in each.
@pytest.mark.parametrize("name, words", [
    ("bytes.safetensors", "plan quantize -o out.nbl"), ("shards-of-bytes", "inspect --json"),
    ("tensors.safetensors", "inspect"), ("tensors.safetensors", "inspect --json"),
    ("tensors.safetensors", "plan quantize -o out.nbl"), ("tensors.safetensors", "plan quantize --format bnb -o out"),
    ("shards-of-tensors", "plan quantize -o out.nbl")])
def test_it_opens_within_bounds(nibble, big, name, words):
    assert_within_bounds(nibble, big, *words.split(), name)


def test_verify_reads_200_000_tensors_within_bounds(nibble, big):
    """All but the reading of the bytes, of which there are few."""
    nibble("convert", big / "tensors.safetensors", "-o", big / "tensors.nbl")
    for name in ("tensors.safetensors", "tensors.nbl"):
        assert_within_bounds(nibble, big, "verify", name)
