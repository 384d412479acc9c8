"""A real language model, SmolLM2-135M-Instruct: nibble's answers to 200 questions of each set are those of lm-evaluation-harness.

NIBBLE_SMOLLM2 names the folder with the model; `tools/interop` fetches it where it is not set.
"""
import json
import os
import pathlib

import pytest
from lm_eval_vectors import FOLDER, SETS, asked, questions

pytestmark = pytest.mark.skipif(not os.environ.get("NIBBLE_SLOW"), reason="takes minutes: NIBBLE_SLOW=1")


@pytest.fixture(scope="session")
def smollm2():
    if not (named := os.environ.get("NIBBLE_SMOLLM2")):
        pytest.skip("NIBBLE_SMOLLM2, a folder with the model, is not set: tools/interop fetches it")
    return pathlib.Path(named)


def answers(nibble, model, name, rows, folder):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shots = SETS[name][1]
    few = ["--few-shot", shots, "--exemplars", FOLDER / "mmlu_solved.jsonl"] if shots else []
    report = nibble.json("evaluate", model, folder / "rows.jsonl", "--task", "choices", "--question-style", SETS[name][0], "--predictions", folder / "p.jsonl", *few)
    return report, [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_answers_are_those_of_lm_eval(nibble, work, smollm2, name):
    wanted = json.loads((FOLDER / "lm_eval.json").read_text())[name]
    rows = [row for own in asked(name).values() for row in own]
    assert len(rows) == len(wanted["log_probabilities"])
    report, told = answers(nibble, smollm2, name, rows, work)
    for numbers, greedy, row in zip(wanted["log_probabilities"], wanted["greedy"], told, strict=True):
        assert row["log_probabilities"] == pytest.approx(numbers, abs=5e-3), row["place"]
        assert row["greedy"] == greedy, row["place"]
    for key in ("acc", "acc_norm"):
        if key in wanted:
            assert report[key] == pytest.approx(wanted[key], abs=1e-9)


def test_the_vectors_are_what_lm_eval_finds(smollm2, work):
    """The peer itself, on the first rows of each set."""
    import torch
    import transformers
    from lm_eval_peer import ask

    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    wanted = json.loads((FOLDER / "lm_eval.json").read_text())
    for name in ("arc_easy", "arc_challenge", "winogrande", "mmlu"):
        found, _ = ask(questions(name, work, limit=3)[:1], model, tokenizer)[0]
        for (numbers, greedy), expected, flags in zip(found, wanted[name]["log_probabilities"], wanted[name]["greedy"]):
            assert numbers == pytest.approx(expected, abs=1e-3) and greedy == flags
