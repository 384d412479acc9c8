"""Runs a bitsandbytes folder with transformers, and PEFT adapters on it: MODEL ADAPTER OTHER THREADS PROMPT NEW ROUNDS
LAST.

Prints one line of JSON: tokens a second, seconds of opening, loading and switching.
"""
import json
import statistics
import sys
import time

import peft
import torch
import transformers

model_path, adapter, other = sys.argv[1:4]
threads, prompt_length, new, rounds, is_last = map(int, sys.argv[4:])
torch.set_num_threads(threads)


def seconds(body):
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


@torch.inference_mode()
def speed(model):
    """Tokens a second of a prompt and of greedy generation after it, the middle of some rounds."""
    ids = torch.randint(0, model.config.vocab_size, (1, prompt_length), generator=torch.Generator().manual_seed(1))
    rates = []
    # The first round warms up: kernels choose their ways, pages are touched.
    for count in [2] + [new] * rounds:
        started = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        between = time.perf_counter()
        for _ in range(count - 1):
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        ended = time.perf_counter()
        rates.append((prompt_length / (between - started), (count - 1) / (ended - between)))
    return [statistics.median(column) for column in zip(*rates[1:])]


def open_model():
    return transformers.AutoModelForCausalLM.from_pretrained(model_path, device_map={"": "cpu"}, dtype=torch.bfloat16).eval()


said = {}
started = time.perf_counter()
model = open_model()
said["open"] = time.perf_counter() - started
said["plain"] = speed(model)
said["anonymous"] = anonymous()
# A fresh one: layers that have run hold their weights in another order, which takes PEFT long to undo.
del model
model = open_model()
started = time.perf_counter()
model = peft.PeftModel.from_pretrained(model, adapter, adapter_name="one", low_cpu_mem_usage=True).eval()
said["attach"] = time.perf_counter() - started
said["load"] = seconds(lambda: model.load_adapter(other, adapter_name="two", low_cpu_mem_usage=True))
said["switch"] = statistics.median(seconds(lambda name=name: model.set_adapter(name)) for name in ("two", "one") * 5)
said["adapted"] = speed(model)
if is_last:
    said["load when running"] = seconds(lambda: model.load_adapter(other, adapter_name="three", low_cpu_mem_usage=True))
print(json.dumps(said))
