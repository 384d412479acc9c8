"""Training compared with PyTorch's, step by step on the same rows; adapters that come out are PEFT's to load."""
import json
import pathlib

import peft
import pytest
import torch
import transformers
from running import as_float32, assert_same, expected, forward, random_ids, save_random
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from test_adapters_running import LLAMA, by_peft, class_and_type, packed_and_twin, save_adapter

STEPS, BATCH, ACCUMULATION, RATE = 6, 2, 2, 5e-3
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--gradient-accumulation-steps", ACCUMULATION, "--learning-rate", RATE,
       "--no-shuffle", "--lr-scheduler", "linear", "--warmup-steps", 1, "--weight-decay", "0.01", "--max-grad-norm", "0.5"]


def rows(model, path, labels=None):
    """Rows of different lengths, some of whose tokens count for nothing."""
    made = []
    for number in range(STEPS * BATCH * ACCUMULATION):
        ids = random_ids(model, 1, 9 + number % 5)[0].tolist()
        row = {"input_ids": ids, "labels": [-100] * (number % 4) + ids[number % 4:]}
        made.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def of_tokens(model, row):
    """The summed loss of a row's tokens, and their number."""
    labels = torch.tensor([row["labels"]])
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    return loss, int((labels[0, 1:] != -100).sum())


def by_torch(model, made, parameters=None, loss_of=of_tokens):
    """The same steps; losses and gradient norms."""
    parameters = [p for p in model.parameters() if p.requires_grad] if parameters is None else parameters
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1, STEPS)
    model.eval()  # no dropout
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for micro in range(ACCUMULATION):
            first = (step * ACCUMULATION + micro) * BATCH
            losses, count = 0.0, 0
            for row in made[first:first + BATCH]:
                own, number = loss_of(model, row)
                losses, count = losses + own, count + number
            loss = losses / count / ACCUMULATION
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        schedule.step()
        seen.append((total, norm.item()))
    return seen


def assert_same_steps(folder, seen):
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row, (loss, norm) in zip(metrics, seen, strict=True):
        assert row["loss"] == pytest.approx(loss, rel=2e-5)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-4)


@pytest.mark.parametrize("name, settings", [
    (LLAMA, {"target_modules": "all-linear"}), (LLAMA, {"target_modules": "all-linear", "use_dora": True}),
    (LLAMA, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
    (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["down_proj"]}),
    (LLAMA, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm", "post_attention_layernorm"]}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["wpe", "ln_1", "ln_f"]}),
    ("Qwen2ForCausalLM", {"target_modules": "all-linear", "bias": "lora_only"}),
    ("MistralForCausalLM", {"target_modules": "all-linear"}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ("GPT2LMHeadModel", {"target_modules": ["c_fc"], "fan_in_fan_out": True, "use_dora": True}),
    # Rows of tokens, in a head of its own and in one that shares them; biases of factors; factors of embeddings.
    (LLAMA, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7, 20]}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "trainable_token_indices": {"wte": [90, 4, 31, 5]}}),
    ("Qwen2ForCausalLM", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "lora_bias": True, "use_rslora": True}),
    (LLAMA, {"target_modules": ["q_proj", "embed_tokens"]}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}),
    # Head and embedding are one weight.
    (LLAMA, {"tie_word_embeddings": True, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    (LLAMA, {"tie_word_embeddings": True, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    (LLAMA, {"tie_word_embeddings": True, "target_modules": ["q_proj"], "trainable_token_indices": [3, 7, 20]}),
], ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)))
@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
def test_steps_are_pytorch_s(nibble, work, name, settings, base):
    model_class, model_type = class_and_type(name)
    tied = {key: value for key, value in settings.items() if key == "tie_word_embeddings"}
    settings = {key: value for key, value in settings.items() if key not in tied}
    save_random(model_class, model_type, work / "m", **tied)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    if base != "plain" and "down_proj" in settings.get("modules_to_save", []):
        pytest.skip("a packed weight is not trained whole from the same values")
    adapter = save_adapter(model_class, theirs, work / "start", **settings)
    model = peft.PeftModel.from_pretrained(as_float32(model_class, theirs), adapter, is_trainable=True)
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", ours, "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN)
    seen = by_torch(model, made)
    assert_same_steps(work / "out", seen)
    final = by_peft(model_class, theirs, work / "out")
    written, read = load_file(work / "out" / "adapter_model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    # What PEFT stores of an adapted embedding's own weight is the base's.
    assert written.keys() == {name for name in read if not name.endswith("base_layer.weight")}
    ids = random_ids(final, 2, 12)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=2e-4)


