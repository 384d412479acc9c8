"""PEFT's methods beside LoRA: its files attached, merged and trained on, against PEFT itself; and nibble's own, read by PEFT."""
import json
import math

import peft
import pytest
import torch
import transformers
from running import as_float32, assert_same, expected, forward, padded, random_ids, save_random
from safetensors.torch import load_file, save_file
from test_adapters_running import GPT2, LLAMA, TINY_BIAS, class_and_type, packed_and_twin
from test_finetune import ACCUMULATION, BATCH, RATE, RUN, STEPS, assert_same_steps, by_torch, of_tokens, rows
from torch.optim.optimizer import register_optimizer_step_post_hook

ROBERTA = "RobertaForSequenceClassification"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES = {
    "ia3": (LLAMA, {}, peft.IA3Config, {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "ia3, all linear": (LLAMA, TINY_BIAS, peft.IA3Config, {"target_modules": LINEAR, "feedforward_modules": ["down_proj", "q_proj"]}),
    "ia3, gpt2": (GPT2, {}, peft.IA3Config, {
        "target_modules": ["c_attn", "mlp.c_proj", "c_fc"], "feedforward_modules": ["mlp.c_proj"], "fan_in_fan_out": True}),
    "ia3, roberta classifier": (ROBERTA, {}, peft.IA3Config, {
        "target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"], "task_type": "SEQ_CLS"}),
    "ia3, trained whole beside": (LLAMA, {}, peft.IA3Config, {
        "target_modules": ["k_proj"], "feedforward_modules": [], "modules_to_save": ["lm_head", "norm"]}),
    "lokr": (LLAMA, {}, peft.LoKrConfig, {"target_modules": LINEAR, "r": 3, "alpha": 5}),
    "lokr, whole": (LLAMA, {}, peft.LoKrConfig, {"target_modules": LINEAR, "r": 64, "alpha": 7}),
    "lokr, both thin": (LLAMA, {}, peft.LoKrConfig, {"target_modules": LINEAR, "r": 2, "decompose_both": True}),
    "lokr, factor": (LLAMA, {}, peft.LoKrConfig, {"target_modules": ["q_proj", "down_proj"], "r": 4, "decompose_factor": 4}),
    "lokr, patterns": (LLAMA, {}, peft.LoKrConfig, {
        "target_modules": ["q_proj", "down_proj"], "r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
    "loha": (LLAMA, {}, peft.LoHaConfig, {"target_modules": LINEAR, "r": 3, "alpha": 5}),
    "loha, patterns": (LLAMA, TINY_BIAS, peft.LoHaConfig, {
        "target_modules": ["q_proj", "up_proj"], "r": 4, "rank_pattern": {"up_proj": 1}, "alpha_pattern": {"q_proj": 2}}),
    "loha, roberta classifier": (ROBERTA, {}, peft.LoHaConfig, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    "vera": (LLAMA, {}, peft.VeraConfig, {"target_modules": LINEAR, "r": 16}),
    "vera, by seed": (LLAMA, {}, peft.VeraConfig, {
        "target_modules": ["q_proj", "down_proj"], "r": 9, "save_projection": False, "projection_prng_key": 12345}),
    "vera, gpt2": (GPT2, {}, peft.VeraConfig, {"target_modules": ["c_attn", "c_fc"], "r": 12, "fan_in_fan_out": True}),
    "vera, biases": (LLAMA, TINY_BIAS, peft.VeraConfig, {"target_modules": ["q_proj", "v_proj"], "r": 12, "bias": "vera_only"}),
    "adalora": (LLAMA, {}, peft.AdaLoraConfig, {"target_modules": LINEAR, "init_r": 6, "lora_alpha": 9, "total_step": 10}),
    "adalora, gpt2": (GPT2, {}, peft.AdaLoraConfig, {
        "target_modules": ["c_attn"], "init_r": 5, "total_step": 10, "fan_in_fan_out": True}),
    "oft": (LLAMA, {}, peft.OFTConfig, {"target_modules": LINEAR, "oft_block_size": 8}),
    "oft, number of blocks": (LLAMA, TINY_BIAS, peft.OFTConfig, {"target_modules": LINEAR, "r": 4, "oft_block_size": 0}),
    "oft, exact": (LLAMA, {}, peft.OFTConfig, {"target_modules": LINEAR, "oft_block_size": 16, "use_cayley_neumann": False}),
    "oft, shared": (LLAMA, {}, peft.OFTConfig, {"target_modules": LINEAR, "oft_block_size": 4, "block_share": True}),
    "oft, two terms": (LLAMA, {}, peft.OFTConfig, {"target_modules": ["q_proj"], "oft_block_size": 8, "num_cayley_neumann_terms": 2}),
    "oft, seven terms": (LLAMA, {}, peft.OFTConfig, {"target_modules": ["q_proj"], "oft_block_size": 8, "num_cayley_neumann_terms": 7}),
    "oft, bounded": (LLAMA, {}, peft.OFTConfig, {"target_modules": ["q_proj"], "oft_block_size": 8, "coft": True, "eps": 0.3}),
    "boft": (LLAMA, TINY_BIAS, peft.BOFTConfig, {"target_modules": LINEAR, "boft_block_size": 8, "boft_block_num": 0}),
    "boft, two factors": (LLAMA, {}, peft.BOFTConfig, {
        "target_modules": LINEAR, "boft_block_size": 8, "boft_block_num": 0, "boft_n_butterfly_factor": 2}),
    "boft, three factors": (LLAMA, {}, peft.BOFTConfig, {
        "target_modules": ["q_proj", "down_proj"], "boft_block_size": 4, "boft_block_num": 0, "boft_n_butterfly_factor": 3}),
    "hra": (LLAMA, TINY_BIAS, peft.HRAConfig, {"target_modules": LINEAR, "r": 4}),
    "hra, odd": (LLAMA, {}, peft.HRAConfig, {"target_modules": ["q_proj", "down_proj"], "r": 3}),
    "hra, orthogonal": (LLAMA, {}, peft.HRAConfig, {"target_modules": LINEAR, "r": 4, "apply_GS": True}),
    "miss": (LLAMA, {}, peft.MissConfig, {"target_modules": LINEAR, "r": 8}),
    "miss, rank that divides nothing": (LLAMA, {}, peft.MissConfig, {"target_modules": LINEAR, "r": 7}),
    "miss, mini": (LLAMA, {}, peft.MissConfig, {"target_modules": LINEAR, "r": 8, "mini_r": 4, "init_weights": "mini"}),
}


@pytest.fixture(autouse=True)
def butterflies(monkeypatch):
    """PEFT has factors of BOFT beyond the first on CUDA only, where its extension puts blocks along a diagonal. Here torch does."""
    class Diagonal:
        @staticmethod
        def forward(blocks):
            return [torch.stack([torch.block_diag(*one) for one in blocks])]

        @staticmethod
        def backward(gradient, blocks):
            size, count = blocks.shape[-1], blocks.shape[1]
            return [torch.stack([
                torch.stack([one[i * size:(i + 1) * size, i * size:(i + 1) * size] for i in range(count)]) for one in gradient])]

    monkeypatch.setattr(peft.tuners.boft.layer, "get_fbd_cuda", lambda: Diagonal)


def move(model, seed=7):
    """Numbers that training might have put there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "ia3_l" in name or "boft_s" in name:
                parameter.add_(0.3 * noise)
            elif any(part in name for part in ("hada", "lokr")):
                parameter.copy_(0.25 * noise)
            elif "vera_lambda" in name:
                parameter.copy_(0.5 * noise)
            elif "lora_E" in name:
                parameter.copy_(2 * noise)
            elif any(part in name for part in ("lora_", "oft_R", "boft_R", "hra_u")):
                parameter.copy_(0.15 * noise)
            elif "miss_block" in name:
                parameter.copy_(0.06 * noise)
            else:
                parameter.add_(0.05 * noise)
    return model


def save(model_class, base, folder, config_class, settings, moves=True):
    model = peft.get_peft_model(as_float32(model_class, base), config_class(**settings))
    if moves:
        move(model)
    model.save_pretrained(folder)
    return folder


def by_peft(model_class, base, adapter, **options):
    return peft.PeftModel.from_pretrained(as_float32(model_class, base), adapter, **options)


def asked(model, lengths=(18, 11, 5)):
    ids, mask = padded(random_ids(model, 3, 18), model, list(lengths))
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
@pytest.mark.parametrize("case", CASES)
def test_attached_it_computes_what_peft_computes(nibble, work, case, base):
    name, changes, config_class, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    adapter = save(model_class, theirs, work / "adapter", config_class, settings)
    model = by_peft(model_class, theirs, adapter).eval()
    question = asked(model)
    said = forward(nibble, ours, work, "--adapter", adapter, **question)
    assert_same(said, expected(model, **question), question["attention_mask"])
    bare = forward(nibble, ours, work, **question)["logits"]
    assert float((said["logits"] - bare).abs().max() / bare.abs().max()) > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_merged_it_is_what_peft_merges(nibble, work, case):
    name, changes, config_class, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    adapter = save(model_class, work / "m", work / "adapter", config_class, settings)
    nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged")
    if "classifier" in case:
        # PEFT stumbles over heads that are trained whole; what it computes attached is the measure.
        model = by_peft(model_class, work / "m", adapter).eval()
        question = asked(model)
        assert_same(
            expected(as_float32(model_class, work / "merged"), **question), expected(model, **question), question["attention_mask"],
            tolerance=5e-5)
        return
    ours = load_file(work / "merged" / "model.safetensors")
    merged = by_peft(model_class, work / "m", adapter).merge_and_unload()
    theirs = dict(merged.named_parameters())
    assert ours.keys() >= theirs.keys()
    before = load_file(work / "m" / "model.safetensors")
    changed = 0
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=2e-5, atol=2e-6), (key, float((ours[key] - value).abs().max()))
        changed += not torch.equal(value, before[key])
    assert changed > 0


@pytest.mark.parametrize("case", [
    case for case in CASES if not any(word in case for word in ("classifier", "bounded", "adalora"))])
def test_five_steps_are_peft_s(nibble, work, case):
    name, changes, config_class, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    adapter = save(model_class, work / "m", work / "start", config_class, settings)
    model = by_peft(model_class, work / "m", adapter, is_trainable=True)
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN)
    assert_same_steps(work / "out", by_torch(model, made))
    model.save_pretrained(work / "theirs")
    ours, theirs = load_file(work / "out" / "adapter_model.safetensors"), load_file(work / "theirs" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    start = load_file(adapter / "adapter_model.safetensors")
    moved = math.sqrt(sum(float(((theirs[key] - start[key]) ** 2).sum()) for key in theirs))
    apart = math.sqrt(sum(float(((theirs[key] - ours[key]) ** 2).sum()) for key in theirs))
    assert apart <= 0.01 * moved


def test_adalora_s_budget_is_peft_s(nibble, work):
    """Its loss of factors that are not orthogonal, what it takes away after each step, and what is left in the file."""
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    adapter = save(model_class, work / "m", work / "start", peft.AdaLoraConfig, {
        "target_modules": LINEAR, "init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1, "total_step": STEPS, "lora_alpha": 9})
    model = by_peft(model_class, work / "m", adapter, is_trainable=True).eval()
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--init-adapter", adapter, "-o", work / "out", *RUN)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    factors = [(name, one) for name, one in model.named_parameters() if "lora_A" in name or "lora_B" in name]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 1, STEPS)
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for micro in range(ACCUMULATION):
            first = (step * ACCUMULATION + micro) * BATCH
            found = [of_tokens(model, row) for row in made[first:first + BATCH]]
            loss = sum(one for one, _ in found) / sum(count for _, count in found)
            products = [one @ one.T if "lora_A" in name else one.T @ one for name, one in factors]
            # As in AdaLoraModel.forward, which has the labels.
            loss = loss + 0.5 * sum(torch.norm(one - torch.eye(len(one)), p="fro") for one in products) / len(products)
            (loss / ACCUMULATION).backward()
            total += loss.item() / ACCUMULATION
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        schedule.step()
        seen.append((total, norm.item()))
    assert_same_steps(work / "out", seen)
    model.save_pretrained(work / "theirs")
    ours, theirs = load_file(work / "out" / "adapter_model.safetensors"), load_file(work / "theirs" / "adapter_model.safetensors")
    masks = [json.loads((folder / "adapter_config.json").read_text())["rank_pattern"] for folder in (work / "out", work / "theirs")]
    assert masks[0] == masks[1] and sum(map(sum, masks[0].values())) == 2 * len(masks[0])
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=1e-3, atol=2e-4), key
    # What was pruned is read again, attached and merged.
    question = asked(model)
    again = by_peft(model_class, work / "m", work / "out").eval()
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "out", **question), expected(again, **question), question["attention_mask"])
    nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged")
    assert_same(
        expected(as_float32(model_class, work / "merged"), **question), expected(again, **question), question["attention_mask"],
        tolerance=5e-5)


ANEW = {
    "ia3": [], "lokr": ["--rank", 3], "loha": ["--rank", 2], "vera": ["--rank", 12], "adalora": ["--rank", 4, "--method-option", "target_r=2"],
    "oft": ["--method-option", "oft_block_size=8"], "boft": ["--method-option", "boft_block_size=8"], "hra": ["--rank", 4],
    "miss": ["--rank", 8], "lora-fa": ["--rank", 4],
    "lokr, factor": ["--rank", 3, "--method-option", "decompose_factor=4", "--method-option", "decompose_both=true"],
    "ia3, chosen": ["--method-option", "feedforward_modules=q_proj,down_proj"],
    "miss, mini": ["--rank", 8, "--method-option", "init_weights=mini", "--method-option", "mini_r=4"],
    "oft, exact": ["--method-option", "oft_block_size=4", "--method-option", "use_cayley_neumann=false"],
}


@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
@pytest.mark.parametrize("case", ANEW)
def test_what_nibble_trains_peft_loads(nibble, work, case, base):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    made = rows(as_float32(model_class, theirs), work / "rows.jsonl")
    method = case.split(",")[0]
    nibble("finetune", "--base", ours, "--data", work / "rows.jsonl", "--method", method, "-o", work / "out", *RUN, *ANEW[case])
    # It begins as the base.
    first = json.loads((work / "out" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    model = as_float32(model_class, theirs)
    found = [of_tokens(model, row) for row in made[:BATCH * ACCUMULATION]]
    plain = sum(
        sum(one for one, _ in part).item() / sum(count for _, count in part) for part in (found[:BATCH], found[BATCH:])) / ACCUMULATION
    if method != "adalora":
        assert first == pytest.approx(plain, rel=2e-5)
    with pytest.warns() as said:
        import warnings
        warnings.warn("at least one")
        adapted = by_peft(model_class, theirs, work / "out").eval()
    assert not [one for one in said if "Unexpected keyword" in str(one.message) or "missing" in str(one.message)]
    question = asked(adapted)
    report = forward(nibble, ours, work, "--adapter", work / "out", **question)
    assert_same(report, expected(adapted, **question), question["attention_mask"])
    bare = forward(nibble, ours, work, **question)["logits"]
    assert float((report["logits"] - bare).abs().max()) > 1e-4


def test_lora_fa_leaves_the_first_factors(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    rows(as_float32(model_class, work / "m"), work / "rows.jsonl")
    for steps, name in ((1, "short"), (6, "long")):
        nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "--method", "lora-fa", "-o", work / name, *RUN,
               "--max-steps", steps)
    short, long = (load_file(work / name / "adapter_model.safetensors") for name in ("short", "long"))
    for key in short:
        assert torch.equal(short[key], long[key]) == ("lora_A" in key)


@pytest.mark.parametrize("case, change, code, words", [
    ("oft", {"drop": ".oft_R.weight", "of": "q_proj", "to": (8, 27)}, 5, "do not fit together as OFT"),
    ("hra", {"nan": "hra_u"}, 6, "NaN"),
    ("lokr", {"drop": "lokr_w1", "of": "q_proj"}, 5, "do not fit together as LoKr"),
    ("loha", {"drop": "hada_w2_b", "of": "q_proj"}, 5, "hada_w2_b is missing"),
    ("vera", {"drop": "vera_lambda_d", "of": "q_proj"}, 5, "vera_lambda_d is missing"),
    ("ia3", {"drop": "ia3_l", "of": "k_proj", "to": (17, 1)}, 5, "k_proj"),
    ("miss", {"config": {"init_weights": "bat"}}, 3, "bat"),
    ("adalora", {"config": {"init_r": 7}}, 5, "init_r=7"),
    ("boft", {"config": {"peft_type": "SHIRA"}}, 3, "SHIRA"),
])
def test_what_does_not_fit_is_refused(nibble, work, case, change, code, words):
    name, changes, config_class, settings = CASES[case]
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m", **changes)
    adapter = save(model_class, work / "m", work / "adapter", config_class, settings)
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    if "drop" in change:
        for key in [key for key in tensors if change["drop"] in key and change["of"] in key]:
            tensors.pop(key)
            if "to" in change:
                tensors[key] = torch.zeros(change["to"])
    if "nan" in change:
        next(value for key, value in tensors.items() if change["nan"] in key).view(-1)[3] = math.nan
    save_file(tensors, path)
    if "config" in change:
        text = json.loads((adapter / "adapter_config.json").read_text()) | change["config"]
        (adapter / "adapter_config.json").write_text(json.dumps(text))
    ids = torch.tensor([[5, 7, 9]])
    save_file({"input_ids": ids}, work / "ask.safetensors")
    done = nibble("forward", "--base", work / "m", "--ids", work / "ask.safetensors", "-o", work / "said.safetensors", "--adapter", adapter, exits=code)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = nibble("merge", "--base", work / "m", "--adapter", adapter, "-o", work / "merged", exits=code)
    assert words in done.stderr and not (work / "merged").exists()


@pytest.mark.parametrize("name, targets", [(LLAMA, "all-linear"), (GPT2, "c_attn,c_fc")])
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_steps_from_a_part_of_the_weight_are_peft_s(nibble, work, start, name, targets):
    """PEFT takes the part out of the weight; nibble's factors have it beside them, with the other sign."""
    if name == GPT2 and start == "olora":
        pytest.skip("PEFT's OLoRA forgets that Conv1D is stored the other way round")
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, init_lora_weights=start, fan_in_fan_out=name == GPT2,
        target_modules=targets if targets == "all-linear" else targets.split(","))
    model = peft.get_peft_model(as_float32(model_class, work / "m"), config)
    made = rows(model, work / "rows.jsonl")
    nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", "--init-lora", start, "--lora-r", 4,
           "--lora-alpha", 6, "--target-modules", targets, *RUN)
    metrics = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    # A weight of another sign has the same loss, and Adam goes the same way from it.
    for row, (loss, norm) in zip(metrics, by_torch(model, made), strict=True):
        assert row["loss"] == pytest.approx(loss, rel=5e-5)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-3)
    # On the base as it is, in PEFT, it computes what PEFT's own does on the base that PEFT changed.
    question = asked(model)
    ours = by_peft(model_class, work / "m", work / "out").eval()
    assert_same(expected(ours, **question), expected(model.eval(), **question), question["attention_mask"], tolerance=2e-4)
    assert_same(forward(nibble, work / "m", work, "--adapter", work / "out", **question), expected(ours, **question), question["attention_mask"])


@pytest.mark.parametrize("base", ["plain", "packed.nbl"])
@pytest.mark.parametrize("start", ["orthogonal", "pissa", "pissa_niter_4", "olora"])
def test_starts_change_nothing_and_peft_loads_what_comes_out(nibble, work, start, base):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    ours, theirs = (work / "m", work / "m") if base == "plain" else packed_and_twin(nibble, work, base)
    plain = as_float32(model_class, theirs)
    made = rows(plain, work / "rows.jsonl")
    nibble("finetune", "--base", ours, "--data", work / "rows.jsonl", "-o", work / "out", "--init-lora", start, "--lora-r", 4, *RUN)
    first = json.loads((work / "out" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    found = [of_tokens(plain, row) for row in made[:BATCH * ACCUMULATION]]
    assert first == pytest.approx(sum(
        sum(one for one, _ in part).item() / sum(count for _, count in part) for part in (found[:BATCH], found[BATCH:])) / ACCUMULATION, rel=2e-5)
    config = json.loads((work / "out" / "adapter_config.json").read_text())
    assert config["r"] == (4 if start == "orthogonal" else 8) and config["lora_alpha"] == (16 if start == "orthogonal" else 32)
    adapted = by_peft(model_class, theirs, work / "out").eval()
    question = asked(adapted)
    assert_same(forward(nibble, ours, work, "--adapter", work / "out", **question), expected(adapted, **question), question["attention_mask"])


@pytest.mark.parametrize("words, reason", [
    (["--init-lora", "orthogonal", "--lora-r", 3], "has to be even"), (["--init-lora", "pissa", "--lora-r", 100], "is above the"),
    (["--init-lora", "pissa", "--method", "dora"], "is a start of LoRA"), (["--method", "ia3", "--lora-dropout", 0.1], "has no dropout"),
    (["--method", "lokr", "--method-option", "factor=3"], "has decompose_factor, decompose_both"),
    (["--method", "oft", "--method-option", "block_share=perhaps"], "expected true or false"),
    (["--method", "hra", "--rank-pattern", "q_proj=2"], "have no ranks or alphas of their own"),
])
def test_what_contradicts_itself_is_refused(nibble, work, words, reason):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    rows(as_float32(model_class, work / "m"), work / "rows.jsonl")
    done = nibble("finetune", "--base", work / "m", "--data", work / "rows.jsonl", "-o", work / "out", *words, exits=2)
    assert reason in done.stderr and not (work / "out" / "adapter_config.json").exists()


@pytest.mark.parametrize("name, targets", [(LLAMA, "all-linear"), (GPT2, "c_attn,c_fc")])
@pytest.mark.parametrize("begin, strength", [(0, 2), (2, 0.5)])
def test_delta_lora_is_peft_s_lora_on_a_weight_that_moves(nibble, work, name, targets, begin, strength):
    model_class, model_type = class_and_type(name)
    save_random(model_class, model_type, work / "m")
    model = peft.get_peft_model(as_float32(model_class, work / "m"), peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=targets if targets == "all-linear" else targets.split(","), fan_in_fan_out=name == GPT2))
    made = rows(model, work / "rows.jsonl")
    options = ["--base", work / "m", "--data", work / "rows.jsonl", "--method", "delta-lora", "--method-option", f"delta_lambda={strength}",
               "--method-option", f"delta_start={begin}", "--lora-r", 4, "--lora-alpha", 6, "--target-modules", targets]
    nibble("finetune", *options, "-o", work / "start", "--max-steps", 1, "--learning-rate", "1e-30")
    begun = load_file(work / "start" / "adapter_model.safetensors")
    layers = {key: one for key, one in model.named_modules() if isinstance(one, peft.tuners.lora.Linear)}
    with torch.no_grad():
        for key, layer in layers.items():
            layer.lora_A["default"].weight.copy_(begun[key + ".lora_A.weight"][:4])
    products, taken = {}, []

    def move(*_):
        taken.append(0)
        for key, layer in layers.items():
            now = layer.get_delta_weight("default").detach().clone()
            if len(taken) > begin:
                layer.base_layer.weight.data += strength * (now - products.get(key, torch.zeros_like(now)))
            products[key] = now

    hook = register_optimizer_step_post_hook(move)
    try:
        expected_steps = by_torch(model, made)
    finally:
        hook.remove()
    nibble("finetune", *options, "-o", work / "out", *RUN)
    metrics = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    for row, (loss, norm) in zip(metrics, expected_steps, strict=True):
        assert row["loss"] == pytest.approx(loss, rel=5e-5)
        assert row["grad_norm"] == pytest.approx(norm, rel=2e-3)
    question = asked(model)
    ours = by_peft(model_class, work / "m", work / "out").eval()
    assert_same(expected(ours, **question), expected(model.eval(), **question), question["attention_mask"], tolerance=2e-4)
    # The full checkpoint is the merge.
    nibble("merge", "--base", work / "m", "--adapter", work / "out", "-o", work / "merged")
    assert_same(expected(as_float32(model_class, work / "merged"), **question), expected(model.eval(), **question), question["attention_mask"], tolerance=2e-4)


def test_delta_lora_is_refused_on_a_packed_base(nibble, work):
    model_class, model_type = class_and_type(LLAMA)
    save_random(model_class, model_type, work / "m")
    rows(as_float32(model_class, work / "m"), work / "rows.jsonl")
    nibble("quantize", work / "m", "-o", work / "q.nbl")
    done = nibble("finetune", "--base", work / "q.nbl", "--data", work / "rows.jsonl", "-o", work / "out", "--method", "delta-lora", exits=2)
    assert "delta-lora moves float weights" in done.stderr and not (work / "out").exists()
