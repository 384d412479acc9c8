"""Differences that are known: an area (None for all), a predicate of what was drawn and of the failure's text, and the reason.

Every run lists how many of its cases each reason explains. An entry leaves the list with the commit that mends it.
"""
from .common import Known


def has_rows_under_bias(drawn, failure):
    if "m" not in drawn:
        return False
    rows = drawn.get("a", {}).get("settings", {}).get("trainable_token_indices") or ("--trainable-token-indices" in drawn.get("words", []) or None)
    has_bias = drawn["m"]["config"]["model_type"] in ("gptj", "phi") or "MaskedLM" in drawn["m"]["class"]
    return rows is not None and has_bias and any(part in failure for part in ("logits", "loss is", "grad_norm is", "what was trained"))


def adds_one_in_16_bits(drawn, failure):
    return drawn.get("tokenizer") == "pieces" and "norm.weight differs" in failure and drawn.get("stored types") != ["F32"]


def has_layers_in_other_places(drawn, failure):
    """A layer that sees a window, repeated in the place of one that does not, or the other way round."""
    replication = drawn.get("a", {}).get("settings", {}).get("layer_replication")
    kinds = drawn.get("m", {}).get("config", {}).get("layer_types") or []
    return bool(replication) and len(set(kinds)) > 1 and any(part in failure for part in ("logits", "loss is", "grad_norm is", "what was trained"))


def packs_stacked_experts(drawn, failure):
    return "m" in drawn and drawn["m"]["config"]["model_type"] in ("llama4", "llama4_text") and "transformers does not load it: \"normal_kernel_cpu\"" in failure


def writes_a_bias_twice(drawn, failure):
    """With a head of its own, MPNet's second name of the head's bias is a parameter that nothing computes with."""
    config = drawn.get("m", {}).get("config", {})
    return ("MPNetForMaskedLM" in drawn.get("m", {}).get("class", "") and config.get("tie_word_embeddings") is False and "what was trained" in failure
            and drawn.get("a", {}).get("settings", {}).get("bias") == "all")


KNOWN = [
    (None, packs_stacked_experts, "transformers takes Llama 4's experts apart in packed folders and does not load any, its own included"),
    ("gguf", adds_one_in_16_bits, "the converter adds one to Gemma's norms in float16 where they are stored so"),
    ("gguf", lambda drawn, failure: failure.startswith("gpt2.feed_forward_length"), "GPT-2's n_inner is written where the converter leaves it out"),
    ("train", writes_a_bias_twice, "MPNet's head has its bias under two names; nibble writes what was trained under both"),
    (None, has_layers_in_other_places, "transformers masks a repeated layer by its new place, nibble by its own"),
    (None, has_rows_under_bias, "PEFT's rows of tokens leave out the bias of the head"),
]


def check(case, failure):
    """Raises Known where the list explains a failure."""
    for area, explains, reason in KNOWN:
        if area in (None, case.area) and explains(case.drawn, failure):
            raise Known(reason)
