"""T5 and mT5, an encoder and a decoder, on drawn configurations: logits and losses, texts, training, adapters and packed files are transformers' and
PEFT's."""
import copy
import json

import peft
import pytest
import sentencepiece
import torch
import transformers
from models import raw_bytes_of
from running import TOLERANCE, as_float32, assert_forward, distance, edit_config, padded
from safetensors.torch import load_file, save_file
from t5_models import CLASSES, EOS, PAD, VOCABULARY, chance, ids_of, save_t5, text_of

CASES = range(8)


def labels_of(batch, length):
    """Targets, some of which count for nothing."""
    labels = ids_of(batch, length)
    labels[:, -1] = EOS
    return torch.where(torch.rand(labels.shape) < 0.2, torch.tensor(-100), labels)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss(nibble, work, case):
    model = save_t5(work / "m", f"logits {case}")
    rng = chance(f"lengths {case}")
    batch, read, written = rng.randint(1, 4), rng.randint(1, 150), rng.randint(1, 90)
    ids = ids_of(batch, read)
    assert_forward(nibble, work / "m", model, work, input_ids=ids, labels=labels_of(batch, written))
    assert_forward(nibble, work / "m", model, work, input_ids=ids, decoder_input_ids=ids_of(batch, written))


def test_hidden_tokens_of_the_source_count_for_nothing(nibble, work):
    model = save_t5(work / "m", "masks")
    for side in ("left", "right"):
        ids, mask = padded(ids_of(3, 40), model, [40, 1, 17], side)
        labels, said = labels_of(3, 9), {}
        for name, own in (("all", mask), ("none", None)):
            save_file({key: value.clone() for key, value in {"input_ids": ids, "labels": labels, "attention_mask": own}.items() if value is not None},
                      work / "ask.safetensors")
            nibble("forward", "--base", work / "m", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", "--force")
            said[name] = load_file(work / "said.safetensors")["logits"]
        with torch.no_grad():
            expected = {name: model(input_ids=ids, labels=labels, attention_mask=own).logits for name, own in (("all", mask), ("none", None))}
        for name, own in expected.items():
            assert distance(said[name], own) < TOLERANCE
        assert distance(said["none"], expected["all"]) > TOLERANCE


@pytest.mark.parametrize("changes", [
    {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, {"tie_word_embeddings": True, "scale_decoder_outputs": False},
    {"tie_word_embeddings": False, "scale_decoder_outputs": True}, {"scale_decoder_outputs": False}, {"is_gated_act": True, "feed_forward_proj": "gated-relu"},
    {"dense_act_fn": "silu"}, {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True}], ids=str)
def test_what_transformers_stores_beside_the_settings(nibble, work, changes):
    save_t5(work / "m", "stored", kind="t5", feed_forward_proj=changes.get("feed_forward_proj", "relu"))
    edit_config(work / "m", **changes)
    model = as_float32(CLASSES["t5"], work / "m")
    assert_forward(nibble, work / "m", model, work, input_ids=ids_of(2, 12), labels=labels_of(2, 7))


@pytest.mark.parametrize("name", ["encoder.embed_tokens", "decoder.embed_tokens", "lm_head"])
@pytest.mark.parametrize("is_copy", [True, False])
def test_the_table_of_tokens_under_its_other_names(nibble, work, name, is_copy):
    """Files of old hold it more than once, or under one of the others' names."""
    save_t5(work / "m", "names", own_head=False)
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    shared = tensors["shared.weight"]
    kept = tensors if is_copy else {key: value for key, value in tensors.items() if key != "shared.weight"}
    old = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.randn(4, 2)}
    save_file(kept | {name + ".weight": shared.clone()} | old, path, {"format": "pt"})
    model = as_float32(type(save_t5(work / "other", "names", own_head=False)), work / "m")
    assert_forward(nibble, work / "m", model, work, input_ids=ids_of(2, 12), labels=labels_of(2, 7))


@pytest.mark.parametrize("changes, reason", [
    ({"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj"), ({"feed_forward_proj": "gated-snake", "dense_act_fn": None}, "snake"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder"), ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
    ({"relative_attention_max_distance": 2}, "relative_attention_max_distance"), ({"relative_attention_num_buckets": 1}, "relative_attention_num_buckets"),
    ({"decoder_start_token_id": VOCABULARY}, "decoder_start_token_id"), ({"d_kv": -1}, "d_kv"), ({"num_decoder_layers": 0}, "num_decoder_layers")], ids=str)
def test_what_is_not_done_is_refused_by_name(nibble, work, changes, reason):
    save_t5(work / "m", "refused", kind="t5", feed_forward_proj="relu", relative_attention_num_buckets=16, relative_attention_max_distance=40)
    edit_config(work / "m", **changes)
    said = nibble("generate", "--base", work / "m", "--prompt", "t5", exits=3).stderr
    assert reason in said and len(said.strip().splitlines()) == 1


def test_other_tables_of_tokens_are_refused(nibble, work):
    save_t5(work / "m", "tables")
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"decoder.embed_tokens.weight": tensors["shared.weight"] + 1}, path, {"format": "pt"})
    assert "decoder.embed_tokens.weight" in nibble("generate", "--base", work / "m", "--prompt", "t5", exits=3).stderr


# Generation.


def answered(model, prompt, new=20, **options):
    """What transformers writes to the prompt, which ends as the tokenizer ends texts, without the token that ends it; and the beam search's score."""
    # The cache that transformers makes has as many layers as the encoder.
    use_cache = model.config.num_decoder_layers <= model.config.num_layers
    with torch.no_grad():
        out = model.generate(
            torch.tensor([[*prompt, EOS]]), attention_mask=torch.ones(1, len(prompt) + 1, dtype=torch.long), max_new_tokens=new, do_sample=False,
            return_dict_in_generate=True, output_scores=True, use_cache=use_cache, **options)
    ids = out.sequences[0, 1:].tolist()
    ids = ids[:ids.index(EOS)] if EOS in ids else ids
    return ids, float(out.sequences_scores[0]) if "sequences_scores" in out else None


SEARCHES = {
    "greedy": {}, "penalty": {"repetition_penalty": 1.4}, "n-grams": {"no_repeat_ngram_size": 2}, "beams": {"num_beams": 4},
    "short beams": {"num_beams": 3, "length_penalty": -1.0}, "long beams": {"num_beams": 5, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("case", range(4))
def test_texts(nibble, work, search, case):
    # A head that is the table repeats a token with a probability of 1; then beams that repeat another of their tokens have the same score, and either may come first.
    model = save_t5(work / "m", f"texts {case}", **({"own_head": True, "tied": False} if "num_beams" in SEARCHES[search] else {}))
    for length in (1, 9, 70):
        prompt = ids_of(1, length)[0].tolist()
        flags = [word for key, value in SEARCHES[search].items() for word in ("--" + key.replace("_", "-"), value)]
        said = nibble.json("generate", "--base", work / "m", "--prompt", text_of(prompt), "--max-new-tokens", 20, *flags)
        ids, score = answered(model, prompt, **SEARCHES[search])
        assert said["ids"] == ids
        assert said["text"] == text_of(i for i in ids if i not in (PAD, EOS, 2))
        if score is not None:
            # The sum of log-probabilities times a power of the length.
            assert said["score"] == pytest.approx(score, rel=2e-5, abs=5e-5 * max(1, 20 ** -SEARCHES[search].get("length_penalty", 1.0)))


def test_many_prompts_at_once(nibble, work):
    model = save_t5(work / "m", "many")
    prompts = [ids_of(1, length)[0].tolist() for length in (3, 40, 1, 12, 7)]
    (work / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text_of(prompt)}) + "\n" for prompt in prompts))
    said = nibble.json("generate", "--base", work / "m", "--prompts", work / "prompts.jsonl", "--max-new-tokens", 15)
    assert [row["ids"] for row in said["results"]] == [answered(model, prompt, 15)[0] for prompt in prompts]


