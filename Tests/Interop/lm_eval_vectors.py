"""Asks lm-evaluation-harness the questions of Tests/Fixtures/questions, and writes what it finds beside them.

    python lm_eval_vectors.py FOLDER [SET]...       SmolLM2-135M-Instruct, as test_smollm2.py makes it; all sets take some 10 minutes on two cores
"""
import json
import pathlib
import sys
import tempfile

from lm_eval_peer import Questions, ask

FOLDER = pathlib.Path(__file__).parents[1] / "Fixtures/questions"
# Style, rows, whether solved questions are shown before each.
SETS = {"arc_easy": ("arc", 0), "arc_challenge": ("arc", 0), "winogrande": ("winogrande", 0), "mmlu": ("mmlu", 0), "mmlu_5_shot": ("mmlu", 5)}


def rows(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def asked(name):
    """The rows of a set by subject: those of ARC have none."""
    solved = {row["subject"] for row in rows("mmlu_solved")}
    by = {}
    for row in rows("mmlu" if name == "mmlu_5_shot" else name):
        if name != "mmlu_5_shot" or row["subject"] in solved:
            by.setdefault(row.get("subject"), []).append(row)
    return by


def questions(name, folder, limit=None):
    """What `ask` takes, one for each subject."""
    made = []
    for subject, own in asked(name).items():
        place = pathlib.Path(folder) / f"{name}-{subject}"
        place.mkdir()
        shown = [row for row in rows("mmlu_solved") if row["subject"] == subject] if name == "mmlu_5_shot" else []
        made.append(Questions(SETS[name][0], own[:limit], place, shown, subject))
    return made


def main():
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    wanted = sys.argv[2:] or SETS
    found = json.loads((FOLDER / "lm_eval.json").read_text()) if sys.argv[2:] else {}
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            answers = ask(questions(name, folder), model, tokenizer)
        told = [one for answer, _ in answers for one in answer]
        found[name] = {
            "log_probabilities": [[round(number, 4) for number in numbers] for numbers, _ in told], "greedy": [greedy for _, greedy in told]}
        if len(answers) == 1:
            found[name] |= {key: answers[0][1][f"{key},none"] for key in ("acc", "acc_norm") if f"{key},none" in answers[0][1]}
        print(name, len(told), flush=True)
        # After each set: what is there stays.
        (FOLDER / "lm_eval.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
