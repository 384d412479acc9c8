"""Models that fill masks, and what they learn, for the tests of their heads and of their training."""
import copy
import json
import os

import pytest
import torch
import transformers

SEED = int(os.environ["NIBBLE_SEED"])
SLOW = bool(os.environ.get("NIBBLE_SLOW"))
FAMILIES = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert", "mpnet", "modernbert", "deberta-v2"]
SIZE = 71


#: Steps are compared number by number, and a ReLU that rounding pushes over its edge is another step: the differential fuzzer draws those.
SMOOTH = ["gelu", "gelu_new", "tanh", "silu"]


def draw_config(draw, family, **changes):
    """A small configuration with every key of the head drawn, and those of the body that a head has to do with."""
    heads = draw.choice([1, 2, 4])
    width = heads * draw.choice([4, 8, 10])
    activation = draw.choice(SMOOTH)
    if family == "distilbert":
        sizes = {"dim": width, "n_heads": heads, "n_layers": draw.randint(1, 2), "hidden_dim": draw.randint(5, 30), "activation": activation}
    else:
        sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": draw.randint(1, 2), "intermediate_size": draw.randint(5, 30)}
        sizes["hidden_activation" if family == "modernbert" else "hidden_act"] = activation
        sizes["norm_eps" if family == "modernbert" else "layer_norm_eps"] = draw.choice([1e-12, 1e-5, 1e-2])
    if family in ("electra", "albert"):
        sizes["embedding_size"] = draw.choice([width, draw.randint(4, 24)])
    if family == "modernbert":
        sizes |= {key: draw.random() < 0.5 for key in ("decoder_bias", "classifier_bias", "norm_bias", "sparse_prediction")}
        sizes |= {"classifier_activation": draw.choice(SMOOTH), "local_attention": draw.choice([4, 128])}
        sizes |= {"eos_token_id": 2, "bos_token_id": 0, "cls_token_id": 0, "sep_token_id": 2}
    if family == "deberta-v2":
        sizes |= {"legacy": draw.random() < 0.5, "relative_attention": draw.random() < 0.5, "pos_att_type": ["p2c", "c2p"]}
    sizes |= {"vocab_size": SIZE, "max_position_embeddings": 40, "pad_token_id": 1, "tie_word_embeddings": draw.random() < 0.6}
    return transformers.AutoConfig.for_model(family, **sizes | changes)


def make(config, kind="MaskedLM"):
    """A model whose every parameter is random, whose ties are its configuration's."""
    auto = {"MaskedLM": transformers.AutoModelForMaskedLM, "TokenClassification": transformers.AutoModelForTokenClassification,
            "QuestionAnswering": transformers.AutoModelForQuestionAnswering}[kind]
    model = auto.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.2 if "norm" not in name.lower() else 0.1))
    return model.eval()


# Small steps: what rounding does grows from one to the next.
STEPS, BATCH, RATE = 5, 3, 0.004
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--learning-rate", RATE, "--optimizer", "sgd", "--no-shuffle", "--lr-scheduler", "constant",
       "--max-grad-norm", 0]


def draw_rows(draw, count):
    """Ids and labels as a collator leaves them: rows of different lengths, some without anything to learn, but no batch of only those."""
    rows = []
    for number in range(count):
        ids = [draw.randrange(3, SIZE) for _ in range(draw.randint(3, 20))]
        labels = [draw.randrange(SIZE) if draw.random() < 0.3 else -100 for _ in ids]
        if number % BATCH == 0:
            labels[draw.randrange(len(ids))] = draw.randrange(SIZE)
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def save_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def loss_of(model, rows):
    """The mean over the learned tokens of rows, none of which sees padding."""
    losses, count = 0.0, 0
    for row in rows:
        logits, labels = model(input_ids=torch.tensor([row["input_ids"]])).logits[0], torch.tensor(row["labels"])
        losses = losses + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return losses / count


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_of(model, rows, steps):
    """Losses and norms of gradients of PyTorch's steps, which it takes on `model`."""
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer, seen = torch.optim.SGD(trained, lr=RATE), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model.eval(), [rows[(step * BATCH + place) % len(rows)] for place in range(BATCH)])
        loss.backward()
        seen.append((loss.item(), torch.nn.utils.clip_grad_norm_(trained, 1e9).item()))
        optimizer.step()
    return seen


def assert_steps(folder, model, rows, steps=STEPS):
    """The losses and gradients of the steps are PyTorch's in float64. Rounding grows from step to step, where a case is badly conditioned by a thousand
    times in five: how far PyTorch's own float32 has come from its float64 says by how much. It takes the steps on `model`."""
    exact = steps_of(copy.deepcopy(model).double(), rows, steps)
    single = steps_of(model, rows, steps)
    told = [row for row in metrics_of(folder) if "loss" in row]
    assert len(told) == steps
    grown = [0.0, 0.0]
    for step, (row, truth, rounded) in enumerate(zip(told, exact, single)):
        grown = [max(before, abs(theirs / own - 1)) for before, theirs, own in zip(grown, rounded, truth)]
        assert row["loss"] == pytest.approx(truth[0], rel=1e-4 + 4 * grown[0]), step
        assert row["grad_norm"] == pytest.approx(truth[1], rel=1e-3 + 4 * grown[1]), step


def save_tokenizer(folder, kind):
    """Words of letters between the tokens of BERT or of RoBERTa; the vocabulary has room for SIZE."""
    import tokenizers
    names = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"] if kind == "bert" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = {word: id for id, word in enumerate(names + ["<extra>"] + [f"w{one}" for one in range(SIZE - 8)])}
    own = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token=names[3]))
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{names[0]} $A {names[2]}", pair=f"{names[0]} $A {names[2]} $B {names[2]}", special_tokens=[(names[0], 0), (names[2], 2)])
    own.add_special_tokens([*names, "<extra>"])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, cls_token=names[0], pad_token=names[1], sep_token=names[2], unk_token=names[3], mask_token=names[4],
        additional_special_tokens=["<extra>"], **({} if kind == "bert" else {"bos_token": names[0], "eos_token": names[2]}))
    made.save_pretrained(folder)
    return made
