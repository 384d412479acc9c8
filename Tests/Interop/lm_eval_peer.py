"""EleutherAI's lm-evaluation-harness on rows of local files: what it computes for each question."""
import copy
import dataclasses
import json
import pathlib

STYLES = {
    "arc": "arc_easy", "hellaswag": "hellaswag", "piqa": "piqa", "winogrande": "winogrande", "openbookqa": "openbookqa", "boolq": "boolq",
    "siqa": "social_iqa", "mmlu": "mmlu_abstract_algebra",
}


@dataclasses.dataclass
class Questions:
    """Rows as the data set of `style` has them; they come to lie in `folder`."""

    style: str
    rows: list
    folder: pathlib.Path
    exemplars: list = dataclasses.field(default_factory=list)
    subject: str | None = None

    def write(self, name, rows):
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def config(self, name, manager):
        """The harness's own task, on these rows."""
        from lm_eval.tasks._yaml_loader import load_yaml

        config = copy.deepcopy(load_yaml(manager.task_index[STYLES[self.style]].yaml_path, resolve_func=True))
        for key in ["dataset_name", "tag", "task_alias", "group", "training_split", "validation_split", "fewshot_split"]:
            config.pop(key, None)
        files = {"test": self.write("test", self.rows)}
        if self.exemplars:
            files["train"] = self.write("train", self.exemplars)
            config.update(fewshot_split="train", fewshot_config={"sampler": "first_n"})
        if self.subject:
            config["description"] = f"The following are multiple choice questions (with answers) about {self.subject.replace('_', ' ')}.\n\n"
        return {
            **config, "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
            "num_fewshot": len(self.exemplars)}


def ask(all_questions, model, tokenizer):
    """For each of `all_questions` a list of (log-probabilities, greedy), one a row, and its figures."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    names = [f"local_{number}" for number in range(len(all_questions))]
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=[questions.config(name, manager) for name, questions in zip(names, all_questions)], bootstrap_iters=0, task_manager=manager,
        log_samples=True)
    answers = []
    for name in names:
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        told = [[tuple(one) for one in sample["filtered_resps"]] for sample in samples]
        answers.append(([([float(n) for n, _ in one], [bool(g) for _, g in one]) for one in told], found["results"][name]))
    return answers
