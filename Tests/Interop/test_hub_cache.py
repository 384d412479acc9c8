"""Models in the cache that huggingface_hub keeps, laid out by its own functions: blobs, links to them, branches, commits."""
import hashlib
import os
import pathlib
import subprocess

import pytest
from huggingface_hub import file_download, snapshot_download
from models import make, small_config
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

COMMITS = ("1" * 40, "1" * 7 + "2" * 33, "abcdef0123456789abcdef0123456789abcdef01")
BRANCHES = {"main": 0, "feature/long-context": 1, "refs/pr/3": 1, "v1.0+cu12": 2, "größer": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of three commits, each with another model, and an adapterless repository of a tokenizer."""
    home = tmp_path_factory.mktemp("home")
    storage = home / "hub" / "models--org--tiny.model_1-x"
    for number, commit in enumerate(COMMITS):
        source = tmp_path_factory.mktemp("model")
        make(LlamaForCausalLM, small_config("llama", hidden_size=32 * (number + 1))).save_pretrained(source)
        (source / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}}')
        for path in source.iterdir():
            blob = storage / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(path.read_bytes())
            pointer = storage / "snapshots" / commit / path.name
            pointer.parent.mkdir(parents=True, exist_ok=True)
            file_download._create_symlink(str(blob), str(pointer))
            assert pointer.is_symlink()
    for branch, number in BRANCHES.items():
        file_download._cache_commit_hash_for_specific_revision(str(storage), branch, COMMITS[number])
    return home


def ask(nibble, words, home=None, **environment):
    """Runs nibble with nothing known of any cache but what is given; exit code and what was said."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    if home:
        environment["HF_HOME"] = str(home)
    done = subprocess.run(
        [nibble.path, *map(str, words)], env=known | {name: str(value) for name, value in environment.items()}, capture_output=True,
        text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def identity(nibble, path):
    return nibble.json("hash", path)["identity"]


@pytest.mark.parametrize("revision, number", [
    *BRANCHES.items(), *((commit, number) for number, commit in enumerate(COMMITS)), ("abcdef0", 2), ("1" * 8, 0), (None, 0)])
def test_every_way_to_name_a_revision_is_the_library_s(nibble, home, revision, number):
    name = "org/tiny.model_1-x" + (f"@{revision}" if revision else "")
    snapshot = home / "hub" / "models--org--tiny.model_1-x" / "snapshots" / COMMITS[number]
    if revision is None or len(revision) > 8:
        # The library resolves short commits by asking its server, so offline only whole ones.
        kept = pathlib.Path(snapshot_download("org/tiny.model_1-x", revision=revision, cache_dir=home / "hub", local_files_only=True))
        assert kept.samefile(snapshot)
    code, said = ask(nibble, ["hash", name], home)
    assert code == 0 and identity(nibble, snapshot) in said


@pytest.mark.parametrize("name", [
    "org/tiny.model_1-x@other", "org/tiny.model_1-x@1111111", "org/tiny.model_1-x@abcdef", "org/tiny.model_1-x@../blobs",
    "org/tiny.model_1-x@" + COMMITS[0] + "/.", "org/tiny.model_1-x@refs", "org/tiny.model_1-x@", "org/none", "../org/tiny.model_1-x"])
def test_what_is_not_there_is_said(nibble, home, name):
    code, said = ask(nibble, ["hash", name], home)
    assert code == 3 and said.startswith("nibble: error: ") and said.count("\n") == 1


@pytest.mark.parametrize("variables", [
    {"HF_HUB_CACHE": "{home}/hub"}, {"HUGGINGFACE_HUB_CACHE": "{home}/hub"}, {"HF_HOME": "{home}"},
    {"HF_HUB_CACHE": "{home}/hub", "HF_HOME": "/nowhere"}, {"HF_HUB_CACHE": "", "HF_HOME": "{home}"},
    {"XDG_CACHE_HOME": "{home}/.cache"}, {"HOME": "{home}"}, {"HOME": "{home}", "HF_HOME": "~/.cache/huggingface"}])
def test_the_cache_is_where_the_library_looks(nibble, home, variables):
    standard = home / ".cache" / "huggingface"
    if not standard.exists():
        standard.parent.mkdir()
        standard.symlink_to(home)
    code, said = ask(nibble, ["hash", "org/tiny.model_1-x"], **{name: value.format(home=home) for name, value in variables.items()})
    assert code == 0, said


def test_an_existing_path_wins(nibble, home, work):
    folder = work / "org" / "tiny.model_1-x"
    make(LlamaForCausalLM, small_config("llama", hidden_size=96)).save_pretrained(folder)
    done = subprocess.run(
        [nibble.path, "hash", "org/tiny.model_1-x"], cwd=work, env=os.environ | {"HF_HOME": str(home)}, capture_output=True, text=True)
    assert identity(nibble, folder) in done.stdout


def test_the_cache_is_only_read(nibble, home, work):
    def state():
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in home.rglob("*")}

    before = state()
    name = "org/tiny.model_1-x@main"
    for words in (["verify", name], ["inspect", name], ["quantize", name, "-o", work / "a.nbl"], ["tokenize", "--tokenizer", name, "a"],
                  ["convert", name, "-o", work / "b", "--format", "safetensors"]):
        code, said = ask(nibble, words, home)
        assert code == 0, said
    assert state() == before


def test_an_adapter_in_the_cache(nibble, home):
    storage = home / "hub" / "models--org--adapter"
    model = make(LlamaForCausalLM, small_config("llama", hidden_size=32))
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(storage / "snapshots" / COMMITS[0])
    file_download._cache_commit_hash_for_specific_revision(str(storage), "main", COMMITS[0])
    for words in (["inspect", "org/adapter"], ["adapter", "inspect", "org/adapter@main"]):
        code, said = ask(nibble, words, home)
        assert code == 0 and "model.layers.*.self_attn.q_proj" in said, said


def test_a_blob_that_is_gone(nibble, home):
    storage = home / "hub" / "models--org--gone"
    pointer = storage / "snapshots" / COMMITS[0] / "model.safetensors"
    pointer.parent.mkdir(parents=True)
    (pointer.parent / "config.json").write_text("{}")
    pointer.symlink_to("../../blobs/nothing")
    code, said = ask(nibble, ["hash", f"org/gone@{COMMITS[0]}"], home)
    assert code == 3 and "model.safetensors" in said
