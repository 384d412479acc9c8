"""`nibble generate` continues texts as transformers' `generate` does: greedily, with penalties, by beam search, at random, and
with adapters of each row's own. Tiny models get a tokenizer of the words t0, t1, …, so that a text says what its ids are."""
import json

import peft
import pytest
import tokenizers
import torch
import transformers
from running import as_float32, edit_config, save_random
from test_adapters_running import by_peft, save_adapter

VOCABULARY = 128
LLAMA, GPT2 = transformers.LlamaForCausalLM, transformers.GPT2LMHeadModel
MODELS = {
    "llama": (LLAMA, "llama", {}),
    "mistral, window": (transformers.MistralForCausalLM, "mistral", {"sliding_window": 6}),
    "qwen2": (transformers.Qwen2ForCausalLM, "qwen2", {"tie_word_embeddings": True}),
    "gpt2": (GPT2, "gpt2", {}),
}


def save_model(folder, case="llama", **changes):
    """A random model and its tokenizer of words. Its logits are spread wide enough to have favourites."""
    model_class, model_type, own = MODELS[case]
    model = save_random(model_class, model_type, folder, **{
        "vocab_size": VOCABULARY, "max_position_embeddings": 256, "n_positions": 256, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": 0} | own | changes)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return model


def text_of(ids):
    return " ".join(f"t{i}" for i in ids)


def prompt_of(length, seed=0):
    return torch.randint(1, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def set_end(folder, model, ids):
    """Says in both programs what ends a text."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": ids}))
    model.generation_config.eos_token_id = ids


def continued(model, prompt, new=24, **options):
    """What transformers adds, without the token that ends it, and the beam search's score."""
    with torch.no_grad():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=new,
            pad_token_id=0, do_sample=False, return_dict_in_generate=True, output_scores=True, use_cache=True, **options)
    ids = out.sequences[0, len(prompt):].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for place, token in enumerate(ids):
        if token in ends:
            ids = ids[:place]
            break
    return ids, float(out.sequences_scores[0]) if "sequences_scores" in out else None


def generate(nibble, base, prompt, *options, new=24):
    return nibble.json("generate", "--base", base, "--prompt", text_of(prompt), "--max-new-tokens", new, *options)


@pytest.mark.parametrize("length", [1, 2, 30, 200])
@pytest.mark.parametrize("case", MODELS)
def test_greedy(nibble, work, case, length):
    model = save_model(work / "m", case)
    prompt = prompt_of(length)
    said = generate(nibble, work / "m", prompt)
    expected, _ = continued(model, prompt)
    assert said["ids"] == expected
    assert said["text"].split() == text_of(expected).split()
    assert (said["prompt_tokens"], said["new_tokens"], said["reason"]) == (length, 24, "length")


@pytest.mark.parametrize("several", [False, True])
def test_the_token_that_ends_a_text(nibble, work, several):
    model = save_model(work / "m")
    prompt = prompt_of(5)
    free, _ = continued(model, prompt)
    # One that comes for the first time after some others.
    end = next(token for place, token in enumerate(free) if place >= 4 and token not in free[:place])
    unused = next(token for token in range(VOCABULARY) if token not in free)
    set_end(work / "m", model, [unused, end] if several else end)
    said = generate(nibble, work / "m", prompt)
    assert said["ids"] == continued(model, prompt)[0] == free[: free.index(end)]
    assert said["reason"] == "end"
    assert generate(nibble, work / "m", prompt, "--ignore-eos")["ids"] == free


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("penalty, ngram", [(1.3, 0), (0.8, 0), (3.0, 0), (1.0, 1), (1.0, 2), (1.0, 3), (1.2, 3)])
def test_penalties(nibble, work, case, penalty, ngram):
    model = save_model(work / "m", case)
    prompt = prompt_of(9) + prompt_of(9)
    said = generate(nibble, work / "m", prompt, "--repetition-penalty", penalty, "--no-repeat-ngram-size", ngram, new=40)
    expected, _ = continued(model, prompt, 40, repetition_penalty=penalty, no_repeat_ngram_size=ngram)
    assert said["ids"] == expected
    if ngram:
        assert expected != continued(model, prompt, 40)[0] or penalty == 1.0


SETTINGS = {
    "penalty": {"repetition_penalty": 1.4},
    "runs": {"no_repeat_ngram_size": 2},
    "suppressed": lambda free: {"suppress_tokens": [free[0], free[3], -1, 5000]},
    "suppressed first": lambda free: {"begin_suppress_tokens": free[:2]},
    "bad words": lambda free: {"bad_words_ids": [[free[2]], free[4:6], [1, 2, 3]]},
    "an end among bad words": lambda free: {"bad_words_ids": [[free[6]], [free[1]]], "eos_token_id": free[6]},
    "biases": lambda free: {"sequence_bias": [[[free[2]], -3.0], [[free[0], 9], 50.0], [[17], 0.5]]},
    "least length": lambda free: {"min_length": 12, "eos_token_id": [free[2], 1]},
    "least new tokens": lambda free: {"min_new_tokens": 7, "eos_token_id": free[2]},
    "all": lambda free: {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [free[0]], "bad_words_ids": [free[3:5], [9]],
        "begin_suppress_tokens": [free[1]], "min_new_tokens": 5, "eos_token_id": [free[2]],
        "sequence_bias": [[[free[5]], 1.5]]},
    "no end, though config.json has one": {"pad_token_id": 0},
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("holder", ["generation_config.json", "config.json", "packed.nbl"])
def test_what_the_generation_configuration_asks_for(nibble, work, settings, beams, holder):
    """transformers reads config.json for it where there is no generation_config.json."""
    save_model(work / "m")
    (work / "m" / "generation_config.json").unlink()
    model_class = MODELS["llama"][0]
    changed = 0
    for seed in range(4):
        prompt = prompt_of(8, seed)
        edit_config(work / "m", eos_token_id=None)
        (work / "m" / "generation_config.json").write_text("{}")
        free, _ = continued(as_float32(model_class, work / "m"), prompt, num_beams=beams)
        asked = SETTINGS[settings] if isinstance(SETTINGS[settings], dict) else SETTINGS[settings](free)
        if holder == "config.json":
            (work / "m" / "generation_config.json").unlink()
            edit_config(work / "m", **asked)
        else:
            edit_config(work / "m", eos_token_id=free[3])
            (work / "m" / "generation_config.json").write_text(json.dumps(asked))
        base = work / "m"
        if holder == "packed.nbl":
            base = work / holder
            nibble("quantize", work / "m", "-o", base, "--keep", ".", "--force")
        expected, _ = continued(as_float32(model_class, work / "m"), prompt, num_beams=beams)
        said = generate(nibble, base, prompt, "--num-beams", beams)
        assert said["ids"] == expected, f"seed {seed}"
        changed += expected != free
    assert changed > 0 or "pad_token_id" in SETTINGS[settings]


def test_flags_come_before_the_generation_configuration(nibble, work):
    model = save_model(work / "m")
    prompt = prompt_of(9) + prompt_of(9)
    (work / "m" / "generation_config.json").write_text('{"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}')
    said = generate(nibble, work / "m", prompt, "--repetition-penalty", 1, "--no-repeat-ngram-size", 0)
    assert said["ids"] == continued(model, prompt)[0]


def test_what_the_generation_configuration_asks_for_in_vain_is_told(nibble, work):
    save_model(work / "m")
    words = ["generate", "--base", work / "m", "--prompt", "t3 t4", "--max-new-tokens", 2]
    (work / "m" / "generation_config.json").write_text(json.dumps({
        "do_sample": True, "temperature": 0.6, "top_p": 0.9, "guidance_scale": 1.5, "num_beams": 1}))
    reported = nibble(*words).stderr
    assert "--temperature 0.6 --top-k 50 --top-p 0.9" in reported and "guidance_scale" in reported and "num-beams" not in reported
    reported = nibble(*words, "--temperature", 0).stderr
    assert "top-p" not in reported and "guidance_scale" in reported
    assert "--top-k 50;" in nibble(*words, "--temperature", 0.6, "--top-p", 0.9).stderr
    (work / "m" / "generation_config.json").write_text('{"num_beams": 4, "temperature": 0.6, "top_p": 0.9}')
    assert "--num-beams 4;" in nibble(*words).stderr
    assert "warning" not in nibble(*words, "--num-beams", 2).stderr


@pytest.mark.parametrize("beams, length_penalty, case", [
    *((beams, penalty, "llama") for beams in (2, 3, 4, 5) for penalty in (0.0, 0.9, 2.0, -1.0)),
    (2, 0.9, "gpt2"), (3, 2.0, "gpt2"), (4, 0.0, "gpt2"), (5, -1.0, "mistral, window")])
def test_beam_search(nibble, work, beams, length_penalty, case):
    """With several tokens that end a text, so that sequences finish early and late."""
    model = save_model(work / "m", case)
    finished = 0
    for seed in range(6):
        prompt = prompt_of(4, seed)
        free, _ = continued(model, prompt, 12, num_beams=beams)
        set_end(work / "m", model, free[3:5] if seed % 2 else free[5])
        options = ["--num-beams", beams, f"--length-penalty={length_penalty}"]
        said = generate(nibble, work / "m", prompt, *options, new=12)
        expected, score = continued(model, prompt, 12, num_beams=beams, length_penalty=length_penalty)
        assert said["ids"] == expected, f"seed {seed}"
        assert said["score"] == pytest.approx(score, rel=1e-4, abs=1e-5)
        finished += said["reason"] == "end"
        model.generation_config.eos_token_id = None
    # Where long sequences win, the search may well go to its end.
    assert finished > 0 or length_penalty == 2.0


@pytest.mark.parametrize("options", [
    {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}], ids=str)
def test_beam_search_with_penalties(nibble, work, options):
    model = save_model(work / "m")
    flags = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    for seed in range(4):
        prompt = prompt_of(8, seed)
        said = generate(nibble, work / "m", prompt, "--num-beams", 3, *flags)
        assert said["ids"] == continued(model, prompt, num_beams=3, **options)[0]


@pytest.mark.parametrize("container", ["packed.nbl", "packed"])
@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_packed_models(nibble, work, case, container):
    model_class = MODELS[case][0]
    save_model(work / "m", case)
    form = [] if container.endswith(".nbl") else ["--format", "bnb"]
    nibble("quantize", work / "m", "-o", work / container, *form)
    nibble("dequantize", work / container, "-o", work / "plain", "--dtype", "fp32")
    twin = as_float32(model_class, work / "plain")
    twin.generation_config.eos_token_id = None
    for seed in range(3):
        prompt = prompt_of(7, seed)
        assert generate(nibble, work / container, prompt)["ids"] == continued(twin, prompt)[0]


# The bundled model, whose tokenizer is SentencePiece's.

@pytest.mark.parametrize("prompt", ["Once upon a time", "Lily and Tom", "The dog", "", "Zoë saw 7 birds"])
def test_the_bundled_model(nibble, stories, prompt):
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(stories / "tokenizer.model"))
    model = as_float32(transformers.AutoModelForCausalLM, stories)
    ids = [pieces.bos_id(), *pieces.encode(prompt)]
    said = nibble.json("generate", "--base", stories, "--prompt", prompt, "--max-new-tokens", 120)
    expected, _ = continued(model, ids, 120)
    assert said["ids"] == expected
    assert said["prompt_tokens"] == len(ids)
    # Words go on where the prompt ended.
    assert prompt + said["text"] == pieces.decode(ids + expected)
    beams = nibble.json("generate", "--base", stories, "--prompt", prompt, "--max-new-tokens", 40, "--num-beams", 3)
    assert beams["ids"] == continued(model, ids, 40, num_beams=3)[0]


@pytest.mark.parametrize("stop", [".", "Lily", "a little girl", "\n", "ing to", " there", "never said", "was a"])
def test_a_text_ends_before_its_stop(nibble, stories, stop):
    free = nibble.json("generate", "--base", stories, "--prompt", "Once upon a time", "--max-new-tokens", 100)
    said = nibble.json("generate", "--base", stories, "--prompt", "Once upon a time", "--max-new-tokens", 100, "--stop", stop)
    found = stop in free["text"]
    assert said["text"] == free["text"].split(stop)[0]
    assert (said["reason"] == "stop") == found
    assert said["ids"] == free["ids"][: len(said["ids"])]
    assert not found or len(said["ids"]) < len(free["ids"])
    # The same as it streams to a terminal.
    plain = nibble("generate", "--base", stories, "--prompt", "Once upon a time", "--max-new-tokens", 100, "--stop", stop)
    assert plain.stdout == said["text"] + "\n"


def test_the_first_of_several_stops_counts(nibble, stories):
    flags = ["generate", "--base", stories, "--prompt", "Once upon a time", "--max-new-tokens", 100]
    free = nibble.json(*flags)["text"]
    said = nibble.json(*flags, "--stop", "park", "--stop", "girl", "--stop", "")["text"]
    assert said == free[: min(free.index("park"), free.index("girl"))]


# By chance.

SAMPLING = {
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 2.5},
    "top k": {"temperature": 1.0, "top_k": 5},
    "top k of one": {"temperature": 1.5, "top_k": 1},
    "top p": {"temperature": 1.0, "top_p": 0.6},
    "a small top p": {"temperature": 1.0, "top_p": 0.01},
    "min p": {"temperature": 1.0, "min_p": 0.3},
    "all of them": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.1},
    "with penalties": {"temperature": 1.2, "top_k": 8, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}


def warped(model, ids, prompt_length, options):
    """Probabilities of the next token after `ids`, by transformers' own processors in its own order."""
    settings = transformers.GenerationConfig(do_sample=True, pad_token_id=0, **({"top_k": 0} | options))
    processors = model._get_logits_processor(settings, input_ids_seq_length=prompt_length)
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[:, -1].float()
    return processors(torch.tensor([ids]), scores)[0].softmax(0)


def flags_of(options):
    return [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]


@pytest.mark.parametrize("case", SAMPLING)
def test_every_token_drawn_is_one_that_transformers_could_draw(nibble, work, case):
    model = save_model(work / "m")
    options = SAMPLING[case]
    drawn = []
    for seed in range(3):
        prompt = prompt_of(6, seed)
        said = generate(nibble, work / "m", prompt, "--seed", seed, *flags_of(options), new=30)
        assert len(said["ids"]) == 30
        ids = list(prompt)
        for token in said["ids"]:
            probabilities = warped(model, ids, len(prompt), options)
            assert probabilities[token] > 0, f"token {token} after {len(ids)}"
            ids.append(token)
        drawn.append(said["ids"])
    again = generate(nibble, work / "m", prompt_of(6, 2), "--seed", 2, *flags_of(options), new=30)
    assert again["ids"] == drawn[2], "the same seed, the same tokens"
    if case not in ("top k of one", "a small top p"):
        other = generate(nibble, work / "m", prompt_of(6, 2), "--seed", 3, *flags_of(options), new=30)
        assert other["ids"] != drawn[2], "another seed"


@pytest.mark.parametrize("case", [case for case in SAMPLING if case not in ("top k of one", "a small top p")])
def test_tokens_come_as_often_as_they_should(nibble, work, case):
    """Pearson's test over 3000 draws; it would fail once in a thousand runs, but the seed is fixed."""
    model = save_model(work / "m")
    prompt = prompt_of(6)
    rows = work / "rows.jsonl"
    rows.write_text(3000 * (json.dumps({"prompt": text_of(prompt)}) + "\n"))
    said = nibble.json(
        "generate", "--base", work / "m", "--prompts", rows, "--max-new-tokens", 1, "--seed", 7, *flags_of(SAMPLING[case]))
    counts = torch.bincount(torch.tensor([one["ids"][0] for one in said["results"]]), minlength=VOCABULARY).double()
    expected = warped(model, prompt, len(prompt), SAMPLING[case]).double() * 3000
    # Rare tokens are counted as one.
    rare = expected < 5
    counts = torch.cat((counts[~rare], counts[rare].sum().reshape(1)))
    expected = torch.cat((expected[~rare], expected[rare].sum().reshape(1)))
    used = expected > 1e-9
    assert counts[~used].sum() == 0
    squares = ((counts - expected) ** 2 / expected)[used].sum()
    freedom = int(used.sum()) - 1
    # The thousandth part of chi square's tail, by Wilson and Hilferty.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert float(squares) < limit, f"chi square {float(squares):.1f} with {freedom} degrees of freedom"


# Many rows.

def in_rows(nibble, base, rows, work, *options, new=16):
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return nibble.json("generate", "--base", base, "--prompts", path, "--max-new-tokens", new, *options)["results"]


@pytest.mark.parametrize("case", ["llama", "mistral, window", "gpt2"])
def test_rows_of_different_lengths(nibble, work, case):
    model = save_model(work / "m", case)
    prompts = [prompt_of(length, seed) for seed, length in enumerate((1, 40, 7, 7, 150, 2))]
    end = continued(model, prompts[2])[0][5]
    set_end(work / "m", model, end)
    said = in_rows(nibble, work / "m", [{"prompt": text_of(prompt)} for prompt in prompts], work)
    for prompt, one in zip(prompts, said, strict=True):
        assert one["ids"] == continued(model, prompt, 16)[0]
        assert one["prompt_tokens"] == len(prompt)


@pytest.mark.parametrize("base", ["m", "packed.nbl"])
def test_each_row_has_its_own_adapters(nibble, work, base):
    save_model(work / "m")
    theirs = work / "m"
    if base != "m":
        nibble("quantize", work / "m", "-o", work / base)
        nibble("dequantize", work / base, "-o", work / "plain", "--dtype", "fp32")
        theirs = work / "plain"
    one = save_adapter(LLAMA, theirs, work / "one", target_modules="all-linear")
    two = save_adapter(LLAMA, theirs, work / "two", target_modules=["q_proj", "v_proj"], r=9, use_rslora=True)
    three = save_adapter(LLAMA, theirs, work / "three", target_modules=["up_proj"], use_dora=True, modules_to_save=["lm_head"])
    uses = ["a", "b", "none", "c", "a,b", "a", "b:0.5", None]
    rows = [{"prompt": text_of(prompt_of(3 + number, number))} | ({} if use is None else {"use": use})
            for number, use in enumerate(uses)]
    named = [word for name, folder in (("a", one), ("b", two), ("c", three)) for word in ("--adapter", f"{name}={folder}")]
    said = in_rows(nibble, work / base, rows, work, *named, "--use", "b")

    def model_for(use):
        if use == "none":
            return as_float32(LLAMA, theirs)
        model = by_peft(LLAMA, theirs, *{"a": [one], "b": [two], "c": [three], "a,b": [one, two]}[use.split(":")[0]])
        if ":" in use:
            for module in model.modules():
                if isinstance(module, peft.tuners.lora.LoraLayer):
                    module.scale_layer(float(use.split(":")[1]))
        return model

    texts = set()
    for number, (use, answer) in enumerate(zip(uses, said, strict=True)):
        model = model_for(use or "b")
        model.generation_config.eos_token_id = None
        assert answer["ids"] == continued(model, prompt_of(3 + number, number), 16)[0], f"row {number}, {use}"
        assert answer["adapters"] == ([] if use == "none" else [part.split(":")[0] for part in (use or "b").split(",")])
        texts.add(answer["text"])
    assert len(texts) == len(uses)


def test_beam_search_with_an_adapter(nibble, work):
    save_model(work / "m")
    adapter = save_adapter(LLAMA, work / "m", work / "adapter", target_modules="all-linear")
    model = by_peft(LLAMA, work / "m", adapter)
    model.generation_config.eos_token_id = None
    prompt = prompt_of(5)
    said = generate(nibble, work / "m", prompt, "--adapter", adapter, "--num-beams", 4)
    assert said["ids"] == continued(model, prompt, num_beams=4)[0]
