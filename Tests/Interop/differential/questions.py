"""Drawn questions: ids, and masks, token types and labels beside them."""
import torch

from . import pairs
from .configurations import ENCODERS
from .wholes import numbers


def limit(config, model):
    """The most tokens a sequence may have."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or getattr(model.config, "max_position_embeddings", 64)
    if config["model_type"] in ENCODERS and config["model_type"] != "bert":
        most -= numbers(model).pad_token_id + 1
    return most


def draw_question(case, drawn, model, simple=False):
    """Ids and what stands beside them: masks of padding on either side, token types, labels."""
    rng = case.rng
    vocabulary, most = numbers(model).vocab_size, limit(drawn.config, model)
    batch = rng.choice([1, 2, 3])
    length = min(most, rng.choice([1, 2, 5, 17, 24, 40, most if most < 150 else 33]))
    ids = torch.randint(0, vocabulary, (batch, length))
    padding = numbers(model).pad_token_id
    asked = {"input_ids": ids}
    if drawn.kind == "classes" and drawn.is_causal and (padding is None or not 0 <= padding < vocabulary):
        asked["input_ids"] = ids = ids[:1]
        batch = 1
    if case.chance(0.6) and padding is not None and 0 <= padding < vocabulary and length > 1:
        mask = torch.zeros_like(ids)
        right = case.chance(0.7) or not drawn.is_causal or drawn.kind == "classes"
        for row in range(batch):
            kept = rng.randint(1, length)
            mask[row, :kept] = 1 if right else 0
            if not right:
                mask[row, length - kept:] = 1
        asked["input_ids"] = ids = torch.where(mask == 1, ids, torch.tensor(padding))
        asked["attention_mask"] = mask
    elif drawn.kind == "classes" and drawn.is_causal and padding is not None:
        # A padding id in the middle would move the token the head looks at in transformers only.
        asked["input_ids"] = ids = torch.where(ids == padding, (ids + 1) % vocabulary, ids)
    if drawn.kind == "answers":
        return pairs.question(case, model, asked, simple)
    kinds = getattr(model.config, "type_vocab_size", 0)
    if drawn.config["model_type"] in ENCODERS and kinds and case.chance(0.4):
        asked["token_type_ids"] = torch.randint(0, kinds, ids.shape)
    if simple or not case.chance(0.5) or drawn.kind == "states":
        return asked
    if getattr(model.config, "sparse_prediction", False):
        # With labels transformers gives scores of the tokens that have one, and no others.
        return asked
    mask = asked.get("attention_mask")
    if drawn.kind in ("language", "masked"):
        labels = torch.where(torch.rand(ids.shape) < 0.2, -100, ids)
        if mask is not None:
            before = torch.cat((mask[:, :1], mask[:, :-1]), dim=1)
            labels = torch.where((mask == 1) & (before == 1), labels, -100)
        if length < 2 or bool((labels[:, 1:] == -100).all()):
            return asked
        asked["labels"] = labels
    elif drawn.kind == "tokens":
        seen = torch.rand(ids.shape) < 0.8 if mask is None else (torch.rand(ids.shape) < 0.8) & (mask == 1)
        seen[0, 0] = mask is None or bool(mask[0, 0])
        if bool(seen.any()):
            asked["labels"] = torch.where(seen, torch.randint(0, model.config.num_labels, ids.shape), -100)
    else:
        count, problem = model.config.num_labels, model.config.problem_type
        if problem == "regression" or (problem is None and count == 1):
            asked["labels"] = torch.randn(batch, count) if count > 1 else torch.randn(batch)
        elif problem == "multi_label_classification" or (problem is None and case.chance(0.1)):
            asked["labels"] = torch.randint(0, 2, (batch, count)).float()
        else:
            asked["labels"] = torch.randint(0, count, (batch,))
    return asked
