"""Chat templates: what nibble renders is what Jinja renders in transformers, its masks are transformers' masks, and a conversation is
continued by the same tokens."""
import copy
import json
import shutil
import subprocess

import drawn_templates
import pytest
import tokenizers
import torch
import transformers
from running import save_random

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TRIMMED = (
    "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}{%- generation -%}{{ m.content | trim }}{%- endgeneration -%}"
    "{% else %}{{ m.content }}{% endif %} {% endfor %}")
TOOLS = """{{ bos_token }}
{%- if tools %}
{{- "You may call: " }}
    {%- for tool in tools %}
{{ tool | tojson(indent=2) }}
    {%- endfor %}

{% endif %}
{%- set ns = namespace(system=none, last=-1) %}
{%- for m in messages %}
    {%- if m.role == "system" %}{% set ns.system = m.content %}{% endif %}
    {%- if m.role == "user" %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- macro call(c) %}<call>{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}</call>{% endmacro %}
{%- for m in messages if m.role != "system" %}
    {%- if (m.role == "user") and not loop.first and loop.previtem.role == "user" %}
        {{- raise_exception("two messages of the user's: " ~ m.content) }}
    {%- endif %}
<{{ m.role | title }}>
    {%- if loop.index0 == 0 and ns.system is not none %}
{{ ns.system.strip().split("\\n")[0] | upper }}
    {%- endif %}
    {%- if m.content is string %}{{ m.content }}
    {%- elif m.content is iterable %}{{ m.content | selectattr("type", "equalto", "text") | map(attribute="text") | join("|") }}
    {%- endif %}
    {%- for c in m.tool_calls or [] %}{{ call(c) }}{% endfor %}
    {%- if m.reasoning_content is defined and m.reasoning_content %}[{{ m["reasoning_content"][:5] }}]{% endif %}
</{{ loop.cycle("a", "b") }}>
{%- endfor %}
{%- if add_generation_prompt %}
<Assistant>{{ eos_token if enable_thinking is defined and not enable_thinking }}
{%- endif %}"""

PIECES = ["Hello", "你好", "🦙", " 👍🏽", "\n", "  ", "don't", "ß", "def f():\n\treturn 1", "<|im_end|>", "é", "1234", "…", "Z̷"]


def conversations(seed, count):
    random = drawn_templates.Drawing(seed).random
    def text():
        return "".join(random.choice(PIECES) + random.choice(["", " "]) for _ in range(random.randint(1, 8)))
    for _ in range(count):
        messages = [{"role": "system", "content": text()}] if random.random() < 0.5 else []
        for _ in range(random.randint(1, 3)):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        yield messages


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model with a byte-level tokenizer that has the marks of ChatML."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(PIECES * 50 + ["assistant user system "] * 50, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>")
    fast.save_pretrained(folder)
    own = save_random(transformers.LlamaForCausalLM, "llama", folder, vocab_size=512, max_position_embeddings=1024,
                      bos_token_id=0, eos_token_id=1, pad_token_id=1)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return folder, fast, own


@pytest.mark.parametrize("seed", [11, 12])
def test_drawn_templates(nibble, tmp_path, seed):
    (tmp_path / "context.json").write_text(json.dumps(drawn_templates.CONTEXT))
    wrong = []
    for template, expected in drawn_templates.cases(seed, 250):
        (tmp_path / "t.jinja").write_text(template, newline="")
        result = subprocess.run(
            [nibble.path, "tokenize", "--render", tmp_path / "t.jinja", "--context", tmp_path / "context.json", "--trim-blocks",
             "--lstrip-blocks"], capture_output=True, text=True, timeout=60)
        if "support" in result.stderr or "64 bits" in result.stderr:
            continue
        if (result.stdout if result.returncode == 0 else None) != expected:
            wrong.append((template, expected, result.stdout, result.stderr))
    assert not wrong


@pytest.mark.parametrize("template", [CHATML, TOOLS])
def test_conversations(nibble, model, tmp_path, template):
    """Text and ids of `tokenize --messages` are those of `apply_chat_template`, tools and thoughts too."""
    folder, fast, _ = model
    here = tmp_path / "model"
    shutil.copytree(folder, here)
    (here / "chat_template.jinja").write_text(template)
    tools = [{"type": "function", "function": {"name": "get", "description": "Gets «it».", "parameters": {"type": "object"}}}]
    rows = [{"messages": messages} for messages in conversations(1, 8)]
    rows += [{"messages": rows[0]["messages"], "tools": tools, "enable_thinking": False}]
    rows += [{"messages": [{"role": "user", "content": "a"}, {
        "role": "assistant", "content": None if template is TOOLS else "b", "reasoning": "because", "tool_calls": [
            {"function": {"name": "f", "arguments": {"x": [1.0, "é", None]}}}]}]}]
    for row in rows:
        (tmp_path / "c.json").write_text(json.dumps(row))
        result = nibble("tokenize", "--tokenizer", here, "--messages", tmp_path / "c.json", "--add-generation-prompt", "--json")
        found, more = json.loads(result.stdout), copy.deepcopy(row)
        ids = fast.apply_chat_template(more.pop("messages"), chat_template=template, add_generation_prompt=True, return_dict=False, **more)
        assert found["ids"] == ids
        assert found["text"] == fast.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("template", [CHATML, TRIMMED])
def test_masks(nibble, model, tmp_path, template):
    """What is learned is `return_assistant_tokens_mask`, to the token; without marks in the template, the same by prefixes."""
    folder, fast, _ = model
    rows = list(conversations(2, 60))
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"messages": messages}) for messages in rows))
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for name, source in [("marked", template), *([("plain", plain)] if template is CHATML else [])]:
        (tmp_path / f"{name}.jinja").write_text(source)
        for turns in ("all", "last"):
            result = nibble("finetune", "--base", folder, "--data", tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--template",
                            tmp_path / f"{name}.jinja", "--train-on-turns", turns, "--show-batch", "--batch-size", len(rows), "--json")
            for messages, found in zip(rows, json.loads(result.stdout)):
                out = fast.apply_chat_template(messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
                mask = out["assistant_masks"]
                if turns == "last":
                    before = fast.apply_chat_template(messages[:-1], chat_template=template, return_dict=False)
                    mask = [kept and place >= len(before) for place, kept in enumerate(mask)]
                    if template is TRIMMED:
                        continue  # the answer's first token may begin in the text before it
                assert found["input_ids"] == out["input_ids"]
                assert found["labels"] == [token if kept else -100 for token, kept in zip(out["input_ids"], mask)]


def test_generate(nibble, model, tmp_path):
    """`generate --chat` adds the tokens that transformers' greedy search adds to the rendered conversation."""
    folder, fast, own = model
    here = tmp_path / "model"
    shutil.copytree(folder, here)
    (here / "chat_template.jinja").write_text(CHATML)
    prompt = fast.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello 🦙"}], chat_template=CHATML,
        add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        expected = own.float().generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=16, do_sample=False,
            eos_token_id=1, pad_token_id=1)[0, len(prompt):].tolist()
    result = nibble("generate", "--base", here, "--chat", "--system", "Be brief.", "--prompt", "Hello 🦙", "--max-new-tokens", 16,
                    "--compute-dtype", "fp32", "--json")
    found = json.loads(result.stdout)
    assert found["prompt_tokens"] == len(prompt)
    assert found["ids"] == [token for token in expected if token != 1]
