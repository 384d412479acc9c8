"""Packs a model folder with bitsandbytes tensor by tensor, as a script that wants to be fast does it: MODEL OUT."""
import json
import pathlib
import re
import sys

from bitsandbytes import functional
from safetensors import safe_open
from safetensors.torch import save_file

model, out = map(pathlib.Path, sys.argv[1:])
out.mkdir()
packed = {}
for path in sorted(model.glob("*.safetensors")):
    with safe_open(path, "pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            if not re.search(r"_proj\.weight$", name):
                packed[name] = tensor
                continue
            codes, state = functional.quantize_4bit(
                tensor, blocksize=64, quant_type="nf4", compress_statistics=True)
            packed[name] = codes
            packed |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
save_file(packed, out / "model.safetensors", metadata={"format": "pt"})
config = json.loads((model / "config.json").read_text())
config["quantization_config"] = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
(out / "config.json").write_text(json.dumps(config))
