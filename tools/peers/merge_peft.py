"""Merges a LoRA adapter into a model folder, plain or of bitsandbytes, the way PEFT's documentation says: MODEL ADAPTER OUT.

Prints one line of JSON: CPU seconds of each step.
"""
import json
import sys
import time

said = {}


def step(name):
    """What was used since the last step."""
    said[name] = time.process_time() - sum(said.values())


step("start")
import peft
import torch
import transformers

step("import")
model, adapter, out = sys.argv[1:]
base = transformers.AutoModelForCausalLM.from_pretrained(model, device_map={"": "cpu"}, dtype=torch.bfloat16)
step("load")
adapted = peft.PeftModel.from_pretrained(base, adapter)
step("attach")
merged = adapted.merge_and_unload()
step("merge")
# Of a model that was packed when it was loaded transformers cannot undo its conversions; there are none to undo here.
merged.save_pretrained(out, save_original_format=getattr(base.config, "quantization_config", None) is None)
step("save")
print(json.dumps(said))
