"""Writes a LoRA adapter for a Llama model as a GGUF file for llama.cpp: ADAPTER OUT.gguf.

Rows stay where they are, as make_gguf.py leaves them.
"""
import json
import pathlib
import sys

import gguf
from safetensors.numpy import load_file

from make_gguf import new_name

adapter, out = map(pathlib.Path, sys.argv[1:])
config = json.loads((adapter / "adapter_config.json").read_text())
writer = gguf.GGUFWriter(out, "llama")
writer.add_type(gguf.GGUFType.ADAPTER)
writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config["lora_alpha"])
for name, values in load_file(adapter / "adapter_model.safetensors").items():
    module, factor, _ = name.removeprefix("base_model.model.").rsplit(".", 2)
    writer.add_tensor(f"{new_name(module + '.weight')}.{factor.lower()}", values)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
