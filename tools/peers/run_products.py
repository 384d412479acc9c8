"""Times products of torch and of bitsandbytes as a layer of 2048 inputs and 8192 outputs has them: THREADS.

Prints one line of JSON: for every number of rows, GFLOP/s by kind.
"""
import json
import sys
import time

import bitsandbytes
import torch
from bitsandbytes import functional

INPUTS, OUTPUTS, ROWS = 2048, 8192, (1, 32, 512)
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(1)


def speed(rows, body, products=1):
    """GFLOP/s of the best of some runs, a third of a second of them at least."""
    body()
    best, spent = float("inf"), 0.0
    while spent < 0.35:
        started = time.perf_counter()
        body()
        taken = time.perf_counter() - started
        best, spent = min(best, taken), spent + taken
    return 2e-9 * rows * INPUTS * OUTPUTS * products / best


weight = (torch.randn(OUTPUTS, INPUTS) * 0.02).to(torch.bfloat16)
codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
layer = bitsandbytes.nn.Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
layer.load_state_dict({"weight": weight})
layer = layer.to("cpu").eval()
# The same codes, as training sees them; evaluating may bring a layer's into another order.
trained = bitsandbytes.nn.Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
trained.load_state_dict({"weight": weight})
trained = trained.to("cpu").train()

found = {}
for rows in ROWS:
    x = torch.randn(rows, INPUTS).to(torch.bfloat16)
    wide = x.float()
    dense = weight.float()
    asked = x.clone().requires_grad_(True)
    gradient = torch.randn(rows, OUTPUTS).to(torch.bfloat16)

    def train():
        asked.grad = None
        bitsandbytes.matmul_4bit(asked, trained.weight.t(), quant_state=trained.weight.quant_state).backward(gradient)

    with torch.no_grad():
        speeds = {
            "torch fp32": speed(rows, lambda: torch.nn.functional.linear(wide, dense)),
            "torch bf16": speed(rows, lambda: torch.nn.functional.linear(x, weight)),
            "bitsandbytes layer": speed(rows, lambda: layer(x)),
            "bitsandbytes matmul_4bit": speed(
                rows, lambda: bitsandbytes.matmul_4bit(x, trained.weight.t(), quant_state=trained.weight.quant_state)),
        }
    speeds["bitsandbytes, and gradient of x"] = speed(rows, train, 2)
    found[rows] = speeds
print(json.dumps(found))
