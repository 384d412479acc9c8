"""`nibble generate` against transformers' `generate`: token ids, with what the files and the flags say drawn.

Ids are compared up to the first place where two tokens are nearly as good as each other. A beam search that found other ids must have found
a score as good.
"""
import json

import torch

from .adapters import attached, draw_adapter
from .common import Difference, Refusal, Undrawable, peer
from .configurations import DECODERS, PAIRS
from .drawing import draw_model
from .train import write_tokenizer

# Scores whose difference is below this may change places.
MARGIN = 2e-4


def run(case):
    rng = case.rng
    size = rng.randint(24, 90)
    drawn = draw_model(case, plain=case.chance(0.8), families=[*DECODERS, *PAIRS], kinds=("language", "answers"), dtype="float32", vocabulary=size)
    own_end(case, drawn)
    write_tokenizer(case / "m", size)
    settings = draw_generation_config(case, size, drawn.config.get("decoder_start_token_id"))
    options = draw_flags(case)
    with peer("loading"):
        model = drawn.load()
    prompt = [rng.randrange(3, size) for _ in range(rng.choice([1, 3, 8, 17]))]
    if case.chance(0.4):
        prompt += prompt
    if limit_of(drawn) < len(prompt) + 12:
        raise Undrawable("no room")
    words, used = [], model
    if case.chance(0.2):
        folder = draw_adapter(case, drawn, model)
        used = attached(model, folder)
        words = ["--adapter", folder.relative_to(case.folder)]
    new = rng.choice([1, 6, 12])
    case.note(prompt=prompt, new=new, flags=options)
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}={value}")
    text = " ".join(f"t{one}" for one in prompt)
    try:
        # Without a cache: that of a sliding window of one token forgets the token itself.
        with peer("generating"), torch.no_grad():
            out = used.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=new,
                return_dict_in_generate=True, output_scores=True, use_cache=False, **options)
    except Undrawable:
        case.nibble("generate", "--base", "m", "--prompt", text, "--max-new-tokens", new, "--json", "-j", 1, *words)
        raise
    said = case.nibble("generate", "--base", "m", "--prompt", text, "--max-new-tokens", new, "--json", "-j", 1, *words)
    document = json.loads(said.stdout)
    # What is written to a prompt begins with the decoder's own token.
    theirs = out.sequences[0, 1 if drawn.kind == "answers" else len(prompt):].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    place = next((place for place, one in enumerate(theirs) if one in ends), None)
    ended = place is not None
    theirs = theirs[:place] if ended else theirs
    ours = document["ids"]
    if ours == theirs:
        if ended != (document["reason"] == "end"):
            raise Difference(f"the reason is {document['reason']!r}; transformers {'met' if ended else 'did not meet'} the end")
        return
    case.note(ours=ours, theirs=theirs, reason_ours=document["reason"])
    if reported := what_is_not_done(said.stderr):
        raise Refusal(reported)
    differs = next((place for place, (one, two) in enumerate(zip(ours, theirs)) if one != two), min(len(ours), len(theirs)))
    if "sequences_scores" in out:
        score, best = document.get("score"), float(out.sequences_scores[0])
        if score is not None and abs(score - best) <= 1e-4 * abs(best) + 1e-5:
            return
        raise Difference(f"beam search: other ids from {differs} on, scores {score} and {best}")
    if not is_tie(out.scores, differs):
        raise Difference(f"ids differ from {differs} on: {ours[differs:differs + 4]}, transformers {theirs[differs:differs + 4]}; "
                         f"generation_config {json.dumps(settings)}")


def what_is_not_done(warnings):
    """The first key that nibble says it does not follow: a text that is another is what it warned of."""
    reported = (line for line in warnings.splitlines() if "the text may differ from transformers'" in line or "set by options only" in line)
    return next((line.split("generation_config.json")[-1].lstrip(": ").split(" = ")[0] for line in reported), None)


def is_tie(scores, place):
    """Whether two tokens were nearly as good there."""
    if place >= len(scores):
        return False
    found = scores[place][0].float()
    best, second = found.topk(2).values.tolist()
    return best - second <= MARGIN * float(found[found.isfinite()].abs().max())


