"""Small T5s and mT5s that are drawn, not chosen, with a tokenizer of words that ends texts as T5's does."""
import os
import random

import tokenizers
import torch
import transformers
from differential.pairs import rounds_alike
from running import as_float32, edit_config

CLASSES = {"t5": transformers.T5ForConditionalGeneration, "mt5": transformers.MT5ForConditionalGeneration}
VOCABULARY = 96
PAD, EOS = 0, 1
MARKS = ["<pad>", "</s>", "<unk>"]


def chance(name):
    return random.Random(f"{os.environ['NIBBLE_SEED']} {name}")


def settings(rng, is_smooth):
    """What a configuration says, and whether the head has a weight of its own. Rounding pushes nothing of a smooth model over an edge, so that
    steps can be compared."""
    while True:
        buckets = rng.randint(4, 33)
        longest = buckets // 2 + rng.randint(1, 40)
        if rounds_alike(buckets, longest):
            break
    drawn = {
        "vocab_size": VOCABULARY, "d_model": rng.choice([20, 32, 48, 64]), "d_kv": rng.choice([4, 8, 12, 16]), "d_ff": rng.choice([24, 40, 64, 96]),
        "num_heads": rng.randint(1, 5), "num_layers": rng.randint(1, 3), "num_decoder_layers": rng.choice([None, 1, 2, 3, 4]),
        "relative_attention_num_buckets": buckets, "relative_attention_max_distance": longest,
        "feed_forward_proj": rng.choice(["gated-gelu", "gated-silu", "gelu", *([] if is_smooth else ["relu", "gated-relu"])]), "layer_norm_epsilon": rng.choice([1e-6, 1e-5, 1e-3]),
        "decoder_start_token_id": rng.choice([PAD, 0, 7]), "pad_token_id": PAD, "eos_token_id": EOS, "use_cache": True}
    return {key: value for key, value in drawn.items() if value is not None}, rng.random() < 0.5


def save_t5(folder, name, is_smooth=False, **changes):
    """A drawn model whose every part counts, and what transformers makes of its folder."""
    rng = chance(name)
    drawn, own_head = settings(rng, is_smooth)
    kind, tied = rng.choice(["t5", "t5", "mt5"]), rng.choice([True, False, None])
    kind, tied, own_head = changes.pop("kind", kind), changes.pop("tied", tied), changes.pop("own_head", own_head)
    torch.manual_seed(rng.randrange(10**6))
    config = transformers.AutoConfig.for_model(kind, **drawn | changes)
    model = CLASSES[kind](config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
            elif "relative_attention_bias" in path:
                parameter.copy_(torch.randn(parameter.shape))
            elif path.endswith((".q.weight", ".k.weight")):
                parameter.copy_(torch.randn(parameter.shape) * 0.35 * parameter.shape[1] ** -0.5)
        if own_head:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))
    model.save_pretrained(folder)
    edit_config(folder, tie_word_embeddings=tied, scale_decoder_outputs=None)
    (folder / "generation_config.json").unlink(missing_ok=True)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word_of(i): i for i in range(VOCABULARY)}, unk_token=MARKS[2]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    model = as_float32(CLASSES[kind], folder)
    assert (model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()) == own_head
    return model


def ids_of(batch, length):
    return torch.randint(3, VOCABULARY, (batch, length))


def word_of(id):
    return MARKS[id] if id < len(MARKS) else f"t{id}"


def text_of(ids):
    return " ".join(map(word_of, ids))
