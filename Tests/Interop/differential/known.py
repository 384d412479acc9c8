"""Differences that are known: an area (None for all), a predicate of what was drawn and of the failure's text, and the reason.

Every run lists how many of its cases each reason explains. An entry leaves the list with the commit that mends it.
"""
from .common import Known


def settings(drawn, name="a"):
    return drawn.get(name, {}).get("settings", {})


def config(drawn):
    return drawn["m"]["config"]


def has_adapted_head_and_rows(drawn, failure):
    return "lm_head" in settings(drawn).get("target_modules", ()) and settings(drawn).get("trainable_token_indices") is not None


def is_tied_by_another_name(drawn, failure):
    whole = settings(drawn).get("modules_to_save") or []
    return settings(drawn).get("ensure_weight_tying", False) and "wte" in whole


def is_tied_by_default(drawn, failure):
    return "tie_word_embeddings" not in config(drawn) and config(drawn)["model_type"].startswith(("gemma", "smollm3"))


KNOWN = [
    (None, has_adapted_head_and_rows, "not mended: a tied head with LoRA does not get the rows of tokens of the embedding"),
    (None, is_tied_by_another_name, "not mended: PEFT ties embed_tokens and lm_head alone, nibble wte too"),
    ("merge", is_tied_by_default, "not mended: heads of Gemma and SmolLM3 are tied where the configuration does not say"),
]


def check(case, failure):
    """Raises Known where the list explains a failure."""
    for area, explains, reason in KNOWN:
        if area in (None, case.area) and explains(case.drawn, failure):
            raise Known(reason)
