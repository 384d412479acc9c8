"""EleutherAI's lm-evaluation-harness on rows of a local file: what it computes for each question."""
import copy
import json
import pathlib

STYLES = {
    "arc": "arc_easy", "hellaswag": "hellaswag", "piqa": "piqa", "winogrande": "winogrande", "openbookqa": "openbookqa", "boolq": "boolq",
    "siqa": "social_iqa", "mmlu": "mmlu_abstract_algebra",
}


def ask(style, rows, model, tokenizer, folder, shots=0, exemplars=None, subject=None):
    """A list of (log-probabilities, greedy, figures), one a row, in the rows' order."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    manager = TaskManager()
    folder = pathlib.Path(folder)
    files = {"test": folder / "test.jsonl"}
    files["test"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    if exemplars:
        files["train"] = folder / "train.jsonl"
        files["train"].write_text("".join(json.dumps(row) + "\n" for row in exemplars))
    entry = manager.task_index[STYLES[style]]
    config = copy.deepcopy(load_yaml(entry.yaml_path, resolve_func=True))
    for key in ["dataset_name", "tag", "task_alias", "group", "training_split", "validation_split", "fewshot_split"]:
        config.pop(key, None)
    config.update(
        task=f"local_{style}", dataset_path="json", dataset_kwargs={"data_files": {key: str(path) for key, path in files.items()}},
        test_split="test", num_fewshot=shots)
    if exemplars:
        config.update(fewshot_split="train", fewshot_config={"sampler": "first_n"})
    if subject:
        config["description"] = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1), tasks=[config], num_fewshot=shots, bootstrap_iters=0,
        task_manager=manager, log_samples=True, verbosity="ERROR")
    (samples,) = found["samples"].values()
    samples.sort(key=lambda sample: sample["doc_id"])
    (figures,) = found["results"].values()
    return [([float(one[0]) for one in s["filtered_resps"]], [bool(one[1]) for one in s["filtered_resps"]]) for s in samples], figures