def limit_of(drawn):
    return drawn.config.get("max_position_embeddings") or drawn.config.get("n_positions") or 64


def own_end(case, drawn):
    """What config.json says of the end of a text: nothing, a token, several."""
    path = drawn.folder / "config.json"
    config = json.loads(path.read_text())
    numbers = config.get("text_config", config)
    size = numbers["vocab_size"]
    ends = case.rng.choice([None, "absent", case.rng.randrange(size), case.rng.sample(range(size), 3)])
    numbers.pop("eos_token_id")
    if ends != "absent":
        numbers["eos_token_id"] = ends
    case.note(config_eos=ends)
    path.write_text(json.dumps(config))


def draw_generation_config(case, size, start):
    """generation_config.json: absent, or with keys that change what is generated, or keys that do not.

    - start: what the model's own configuration says a decoder beside an encoder begins with
    """
    rng = case.rng
    if case.chance(0.25):
        return None
    some = lambda most: rng.sample(range(size), rng.randint(1, most))  # noqa: E731
    keys = {
        "eos_token_id": lambda: rng.choice([None, rng.randrange(size), some(8)]),
        "pad_token_id": lambda: rng.randrange(size),
        "bos_token_id": lambda: rng.randrange(size),
        "repetition_penalty": lambda: rng.choice([1.0, 1.3, 0.7]),
        "no_repeat_ngram_size": lambda: rng.choice([0, 1, 2, 3]),
        "suppress_tokens": lambda: some(10),
        "begin_suppress_tokens": lambda: some(10),
        "bad_words_ids": lambda: [some(2) for _ in range(rng.randint(1, 6))],
        "min_new_tokens": lambda: rng.choice([0, 2, 5]),
        "min_length": lambda: rng.choice([0, 5, 12]),
        "num_beams": lambda: rng.choice([1, 2, 3]),
        "length_penalty": lambda: rng.choice([1.0, 0.0, 2.0]),
        "early_stopping": lambda: rng.choice([True, False]),
        "forced_eos_token_id": lambda: rng.randrange(size),
        "forced_bos_token_id": lambda: rng.randrange(size),
        "renormalize_logits": lambda: rng.choice([True, False]),
        "sequence_bias": lambda: [[some(2), rng.choice([5.0, -5.0])]],
        "exponential_decay_length_penalty": lambda: [2, 1.5],
        "max_new_tokens": lambda: 3,
        "max_length": lambda: 30,
        "temperature": lambda: 0.6,
        "top_k": lambda: 5,
        "top_p": lambda: 0.9,
        "do_sample": lambda: False,
        "use_cache": lambda: rng.choice([True, False]),
        "transformers_version": lambda: "5.0.0",
        "encoder_repetition_penalty": lambda: 1.0,
        "guidance_scale": lambda: 1.0,
        "remove_invalid_values": lambda: True,
    }
    # Most files say little.
    names = rng.sample(list(keys), rng.choice([0, 1, 2, 3]))
    if case.chance(0.5):
        names.append("eos_token_id")
    settings = {name: keys[name]() for name in dict.fromkeys(names)}
    if start is not None:
        settings["decoder_start_token_id"] = rng.randrange(size) if case.chance(0.1) else start
    case.note(generation_config=settings)
    (case / "m" / "generation_config.json").write_text(json.dumps(settings))
    return settings


def draw_flags(case):
    """What the command line says; it wins over the files in both programs."""
    rng = case.rng
    options = {}
    if case.chance(0.2):
        options["repetition_penalty"] = rng.choice([1.0, 1.2, 0.8])
    if case.chance(0.2):
        options["no_repeat_ngram_size"] = rng.choice([1, 2, 3])
    if case.chance(0.25):
        options["num_beams"] = rng.choice([2, 3, 4])
        if case.chance(0.4):
            options["length_penalty"] = rng.choice([0.0, 0.7, 2.0, -1.0])
    return options