@pytest.mark.parametrize("name", [LLAMA, "GPT2LMHeadModel"])
@pytest.mark.parametrize("tied", [True, False])
def test_full_training_is_pytorch_s(nibble, work, name, tied):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=tied)
    model = as_float32(model_class, work / "m")
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "full", "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    final = as_float32(model_class, work / "out")
    ids = random_ids(final, 2, 12)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=1e-3)


def test_full_training_of_a_head_that_is_stored_though_it_is_tied(nibble, work):
    """The copy in the file is trained with the table: transformers ties only what is equal."""
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m", tie_word_embeddings=True)
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    model = as_float32(model_class, work / "m")
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "full", "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    final = as_float32(model_class, work / "out")
    ids = random_ids(final, 2, 12)
    assert_same(expected(final, input_ids=ids), expected(model, input_ids=ids), tolerance=1e-3)


WHOLE = {LLAMA: "embed_tokens,norm,lm_head", "GPT2LMHeadModel": "wte,ln_2"}


@pytest.mark.parametrize("method, more", [
    ("lora", []), ("rslora", []), ("dora", []), ("dora", ["--lora-dropout", "0.1"]), ("lora", ["--bias", "all"]),
    ("lora", ["--bias", "lora_only", "--target-modules", "attention"]), ("lora", ["--modules-to-save"]),
    ("lora", ["--init-lora", "gaussian", "--loraplus-ratio", "2", "--rank-pattern", "0=2", "--alpha-pattern", "1=3"]),
], ids=lambda value: value if isinstance(value, str) else "".join(map(str, value)) or "plain")
@pytest.mark.parametrize("name", [LLAMA, "GPT2LMHeadModel"])
def test_new_adapters_load_in_peft_and_say_the_same(nibble, work, name, method, more):
    if more == ["--modules-to-save"]:
        more = [*more, WHOLE[name]]
    model_class, model_type = class_and_type(name)
    model = save_random(model_class, model_type, work / "m")
    rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", method, "-o", work / "out", *RUN, *more)
    ids = random_ids(model, 3, 12)
    said = forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids)
    assert_same(said, expected(by_peft(model_class, work / "m", work / "out"), input_ids=ids))
    assert len(load_file(work / "out" / "adapter_model.safetensors")) > 4


# Each template as jinja.
TEMPLATES = {
    "llama-3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
               "{{ m.content | trim }}<|eot_id|>{% endfor %}",
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }}</s>"
               "{% elif m.role == 'user' %}[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}"
               "{{ messages[0].content }}\n\n{% endif %}{{ m.content }} [/INST]{% endif %}{% endfor %}",
}
CONVERSATIONS = [
    [("user", "Say yes."), ("assistant", "Yes.")],
    [("system", "You are a helpful assistant."), ("user", "Translate: cat"), ("assistant", "le chat")],
    [("user", "Héllo 🦙 你好"), ("assistant", " 👍 "), ("user", "¿Qué?\n\nLine 2 \"quoted\""), ("assistant", "ok <b>\\n</b>")],
    [("system", " S "), ("user", "one"), ("assistant", "zwei"), ("user", "two"), ("assistant", "drei"), ("user", "three")],
]


def parts(text, answers, end):
    """The rendered text, divided before and behind each answer and what ends it."""
    for answer in answers:
        after = text.index(end, text.index(answer.strip())) + len(end)
        start = text.index(answer.strip())
        # A space before it that the template sets, or that is the answer's own, is learned with it.
        while text[start - 1] == " ":
            start -= 1
        yield text[:start], False
        yield text[start:after], True
        text = text[after:]
    if text:
        yield text, False


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_are_written_as_transformers_writes_them_and_answers_are_learned(nibble, work, template):
    """Real byte-level tokens (GPT-2's), the marks of the templates added as special ones. Tokens end where an answer begins, as they
    do when a model is asked: the text before it is what the generation prompt will be."""
    begin, end = {"llama-3": ("<|begin_of_text|>", "<|eot_id|>"), "chatml": (None, "<|im_end|>")}.get(template, ("<s>", "</s>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(pathlib.Path(__file__).parents[1] / "Fixtures/tokenizers/gpt2/tokenizer.json"), bos_token=begin, eos_token=end)
    tokenizer.add_special_tokens({"additional_special_tokens": [
        "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", *([begin] if begin else []), end]})
    if template == "mistral":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))])
    save_random(*class_and_type(LLAMA), work / "m", vocab_size=len(tokenizer), max_position_embeddings=256)
    tokenizer.save_pretrained(work / "m")
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        (work / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
        said = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--template", template, "--show-batch").stdout
        lines = [line.split() for line in said.splitlines()[1:]]
        text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATES[template], tokenize=False)
        ids, learned = [], []
        for part, is_answer in parts(text, [content for role, content in conversation if role == "assistant"], end):
            own = tokenizer(part, add_special_tokens=False)["input_ids"]
            ids, learned = ids + own, learned + [is_answer] * len(own)
        assert [int(line[1]) for line in lines] == ids
        assert [line[0] == "learn" for line in lines] == learned


