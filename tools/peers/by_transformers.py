"""Packs a model folder the way the documentation of transformers says: MODEL OUT."""
import sys

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

model, out = sys.argv[1:]
settings = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
AutoModelForCausalLM.from_pretrained(
    model, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.bfloat16).save_pretrained(out)
