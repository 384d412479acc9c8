"""Corrections beside calibrated codes: PEFT loads them on the bitsandbytes folder, and computes what nibble computes."""
import json

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from models import make, small_config

IDS = torch.tensor([[5, 6, 7, 8, 20, 33, 2, 9]])


@pytest.mark.parametrize("model_type, name", [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel")])
def test_peft_loads_it_on_the_bitsandbytes_folder(nibble, tmp_path, model_type, name):
    torch.manual_seed(5)
    sizes = {"n_embd": 64, "n_head": 4} if model_type == "gpt2" else {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    make(getattr(transformers, name), small_config(model_type, **sizes), torch.float32).save_pretrained(tmp_path / "source")
    rows = [{"input_ids": torch.randint(3, 40, (24,)).tolist()} for _ in range(40)]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = nibble("quantize", tmp_path / "source", "-o", tmp_path / "packed", "--format", "bnb", "--encoder", "calibrated", "--calibration",
                  tmp_path / "ids.jsonl", "--correction", 4, "--json", "-q").stdout
    assert json.loads(said)["correction"]["modules"] > 0
    nibble("dequantize", tmp_path / "packed", "-o", tmp_path / "twin", "--dtype", "fp32", "-q")

    def logits(folder):
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder).eval()
        with torch.no_grad():
            plain = base(IDS).logits.float()
            return plain, PeftModel.from_pretrained(base, tmp_path / "packed-correction").eval()(IDS).logits.float()

    save_file({"input_ids": IDS}, tmp_path / "ids.safetensors")
    nibble("forward", "--base", tmp_path / "packed", "--adapter", tmp_path / "packed-correction", "--ids", tmp_path / "ids.safetensors",
           "-o", tmp_path / "logits.safetensors", "-q")
    plain, theirs = logits("twin")
    ours = load_file(tmp_path / "logits.safetensors")["logits"].float().view_as(theirs)
    assert (theirs - ours).abs().max() <= 1e-5 * theirs.abs().max()
    assert (theirs - plain).abs().max() > 1e-3 * theirs.abs().max()
    # bitsandbytes multiplies in bfloat16.
    assert (logits("packed")[1] - ours).abs().max() <= 0.03 * ours.abs().max()