@pytest.mark.parametrize("search", [{}, {"num_beams": 3}], ids=str)
def test_the_first_token_is_generation_config_s(nibble, work, search):
    save_t5(work / "m", "first token")
    prompt = ids_of(1, 7)[0].tolist()
    written = set()
    for start in (0, 5, VOCABULARY - 1):
        (work / "m" / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": start, "eos_token_id": EOS, "pad_token_id": PAD}))
        model = as_float32(transformers.AutoModelForSeq2SeqLM, work / "m")
        flags = [word for key, value in search.items() for word in ("--" + key.replace("_", "-"), value)]
        said = nibble("generate", "--base", work / "m", "--prompt", text_of(prompt), "--max-new-tokens", 12, "--json", *flags)
        assert json.loads(said.stdout)["ids"] == answered(model, prompt, 12, **search)[0] and "decoder_start" not in said.stderr
        written.add(tuple(json.loads(said.stdout)["ids"]))
    assert len(written) > 1
    for start in (VOCABULARY, -1, [0, 5], "x"):
        (work / "m" / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": start}))
        line = nibble("generate", "--base", work / "m", "--prompt", text_of(prompt), exits=3).stderr
        assert "generation_config.json" in line and "decoder_start_token_id" in line and len(line.strip().splitlines()) == 1, line


@pytest.mark.parametrize("name", ["decoder_attention_mask", "token_type_ids"])
def test_tensors_that_are_not_looked_at_are_refused(nibble, work, name):
    save_t5(work / "m", "tensors")
    tensors = {"input_ids": ids_of(2, 5), "labels": ids_of(2, 4)}
    ask = ["forward", "--base", work / "m", "--ids", work / "in.safetensors", "-o", work / "out.safetensors"]
    save_file(tensors | {name: torch.ones(2, 4 if name[0] == "d" else 5, dtype=torch.long)}, work / "in.safetensors")
    line = nibble(*ask, exits=3).stderr
    assert "in.safetensors" in line and name in line and not (work / "out.safetensors").exists()
    save_file(tensors | {"decoder_input_ids": torch.full((2, 4), VOCABULARY)}, work / "in.safetensors")
    line = nibble(*ask, exits=3).stderr
    assert "in.safetensors: decoder_input_ids" in line and str(VOCABULARY) in line


def test_sampling_draws_from_the_decoder_s_scores(nibble, work):
    """Among one token, what is drawn is the likeliest; among all, the first tokens come as often as they are likely."""
    model = save_t5(work / "m", "drawn", own_head=False, tied=True, kind="t5")
    prompt = ids_of(1, 6)[0].tolist()
    said = nibble.json("generate", "--base", work / "m", "--prompt", text_of(prompt), "--max-new-tokens", 8, "--temperature", 1, "--top-k", 1)
    assert said["ids"] == answered(model, prompt, 8)[0]
    count = 2000
    (work / "prompts.jsonl").write_text((json.dumps({"prompt": text_of(prompt)}) + "\n") * count)
    said = nibble.json("generate", "--base", work / "m", "--prompts", work / "prompts.jsonl", "--max-new-tokens", 1, "--temperature", 1)
    with torch.no_grad():
        start = torch.tensor([[model.config.decoder_start_token_id]])
        chances = model(input_ids=torch.tensor([[*prompt, EOS]]), decoder_input_ids=start).logits[0, 0].softmax(-1)
    found = torch.bincount(torch.tensor([row["ids"][0] if row["ids"] else EOS for row in said["results"]]), minlength=VOCABULARY) / count
    # Four standard deviations of each share.
    assert bool(((found - chances).abs() <= 4 * (chances * (1 - chances) / count).sqrt() + 1 / count).all())


def test_pieces_in_a_file_of_t5_s_name(nibble, work):
    """Files of mT5 have no tokenizer.json."""
    text = "Once upon a time there was a little model that read one text and wrote another. It was very proud of its two halves. "
    (work / "text.txt").write_text("\n".join(text.split(". ") * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(work / "text.txt"), model_prefix=str(work / "spiece"), vocab_size=40, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        model_type="unigram", minloglevel=2)
    model = save_t5(work / "m", "pieces")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (work / "m" / name).unlink(missing_ok=True)
    (work / "spiece.model").rename(work / "m" / "spiece.model")
    (work / "m" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    pieces = sentencepiece.SentencePieceProcessor(str(work / "m" / "spiece.model"))
    prompt = "a little text was very proud"
    said = nibble.json("generate", "--base", work / "m", "--prompt", prompt, "--max-new-tokens", 9)
    assert said["prompt_tokens"] == len(pieces.encode(prompt)) + 1
    assert said["ids"] == answered(model, pieces.encode(prompt), 9)[0]
    (work / "rows.jsonl").write_text(json.dumps({"prompt": prompt, "completion": "two halves"}) + "\n")
    row, = nibble.json("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--show-batch")
    assert (row["input_ids"], row["labels"]) == ([*pieces.encode(prompt), EOS], [*pieces.encode("two halves"), EOS])


# Training.


STEPS, BATCH, RATE = 5, 3, 5e-3
RUN = ["--max-steps", STEPS, "--batch-size", BATCH, "--learning-rate", RATE, "--no-shuffle", "--lr-scheduler", "constant", "--warmup-steps", 0,
       "--weight-decay", "0.01", "--max-grad-norm", "0.5"]


def rows(path, count=STEPS * BATCH):
    """Prompts and completions of different lengths, and what transformers' examples make of them."""
    made = [(ids_of(1, 2 + 5 * number % 23)[0].tolist(), ids_of(1, 1 + 3 * number % 11)[0].tolist()) for number in range(count)]
    path.write_text("".join(json.dumps({"prompt": text_of(prompt), "completion": text_of(answer)}) + "\n" for prompt, answer in made))
    return [([*prompt, EOS], [*answer, EOS]) for prompt, answer in made]


def loss_of(model, made):
    """The loss of a batch as transformers pads it."""
    def grid(lists, fill):
        longest = max(map(len, lists))
        return torch.tensor([[*one, *[fill] * (longest - len(one))] for one in lists])
    prompts, answers = zip(*made)
    mask = grid([[1] * len(prompt) for prompt in prompts], 0)
    return model(input_ids=grid(prompts, PAD), attention_mask=mask, labels=grid(answers, -100)).loss


def by_torch(model, made):
    """Losses and norms of gradients in float64, and how far PyTorch's own float32 has come from them by each step. It takes the steps on `model`."""
    exact, single = steps_of(copy.deepcopy(model).double(), made), steps_of(model, made)
    grown, seen = [0.0, 0.0], []
    for truth, rounded in zip(exact, single):
        grown = [max(before, abs(theirs / own - 1)) for before, theirs, own in zip(grown, rounded, truth)]
        seen.append((truth, grown))
    return seen


def steps_of(model, made):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    model.eval()  # no dropout
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, made[step * BATCH:(step + 1) * BATCH])
        loss.backward()
        seen.append((loss.item(), torch.nn.utils.clip_grad_norm_(parameters, 0.5).item()))
        optimizer.step()
    return seen


def assert_same_steps(folder, seen):
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in metrics if "grad_norm" in row]
    for row, ((loss, norm), (loss_off, norm_off)) in zip(steps, seen, strict=True):
        assert row["loss"] == pytest.approx(loss, rel=2e-5 + 4 * loss_off)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-4 + 4 * norm_off)


def peft_start(base, folder, **options):
    """A PEFT adapter of random numbers."""
    model = peft.get_peft_model(
        as_float32(CLASSES[json.loads((base / "config.json").read_text())["model_type"]], base),
        peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="SEQ_2_SEQ_LM", **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("targets", [["q", "v"], "all-linear", ["wi_0", "wi", "relative_attention_bias"], r"decoder\..*EncDecAttention\.[kv]", r"encoder\..*\.wo"], ids=str)
@pytest.mark.parametrize("case", range(2))
@pytest.mark.parametrize("more", [[], ["--no-gradient-checkpointing"]], ids=str)
def test_steps_are_peft_s(nibble, work, targets, case, more):
    save_t5(work / "m", f"steps {case}", is_smooth=True)
    model = peft_start(work / "m", work / "start", target_modules=targets)
    made = rows(work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--init-adapter", work / "start", "-o", work / "out", *RUN, *more)
    assert_same_steps(work / "out", by_torch(model, made))
    config = json.loads((work / "out" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    base = as_float32(type(model.get_base_model()), work / "m")
    final = peft.PeftModel.from_pretrained(base, work / "out").eval()
    with torch.no_grad():
        assert float(loss_of(final, made[:BATCH])) == pytest.approx(float(loss_of(model, made[:BATCH])), rel=2e-4)


def test_steps_on_packed_weights_are_peft_s(nibble, work):
    save_t5(work / "m", "packed steps", is_smooth=True, d_model=64, d_ff=64, d_kv=16, num_heads=4)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "m.nbl", "-o", work / "twin", "--dtype", "fp32")
    model = peft_start(work / "twin", work / "start", target_modules="all-linear")
    made = rows(work / "rows.jsonl")
    nibble("finetune", "--base", work / "m.nbl", "--data", work / "rows.jsonl", "--init-adapter", work / "start", "-o", work / "out", "--any-base", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))


@pytest.mark.parametrize("is_copy", [True, False])
def test_full_training_of_a_table_under_another_name(nibble, work, is_copy):
    """A copy of the table in the file is trained with it."""
    model = save_t5(work / "m", "copies", is_smooth=True, own_head=False)
    path = work / "m" / "model.safetensors"
    tensors = load_file(path)
    shared = tensors["shared.weight"] if is_copy else tensors.pop("shared.weight")
    save_file(tensors | {f"{stack}.embed_tokens.weight": shared.clone() for stack in ("encoder", "decoder")}, path, {"format": "pt"})
    made = rows(work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "full", "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    final = as_float32(type(model), work / "out")
    assert final.encoder.embed_tokens.weight.data_ptr() == final.shared.weight.data_ptr() == final.lm_head.weight.data_ptr()
    with torch.no_grad():
        assert float(loss_of(final, made[:BATCH])) == pytest.approx(float(loss_of(model, made[:BATCH])), rel=2e-4)


@pytest.mark.parametrize("case", range(4))
def test_full_training_is_pytorch_s(nibble, work, case):
    model = save_t5(work / "m", f"full {case}", is_smooth=True)
    made = rows(work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "full", "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    final = as_float32(type(model), work / "out")
    for (name, ours), (_, theirs) in zip(final.named_parameters(), model.named_parameters(), strict=True):
        # Adam's steps are as long whatever the gradient: those near 0 may go either way.
        assert float((ours - theirs).abs().max()) <= STEPS * RATE and float((ours - theirs).abs().mean()) <= 2e-6, name


def test_validation_and_evaluation_have_the_loss_of_rows(nibble, work):
    model = save_t5(work / "m", "validation", is_smooth=True)
    rows(work / "rows.jsonl")
    made = rows(work / "held.jsonl", 7)
    start = peft_start(work / "m", work / "start", target_modules=["q", "v"])
    with torch.no_grad():
        # The mean over tokens, whatever rows they are in.
        plain, adapted = (float(loss_of(one, made)) for one in (model, start.eval()))
    said = nibble.json("evaluate", "--task", "lm", "--base", work / "m", "--data", work / "held.jsonl")
    assert said["loss"] == pytest.approx(plain, rel=2e-5)
    said = nibble.json("evaluate", "--task", "lm", "--base", work / "m", "--adapter", work / "start", "--data", work / "held.jsonl")
    assert said["loss"] == pytest.approx(adapted, rel=2e-5)


def test_rows_of_ids_and_rows_that_do_not_fit(nibble, work):
    save_t5(work / "m", "rows")
    row = {"input_ids": [5, 6, 7, EOS], "labels": [8, -100, 9, EOS]}
    (work / "ids.jsonl").write_text(json.dumps(row) + "\n")
    model = as_float32(CLASSES[json.loads((work / "m" / "config.json").read_text())["model_type"]], work / "m")
    with torch.no_grad():
        loss = float(model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss)
    assert nibble.json("evaluate", "--task", "lm", "--base", work / "m", "--data", work / "ids.jsonl")["loss"] == pytest.approx(loss, rel=2e-5)
    for bad, reason in (({"text": "t5 t6"}, "prompt and completion"), ({"input_ids": [5]}, "labels"), ({"input_ids": [5], "labels": [VOCABULARY]}, "vocabulary"),
                        ({"prompt": "t5", "completion": 3}, "completion"), ({"messages": []}, "prompt and completion"), ({"input_ids": [], "labels": [5]}, "empty")):
        (work / "bad.jsonl").write_text(json.dumps(bad) + "\n")
        said = nibble("finetune", "--base", work / "m", "--data", work / "bad.jsonl", "-o", work / "out", "--max-steps", 1, exits=3).stderr
        assert reason in said and "bad.jsonl" in said and len(said.strip().splitlines()) == 1, said


# Adapters and packed files.


def test_adapters_are_attached_and_merged(nibble, work):
    save_t5(work / "m", "merged")
    model = peft_start(work / "m", work / "a", target_modules="all-linear").eval()
    ids, labels = ids_of(2, 20), labels_of(2, 8)
    assert_forward(nibble, work / "m", model, work, "--adapter", work / "a", input_ids=ids, labels=labels)
    nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged")
    merged = as_float32(type(model.get_base_model()), work / "merged")
    assert_forward(nibble, work / "merged", merged, work, input_ids=ids, labels=labels)
    with torch.no_grad():
        ours, theirs = merged(input_ids=ids, labels=labels).logits, model(input_ids=ids, labels=labels).logits
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-5


@pytest.mark.parametrize("output", ["packed.nbl", "folder"])
def test_packed_models_run(nibble, work, output):
    """As their decoded twins do in transformers; the last layers of MLPs stay as they are in folders, where transformers does not replace them."""
    save_t5(work / "m", "packed", d_model=64, d_ff=64, d_kv=16, num_heads=4)
    nibble("quantize", work / "m", "-o", work / output, *(["--format", "bnb"] if output == "folder" else []))
    nibble("dequantize", work / output, "-o", work / "twin", "--dtype", "fp32")
    kind = json.loads((work / "m" / "config.json").read_text())["model_type"]
    twin = as_float32(CLASSES[kind], work / "twin")
    assert_forward(nibble, work / output, twin, work, input_ids=ids_of(2, 20), labels=labels_of(2, 8))
    if output == "folder":
        packed = {name for name, (dtype, _, _) in raw_bytes_of(work / output).items() if dtype == "U8" and name.endswith(".weight")}
        assert packed and not any(name.endswith(".wo.weight") for name in packed) and any(".EncDecAttention.k" in name for name in packed)
    prompt = ids_of(1, 9)[0].tolist()
    said = nibble.json("generate", "--base", work / output, "--prompt", text_of(prompt), "--max-new-tokens", 12)
    assert said["ids"] == answered(twin, prompt, 12)[0]


def test_what_the_two_stacks_look_up_is_not_adapted(nibble, work):
    save_t5(work / "m", "tables adapted", own_head=False)
    rows(work / "rows.jsonl")
    for words in (["--target-modules", "q,shared"], ["--trainable-token-indices", "3"], ["--modules-to-save", "shared"]):
        said = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *words, exits=2).stderr
        assert "'shared' is looked up by two modules" in said and len(said.strip().splitlines()) == 1
    peft_start(work / "m", work / "a", target_modules=["q", "shared"])
    assert "'shared' is looked up by two modules" in nibble(
        "generate", "--base", work / "m", "--adapter", work / "a", "--prompt", "t5", exits=5).stderr
    assert "can only be attached" in nibble("merge", "--base", work / "m", "--adapter", work / "a", "-o", work / "merged", exits=3).stderr


@pytest.mark.parametrize("words, reason", [
    (["--num-labels", 2, "--pooling", "last"], "classes"), (["--neftune-noise-alpha", 5], "--neftune-noise-alpha"), (["--train-on-prompt"], "--train-on-prompt")], ids=str)
def test_options_that_do_not_fit_are_refused(nibble, work, words, reason):
    save_t5(work / "m", "options", kind="t5")
    (work / "rows.jsonl").write_text(json.dumps({"prompt": "t5", "completion": "t6", "text": "t5", "label": 1}) + "\n")
    said = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *words, exits=2).stderr
    assert reason in said and len(said.strip().splitlines()) == 1


def test_calibration_is_refused(nibble, work):
    save_t5(work / "m", "calibrated", kind="t5")
    (work / "text.txt").write_text("t5 t6 t7")
    for words, reason in ((["quantize", work / "m", "-o", work / "q.nbl", "--encoder", "calibrated", "--calibration", work / "text.txt"], "read one text"),
                          (["quantize", work / "m", "-o", work / "q.nbl", "--encoder", "calibrated"], "transformers of text"),
                          (["calibrate", work / "m", "--calibration", work / "text.txt", "-o", work / "s"], "read one text"),
                          (["calibrate", work / "m", "--calibration", work / "text.txt", "-o", work / "s.gguf"], "read one text")):
        said = nibble(*words, exits=2).stderr
        assert reason in said and len(said.strip().splitlines()) == 1, said


@pytest.mark.parametrize("words", [
    ["evaluate", "--task", "perplexity"], ["evaluate", "--task", "choices"], ["evaluate", "--task", "embed"]], ids=str)
def test_what_looks_at_one_text_is_refused(nibble, work, words):
    save_t5(work / "m", "one text")
    row = {"text": "t5 t6", "choices": ["t7", "t8"], "question": "t5", "label": 0, "sentence1": "t5", "sentence2": "t6", "score": 1, "context": "t5", "gold": 0}
    (work / "data.jsonl").write_text(json.dumps(row) + "\n")
    said = nibble(*words, "--base", work / "m", "--data", work / "data.jsonl", exits=2).stderr
    assert "read one text and write another" in said and len(said.strip().splitlines()) == 1
