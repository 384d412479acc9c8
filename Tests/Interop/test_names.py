"""Adapters name their base as Hugging Face's libraries find it, and carry a card that its hub reads."""
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from models import make, small_config
from transformers import LlamaForCausalLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENIZER = '{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"}}'
LOADS = """
import json, sys, traceback
from peft import AutoPeftModelForCausalLM
for line in sys.stdin:
    try:
        factors = [(name, p) for name, p in AutoPeftModelForCausalLM.from_pretrained(line.strip()).named_parameters() if "lora" in name]
        found = [sorted({name.split(".")[-4] for name, _ in factors if "lora_A" in name}), sum(p.numel() for _, p in factors)]
    except Exception:
        found = traceback.format_exc()
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache that holds org/tiny."""
    home = tmp_path_factory.mktemp("home")
    storage = home / "hub" / "models--org--tiny"
    snapshot = storage / "snapshots" / COMMIT
    make(LlamaForCausalLM, small_config("llama")).save_pretrained(snapshot)
    (snapshot / "tokenizer.json").write_text(TOKENIZER)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    return home


def train(nibble, home, base, out, *more):
    rows = out.parent / "rows.jsonl"
    rows.write_text('{"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5]}\n')
    subprocess.run(
        [nibble.path, "finetune", "--base", base, "--data", rows, "-o", out, "--max-steps", "1", *more], check=True,
        env=os.environ | {"HF_HOME": str(home)})
    return json.loads((out / "adapter_config.json").read_text())


@pytest.fixture(scope="module")
def loaded(home):
    """What PEFT finds: names of modules and the count of numbers. Asked of one process, whose cache is `home`."""
    peft = subprocess.Popen(
        [sys.executable, "-c", LOADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"})

    def ask(adapter):
        print(adapter, file=peft.stdin, flush=True)
        found = json.loads(peft.stdout.readline())
        assert isinstance(found, list), found
        return found

    yield ask
    peft.stdin.close()
    peft.wait()


def quantize(nibble, home, source, out, *more):
    subprocess.run([nibble.path, "quantize", source, "-o", out, *more], check=True, env=os.environ | {"HF_HOME": str(home)},
                   stdout=subprocess.DEVNULL)


def test_an_adapter_trained_on_a_block_file_is_loaded_with_its_base(nibble, home, loaded, tmp_path):
    quantize(nibble, home, "org/tiny", tmp_path / "m.nbl")
    config = train(nibble, home, tmp_path / "m.nbl", tmp_path / "a", "--target-modules", "q_proj,v_proj")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    modules, count = loaded(tmp_path / "a")
    assert modules == ["q_proj", "v_proj"] and count > 0
    card = ModelCard.load(tmp_path / "a" / "README.md").data
    assert (card.base_model, card.library_name, card.pipeline_tag) == ("org/tiny", "peft", "text-generation")
    assert {"lora", "base_model:adapter:org/tiny"} <= set(card.tags)


def test_a_folder_is_its_own_name(nibble, home, loaded, tmp_path):
    make(LlamaForCausalLM, small_config("llama")).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(TOKENIZER)
    config = train(nibble, home, tmp_path / "m", tmp_path / "a")
    assert config["base_model_name_or_path"] == str(tmp_path / "m") and config["revision"] is None
    loaded(tmp_path / "a")
    card = ModelCard.load(tmp_path / "a" / "README.md").data
    assert card.base_model is None and card.library_name == "peft"


def test_a_name_that_is_given_wins(nibble, home, loaded, tmp_path):
    snapshot = home / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    quantize(nibble, home, snapshot, tmp_path / "m.nbl", "--base-name", "other/name@v1")
    config = train(nibble, home, tmp_path / "m.nbl", tmp_path / "a")
    assert (config["base_model_name_or_path"], config["revision"]) == ("other/name", "v1")
    config = train(nibble, home, tmp_path / "m.nbl", tmp_path / "b", "--base-name", "org/tiny")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", None)
    loaded(tmp_path / "b")


def test_adapters_made_of_adapters_have_cards(nibble, home, loaded, tmp_path):
    quantize(nibble, home, "org/tiny", tmp_path / "m.nbl")
    train(nibble, home, tmp_path / "m.nbl", tmp_path / "a")
    nibble("adapter", "resize", tmp_path / "a", "--rank", 2, "-o", tmp_path / "small")
    nibble("adapter", "combine", tmp_path / "a", tmp_path / "small", "-o", tmp_path / "both")
    nibble("adapter", "convert", tmp_path / "a", "--to", "mlx", "-o", tmp_path / "mlx")
    for name, library in (("small", "peft"), ("both", "peft"), ("mlx", "mlx")):
        card = ModelCard.load(tmp_path / name / "README.md").data
        assert (card.base_model, card.library_name) == ("org/tiny", library)
    loaded(tmp_path / "both")


def test_an_extracted_adapter_names_its_base_and_short_targets(nibble, home, loaded, tmp_path):
    base = home / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    train(nibble, home, base, tmp_path / "a", "--target-modules", "q_proj,down_proj", "--learning-rate", "0.1")
    nibble("merge", "--base", base, "--adapter", tmp_path / "a", "-o", tmp_path / "tuned")
    nibble("adapter", "extract", base, tmp_path / "tuned", "--rank", 4, "-o", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    loaded(tmp_path / "out")