def test_the_bundled_model_learns_shakespeare_and_merging_keeps_it(nibble, stories, work):
    """Real weights, real text, a minute: train on the packed file, attach, merge, and judge each by the same scene."""
    shakespeare = stories.parent / "shakespeare"
    nibble("quantize", stories, "-o", work / "base.nbl")
    nibble("finetune", "--base", work / "base.nbl", "--data", shakespeare / "train.jsonl", "-o", work / "adapter", "--lora-r", 8,
           "--lora-alpha", 16, "--learning-rate", "5e-3", "--max-steps", 30, "--batch-size", 8)

    def perplexity(base, *options):
        return nibble.json("evaluate", "--base", base, "--task", "perplexity", "--windows", "whole", "--data",
                           shakespeare / "scene.txt", *options)["perplexity"]

    before = perplexity(work / "base.nbl")
    attached = perplexity(work / "base.nbl", "--adapter", work / "adapter")
    assert attached < before / 3
    # The adapter knows the packed form it was trained on: merging into the original packs that first.
    said = nibble.json("merge", "--base", stories, "--adapter", work / "adapter", "-o", work / "merged")
    assert said["trained_on"]
    assert perplexity(work / "merged") == pytest.approx(attached, rel=1e-4)
    nibble("merge", "--base", work / "base.nbl", "--adapter", work / "adapter", "--when-lost", "shape", "-o", work / "shaped.nbl")
    assert attached < perplexity(work / "shaped.nbl") < 1.5 * attached


@pytest.mark.parametrize("name", [LLAMA, "GPT2LMHeadModel"])
@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_are_peft_s_resized_embeddings(nibble, work, name, tied):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", vocab_size=50257, tie_word_embeddings=tied)
    for file in (pathlib.Path(__file__).parents[1] / "Fixtures" / "tokenizers" / "gpt2").glob("tokenizer*.json"):
        (work / "m" / file.name).write_bytes(file.read_bytes())
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    (work / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    run = ["finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--template", "chatml", "--max-steps", 3,
           "--batch-size", 1, "--learning-rate", "1e-2"]
    nibble(*run, "--add-tokens", "-o", work / "out")
    # As users of PEFT load it: the tokenizer from the adapter's folder, the base resized to it, then the adapter.
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(work / "out" / "tokenizer.json"))
    assert len(tokenizer) == 50259 and tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [50257, 50258]
    assert json.loads((work / "out" / "added_tokens.json").read_text()) == {"<|im_start|>": 50257, "<|im_end|>": 50258}
    model = as_float32(model_class, work / "m")
    before = model.get_input_embeddings().weight.detach().clone()
    model.resize_token_embeddings(len(tokenizer))
    model = peft.PeftModel.from_pretrained(model, work / "out").eval()
    text = (work / "out" / "chat_template.jinja").read_text()
    tokenizer.chat_template = text
    ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))])
    assert ids[0, 0] == 50257 and 50258 in ids
    said = forward(nibble, work / "m", work, "--adapter", work / "out", input_ids=ids)
    assert said["logits"].shape[-1] == 50259
    assert_same(said, expected(model, input_ids=ids))
    # The new rows began as the mean of the others, and were trained.
    weights = load_file(work / "out" / "adapter_model.safetensors")
    if tied:
        # Only these rows are stored.
        (rows,) = [value for key, value in weights.items() if ".lora_" not in key]
        assert rows.shape[0] == 2
    else:
        table = next(value for key, value in weights.items() if key.endswith(("embed_tokens.weight", "wte.weight")))
        assert table.shape[0] == 50259
        rows = table[50257:]
    assert 0 < (rows - before.mean(0)).abs().max() < 0.1
    # Merged, it is a model of transformers' with the new vocabulary.
    nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged")
    merged = as_float32(model_class, work / "merged")
    assert merged.config.vocab_size == 50259
    assert_same(expected(merged, input_ids=ids), expected(model, input_ids=ids))
