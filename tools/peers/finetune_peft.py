"""Trains a LoRA adapter with PEFT on a model folder, plain or of bitsandbytes, a row a step: MODEL ROWS DTYPE RANK ALPHA RATE THREADS.

Prints one line of JSON: seconds and loss of each step, and how many numbers were trained.
"""
import json
import sys
import time

import peft
import torch
import transformers

model_path, rows, dtype = sys.argv[1:4]
rank, alpha, rate, threads = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7])
dtype = getattr(torch, dtype)
torch.set_num_threads(threads)
torch.manual_seed(1)

config = transformers.AutoConfig.from_pretrained(model_path)
packing = getattr(config, "quantization_config", None)
if packing is not None:
    # The folder's own counts, whatever is passed to from_pretrained.
    packing["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
base = transformers.AutoModelForCausalLM.from_pretrained(model_path, config=config, device_map={"": "cpu"}, dtype=dtype)
if packing is not None:
    import bitsandbytes

    layers = [module for module in base.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert layers and all(layer.compute_dtype == dtype for layer in layers)
    for layer in layers:
        # As it is when weights are packed while loading in this type; otherwise the way back rounds them to the folder's.
        layer.weight.quant_state.dtype = dtype
    if dtype == torch.float32:
        # Of a packed folder the embedding, head and norms keep the folder's type, and with them what goes between layers. In
        # bf16 nothing needs preparing: attaching freezes the base.
        base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
assert base.get_input_embeddings().weight.dtype == dtype
model = peft.get_peft_model(base, peft.LoraConfig(
    r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"))
# Before the first pass: layers that evaluate bring their codes into an order that cannot be trained on.
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)

said = {"trained": sum(parameter.numel() for parameter in trained), "seconds": [], "losses": []}
with open(rows) as file:
    rows = [json.loads(line) for line in file]
for row in rows:
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    started = time.perf_counter()
    optimizer.zero_grad()
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    # As Trainer does, and nibble.
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    said["seconds"].append(time.perf_counter() - started)
    said["losses"].append(loss.item())
print(json.dumps(said))
