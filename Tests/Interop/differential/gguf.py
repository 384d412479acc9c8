"""Drawn models as GGUF: nibble's file is that of llama.cpp's converter, key by key and byte by byte; the converter's file says in nibble what
the model says in transformers, and comes out again as it was; blocks are what ggml's quantizer writes and gguf-py decodes."""
import functools
import json
import shutil
import struct

import numpy
import torch

import converter
import ggml
from conftest import ROOT
from converter import assert_same_file, contents, gguf
from models import raw_bytes_of
from small_tokenizers import small_tokenizer

from .common import ONLY, Difference, PeerRefusal, Refusal, Undrawable, answers, compare, in_double, peer
from .drawing import draw_model
from .forward import ask

# The kind of tokenizer of a family: byte pairs by the name of a rule, or pieces.
FAMILIES = {
    "llama": ["pieces", "llama", "smollm"], "mistral": ["pieces", "llama"], "qwen2": ["qwen2"], "qwen3": ["qwen2"], "gemma": ["pieces"],
    "gemma2": ["pieces"], "granite": ["pieces", "gpt2"], "olmo2": ["gpt2"], "smollm3": ["llama"], "gpt2": ["gpt2"], "bert": ["bert"],
    "roberta": ["roberta"], "xlm-roberta": ["roberta"], "gemma3_text": ["pieces"], "olmo3": ["gpt2"], "phi3": ["pieces"], "phi": ["gpt2"],
    "glm": ["glm"], "glm4": ["glm"], "starcoder2": ["gpt2"], "gpt_neox": ["gpt2"], "falcon": ["gpt2"], "distilbert": ["bert"], "modernbert": ["gpt2"],
    "mixtral": ["pieces", "llama"], "qwen3_moe": ["qwen2"], "olmoe": ["gpt2"], "qwen2_moe": ["qwen2"], "gpt_oss": ["gpt2"],
    "granitemoehybrid": ["gpt2"], "ministral3": ["pieces", "llama"], "llama4_text": ["gpt2"],
    "glm4_moe": ["glm4.5"], "deepseek_v2": ["gpt2"], "deepseek_v3": ["gpt2"],
}
RUNS = [family for family in FAMILIES if family not in ("xlm-roberta",)]
# The converter's file of these is not always the model; it is taken where it says what ours says.
WRONG = ("glm", "gpt_neox", "phi", "falcon", "gemma", "gemma2", "olmoe", "modernbert", "granitemoehybrid", "deepseek_v2")
# Of these the converter knows no other classes.
LANGUAGE_ONLY = ("gemma2", "olmo3", "phi3", "phi", "glm", "glm4", "starcoder2", "gpt_neox", "falcon", "gemma3_text",
                 "mixtral", "qwen3_moe", "olmoe", "qwen2_moe", "gpt_oss", "granitemoehybrid", "ministral3", "llama4_text",
                 "glm4_moe", "deepseek_v2", "deepseek_v3")
# Where llama.cpp's architectures have windows.
WINDOWS = ("gemma2", "gemma3_text", "olmo3", "phi3", "modernbert", "gpt_oss")
ACTIVATIONS = {"gpt2": "gelu_new", "bert": "gelu", "roberta": "gelu", "xlm-roberta": "gelu", "gemma": "gelu_pytorch_tanh", "gemma2": "gelu_pytorch_tanh",
               "gemma3_text": "gelu_pytorch_tanh", "phi": "gelu_new", "starcoder2": "gelu_pytorch_tanh", "gpt_neox": "gelu", "falcon": "gelu",
               "distilbert": "gelu", "modernbert": "gelu"}
ACTIVATION_KEYS = {"gpt2": "activation_function", "gemma2": "hidden_activation", "gemma3_text": "hidden_activation",
                   "modernbert": "hidden_activation", "falcon": "activation", "distilbert": "activation"}
# What the converter leaves out or takes from keys that these models do not have, docs/gguf.md: nibble writes the model's own.
OWN = {
    "glm": ("context_length", "layer_norm_rms_epsilon", "freq_base", "key_length", "value_length", "dimension_count"), "gpt_neox": ("freq_base",),
    "phi": ("freq_base", "head_count_kv", "feed_forward_length"), "modernbert": ("layer_norm_epsilon", "sliding_window_pattern"),
    "falcon": ("freq_base", "context_length", "feed_forward_length"), "gemma": ("freq_base",), "gemma2": ("freq_base",),
    "olmoe": ("layer_norm_rms_epsilon",), "granitemoehybrid": ("rope.scaling.finetuned", "freq_base"),
    "glm4_moe": (), "deepseek_v2": ("q_lora_rank", "expert_group_count", "expert_group_used_count"),
    "deepseek_v3": ("q_lora_rank", "expert_gating_func"),
}
NAMES = ["m", "model", "Llama-3.2-1B-Instruct", "tiny_7b-chat-v0.3", "my model", "gpt2-medium", "Qwen2.5-0.5B", "8x7B"]
# What a folder's name says, which is another one on the way back.
GENERAL = ("general.name", "general.basename", "general.finetune", "general.version", "general.size_label", "general.file_type")

# Keys that a file may leave out because llama.cpp's default says the same.
DEFAULTS = ("unknown_token_id", "add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "strip_accents", "key_length", "value_length")


def run(case):
    if not converter.IS_HERE:
        raise Undrawable("llama.cpp's converter was not downloaded")
    try:
        drawn = draw(case)
        if 1 in (drawn.config.get(key) for key in ("dim", "hidden_size", "n_embd")):
            raise Undrawable("a width of one, of which the converter makes vectors")
        same_file(case, drawn)
        there_and_back(case, drawn)
        blocks(case, drawn)
    except AssertionError as error:
        raise Difference(str(error)[:600]) from error


def draw(case):
    """A model with a tokenizer, in a folder whose name says something; `case.pre` is the name of its pre-tokenizer."""
    rng = case.rng
    family = rng.choice([one for one in FAMILIES if not ONLY or one in ONLY] or [None])
    if not family:
        raise Undrawable("no such family here")
    kind = rng.choice(FAMILIES[family])
    folder = rng.choice(NAMES)
    tokens = tokenizer(case, case / "tokenizer", kind)
    # Rows that no token has, as in models whose vocabulary is rounded up, or now and then too few.
    vocabulary = tokens + rng.choices([0, 1, 7, 64, -1], [40, 15, 20, 20, 5])[0]
    widths = {}
    if family in ("llama", "mistral", "qwen2", "granite", "qwen3", "mixtral") and case.chance(0.3):
        widths = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": rng.choice([1, 2, 4]), "head_dim": 64,
                  "intermediate_size": rng.choice([256, 288, 512])}
    if case.chance(0.9):
        # What llama.cpp computes.
        widths[ACTIVATION_KEYS.get(family, "hidden_act")] = ACTIVATIONS.get(family, "silu")
    if case.chance(0.85):
        widths.update(within_reach(rng, family))
    kinds = ("language",) if family in LANGUAGE_ONLY else ("language", "classes", "states", "masked")
    if family == "modernbert":
        # Of its head for masked tokens the converter keeps the half that it takes for a classifier's.
        kinds = ("classes", "states")
    drawn = draw_model(case, folder, [family], kinds, plain=case.chance(0.7), vocabulary=vocabulary, **widths)
    if family == "gpt2":
        # The converter asks for it.
        config = json.loads((drawn.folder / "config.json").read_text())
        (drawn.folder / "config.json").write_text(json.dumps({**config, "n_ctx": config.get("n_positions", 1024)}))
    for path in (case / "tokenizer").iterdir():
        shutil.copy(path, drawn.folder)
    if case.chance(0.3):
        settings = {"temperature": rng.choice([0.6, 1.0]), "top_k": 20, "top_p": 0.9, "eos_token_id": rng.choice([2, [0, 2]]), "do_sample": True}
        (drawn.folder / "generation_config.json").write_text(json.dumps(dict(rng.sample(sorted(settings.items()), rng.randint(1, 5)))))
    case.note(tokenizer=kind, folder=folder, vocabulary=[tokens, vocabulary])
    return drawn


def within_reach(rng, family):
    """Settings that llama.cpp has, of families with many that it has not."""
    if family in ("gemma2", "gemma3_text"):
        size = rng.choice([8, 16])
        settings = {"head_dim": size, "query_pre_attn_scalar": size}
        layers, period = rng.choice([1, 2, 7]), 2 if family == "gemma2" else 6
        kinds = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(layers)]
        return {**settings, "num_hidden_layers": layers, "layer_types": kinds,
                "attn_logit_softcapping": None if family == "gemma3_text" else 20.0, "final_logit_softcapping": 15.0}
    if family == "modernbert":
        return {"norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False, "classifier_activation": "gelu"}
    if family == "falcon":
        return {"alibi": False, "bias": False, "parallel_attn": True}
    if family == "phi":
        return {"qk_layernorm": False}
    if family == "qwen3_moe":
        count = rng.choice([1, 2, 3, 8])
        return {"num_experts": count, "num_local_experts": count, "num_experts_per_tok": rng.randint(1, count), "norm_topk_prob": True, "decoder_sparse_step": 1,
                "mlp_only_layers": [], "attention_bias": False}
    if family == "olmoe":
        heads = rng.choice([1, 2, 4])
        return {"norm_topk_prob": False, "attention_bias": False, "num_attention_heads": heads, "num_key_value_heads": heads, "hidden_size": heads * rng.choice([8, 16]),
                "tie_word_embeddings": False}
    if family == "qwen2_moe":
        count, heads, size = rng.choice([1, 2, 3, 8]), rng.choice([1, 2, 4]), rng.choice([8, 16])
        return {"num_experts": count, "num_experts_per_tok": rng.randint(1, count), "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
                "num_attention_heads": heads, "num_key_value_heads": rng.choice([1, heads]), "head_dim": size, "hidden_size": heads * size, "tie_word_embeddings": False}
    if family == "gpt_oss":
        layers = rng.choice([1, 2, 3])
        return {"attention_bias": True, "tie_word_embeddings": False, "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "sliding_window": rng.choice([2, 5, 9]),
                "num_hidden_layers": layers, "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]}
    if family in ("deepseek_v2", "deepseek_v3", "glm4_moe"):
        groups, size = rng.choice([(1, 5), (2, 3), (3, 4), (1, 2)])
        used = rng.randint(1, max(1, groups - 1))
        own = {"n_group": groups, "topk_group": used, "n_routed_experts": groups * size, "num_experts_per_tok": rng.randint(1, used * size),
               "num_hidden_layers": 3, "first_k_dense_replace": rng.choice([0, 1, 2])}
        if family == "glm4_moe":
            return {**own, "attention_bias": rng.random() < 0.5}
        scale = rng.choice([1.0, 0.707, 0.5])
        rope = rng.choice([{"rope_type": "default"}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": scale, "mscale_all_dim": scale}])
        # The converter takes a matrix of one row for a vector nowhere, llama.cpp everywhere.
        own |= {"v_head_dim": rng.choice([3, 8, 16]), "attention_bias": False, "rope_parameters": {**rope, "rope_theta": rng.choice([10000.0, 500.0])}, "rope_scaling": None}
        if family == "deepseek_v3":
            return {**own, "rope_interleave": True}
        return {**own, "mlp_bias": False, "norm_topk_prob": False, "topk_method": "greedy", "num_experts": groups * size}
    heads, size, layers = rng.choice([1, 2, 4]), rng.choice([8, 16]), rng.choice([1, 2, 4, 5])
    if family == "granitemoehybrid":
        # The converter reads the file itself: no default is filled in, kinds that transformers writes are Mamba's, and the MLP has the width of another key.
        width = rng.randint(5, 70)
        multipliers = {name + "_multiplier": rng.choice([0.5, 2.0]) for name in ("embedding", "attention", "residual")}
        return {**multipliers, "logits_scaling": 4.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
                "num_hidden_layers": layers, "layer_types": ["attention"] * layers, "num_local_experts": 0, "num_experts_per_tok": 0, "attention_bias": False,
                "num_attention_heads": heads, "num_key_value_heads": rng.choice([1, heads]), "head_dim": size, "hidden_size": heads * size,
                "position_embedding_type": rng.choice(["rope", "rope", "rope", "nope"]), "intermediate_size": width, "shared_intermediate_size": width,
                "mamba_n_heads": 1, "mamba_d_head": 2 * heads * size, "mamba_d_conv": 4, "mamba_d_state": 256, "mamba_n_groups": 1, "mamba_expand": 2}
    if family == "ministral3":
        scaling = {"rope_type": "yarn", "rope_theta": rng.choice([1e6, 100.0]), "factor": rng.choice([1.5, 4.0, 16.0]), "beta_fast": 32.0, "beta_slow": 1.0,
                   "original_max_position_embeddings": rng.choice([4, 8, 32]), "mscale": 1.0, "mscale_all_dim": rng.choice([1.0, 0.5]),
                   "llama_4_scaling_beta": rng.choice([0.1, 1.0])}
        return {"rope_parameters": scaling, "rope_scaling": None, "sliding_window": None, "original_max_position_embeddings": scaling["original_max_position_embeddings"]}
    if family == "llama4_text":
        count = rng.choice([1, 2, 5])
        return {"num_hidden_layers": layers, "num_local_experts": count, "num_experts_per_tok": rng.randint(1, count), "attention_chunk_size": 8192, "floor_scale": 8192,
                "interleave_moe_layer_step": rng.choice([1, 1, layers]), "attn_scale": 0.1, "attn_temperature_tuning": True, "no_rope_layers": [], "no_rope_layer_interval": 4, "layer_types": None, "use_qk_norm": True,
                "moe_layers": None, "attention_bias": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_scaling": None}
    return {"attention_bias": False} if family in ("qwen3", "smollm3", "olmo2", "olmo3") else {}


def tokenizer(case, folder, kind):
    """Writes a tokenizer and says how many tokens it has."""
    rng = case.rng
    if kind == "pieces":
        folder.mkdir()
        shutil.copy(ROOT / "Tests" / "Fixtures" / "tokenizers" / "stories512" / "tokenizer.model", folder)
        config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": rng.choice(["</s>", {"content": "</s>"}])}
        for key, value in (("add_bos_token", case.chance(0.5)), ("add_eos_token", case.chance(0.5)), ("unk_token", "<unk>"),
                           ("chat_template", "{{ messages[0].content }}"), ("add_prefix_space", case.chance(0.5))):
            if case.chance(0.4):
                config[key] = value
        added = rng.randint(0, 3)
        if added:
            config["added_tokens_decoder"] = {
                str(512 + one): {"content": rng.choice(["<|mark{}|>", "▁twice{}", "plain{}"]).format(one), "special": case.chance(0.5)} for one in range(added)}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        case.pre = None
        return 512 + added
    made, case.pre = small_tokenizer(kind)
    if case.chance(0.5):
        made.chat_template = None
    made.save_pretrained(folder)
    return len(made)


def pre(case):
    return ["--gguf-pre", case.pre] if case.pre else []


def same_file(case, drawn):
    """What `nibble convert` and the converter make of the folder."""
    types = sorted({kind for kind, _, _ in raw_bytes_of(drawn.folder).values()})
    # Which matrix of a mixed file decides is not the converter's promise.
    kind = case.rng.choice(["f32", "f32", "f16", "bf16", "q8_0", *(["auto"] if len(types) == 1 else [])])
    case.note(kind=kind, **{"stored types": types})
    peer_refusal = None
    try:
        with peer("the converter", PeerRefusal):
            converter.convert(drawn.folder, case / "theirs.gguf", kind, pre=case.pre)
    except PeerRefusal as refusal:
        peer_refusal = refusal
    try:
        case.nibble("convert", drawn.folder.name, "-o", "ours.gguf", "--gguf-type", kind, "-q", "-j", 1, *pre(case))
    except Refusal:
        if peer_refusal:
            raise Undrawable(f"both refuse: {peer_refusal}") from None
        raise
    if peer_refusal:
        raise peer_refusal
    # One tensor is a power of the base of positions.
    if drawn.kind == "classes":
        return same_classifier(case, own_keys(case, drawn, "ours.gguf", "theirs.gguf"))
    is_one_file = not list(drawn.folder.glob("*.index.json"))
    assert_same_file(case / "ours.gguf", case / "theirs.gguf", near=("rope_freqs.weight",), ordered=is_one_file,
                     ignoring=own_keys(case, drawn, "ours.gguf", "theirs.gguf"))
    if is_one_file and case.chance(0.5):
        several_files(case, drawn, kind)


def same_classifier(case, own):
    """All but class names, which ours has always, and the head, before which ours has BERT's pooler: docs/gguf.md."""
    found = []
    for file in ("ours.gguf", "theirs.gguf"):
        keys, tensors = contents(case / file)
        found.append(([key for key in keys if key[0] not in own and not key[0].endswith(("classifier.output_labels", "general.size_label"))],
                      {tensor[0]: tensor[1:] for tensor in tensors}))
    (keys, ours), (their_keys, theirs) = found
    assert keys == their_keys, [pair for pair in zip(keys, their_keys) if pair[0] != pair[1]][:1]
    odd = {name for name in (*ours, *theirs) if not name.startswith("cls.") and ours.get(name) != theirs.get(name)}
    assert not odd, f"{min(odd)} is {ours.get(min(odd), 'missing')[:2]}, not {theirs.get(min(odd), 'missing')[:2]}"


def several_files(case, drawn, kind):
    """The same in parts, and what they hold together."""
    kilobytes = case.rng.choice([4, 20, 60, 300])
    case.note(parts=f"{kilobytes} KB")
    case.nibble("convert", drawn.folder.name, "-o", "parts", "--format", "gguf", "--max-shard-size", f"{kilobytes}KB", "--gguf-type", kind, "-q", "-j", 1, *pre(case))
    parts = sorted((case / "parts").iterdir())
    if len(parts) == 1:
        return
    with peer("the converter", PeerRefusal):
        converter.convert(drawn.folder, case / "model.gguf", kind, "--split-max-size", f"{kilobytes}K", pre=case.pre)
    theirs = sorted(case.folder.glob("model-*.gguf"))
    assert [path.name for path in parts] == [path.name for path in theirs], [len(parts), len(theirs)]
    for ours, their in zip(parts, theirs):
        own = own_keys(case, drawn, ours, their)
        assert_same_file(ours, their, near=("rope_freqs.weight",), ignoring=own)
    whole, first = (case.nibble("hash", path).stdout.split()[0] for path in ("ours.gguf", f"parts/{parts[0].name}"))
    assert whole == first, "the parts are another model"


def says_the_same(case, drawn):
    ours, theirs = ({key[0]: key[1:] for key in contents(case / file)[0] if key[0] in own_keys(case, drawn, file)} for file in ("ours.gguf", "theirs.gguf"))
    return ours == theirs


def own_keys(case, drawn, *files):
    own = OWN.get(drawn.config["model_type"], ())
    return [key[0] for file in files for key in contents(case / file)[0] if key[0].endswith(own)] if own else []


def there_and_back(case, drawn):
    """The converter's file in float32, read, run and written again."""
    if drawn.kind == "classes" or drawn.config["model_type"] in WRONG and not says_the_same(case, drawn):
        case.nibble("convert", drawn.folder.name, "-o", "f32.gguf", "--gguf-type", "f32", "-q", "-j", 1, *pre(case))
    else:
        converter.convert(drawn.folder, case / "f32.gguf", "f32", pre=case.pre)
    case.nibble("verify", "f32.gguf", "-q")
    case.nibble("convert", "f32.gguf", "-o", "back", "--format", "safetensors", "-q", "-j", 1)
    case.nibble("convert", "back", "-o", "again.gguf", "--gguf-type", "f32", "-q", "-j", 1, *pre(case))
    # What the file does not say is llama.cpp's default; it is said on the way back.
    # Phi-3's converter gives the marks of a tokenizer.json another score than those of SentencePiece's file alone.
    marks = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type") if drawn.config["model_type"] == "phi3" else ()
    left = {key[0] for key in contents(case / "f32.gguf")[0]} ^ {key[0] for key in contents(case / "again.gguf")[0]}
    assert_same_file(case / "again.gguf", case / "f32.gguf", near=("rope_freqs.weight",), ordered=False, sorted_keys=True,
                     ignoring=(*GENERAL, *marks, *own_keys(case, drawn, "f32.gguf", "again.gguf"), *(key for key in left if key.endswith(DEFAULTS))))
    if drawn.config["model_type"] not in RUNS or drawn.kind != "language" and drawn.is_causal or drawn.kind not in ("language", "states"):
        return
    if drawn.config["model_type"] not in WINDOWS and any(value == "sliding_attention" for value in drawn.config.get("layer_types") or []) or (
            drawn.config["model_type"] not in WINDOWS and (drawn.config.get("sliding_window") or 99) < 12):
        # Windows are unknown to llama.cpp's architectures of these families.
        return
    activation = drawn.config.get(ACTIVATION_KEYS.get(drawn.config["model_type"], "hidden_act"))
    if activation != ACTIVATIONS.get(drawn.config["model_type"], "silu"):
        # llama.cpp takes one GELU for another.
        return
    scaling = drawn.config.get("rope_scaling") or drawn.config.get("rope_parameters") or {"truncate": False}
    if drawn.config["model_type"] == "gpt_oss" and scaling.get("rope_type", scaling.get("type")) == "yarn" and scaling.get("truncate") is not False:
        # A file does not say whether bounds are rounded; those of the published models are not.
        return
    with peer("loading", PeerRefusal):
        model = drawn.load()
    asked = {"input_ids": torch.randint(8, model.config.vocab_size, (2, 12))}
    with peer("asking", PeerRefusal):
        theirs = answers(model, **asked)
    compare(ask(case, asked, "f32.gguf"), theirs, in_double(model, asked))


@functools.cache
def quantizers():
    return ggml.Quantizers() if (ggml.SOURCES / "src" / "ggml-quants.c").exists() and shutil.which("gcc") else None


def importance(case, plain):
    """An importance of the columns of some matrices, in llama.cpp's older form of files; none of most cases."""
    if not case.chance(0.4):
        return {}
    draw = numpy.random.default_rng(case.rng.randrange(2**32))
    weights = {name: numpy.exp(draw.uniform(-9, 4, values.shape[-1])).astype(numpy.float32)
               for name, values in plain.items() if values.ndim == 2 and draw.random() < 0.8}
    if weights:
        calls, data = case.rng.choice([0, 1, 7]), struct.pack("<i", len(weights))
        for name, values in weights.items():
            data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)) + values.tobytes()
            weights[name] = values / numpy.float32(calls or 1)
        (case / "i.dat").write_bytes(data)
    return weights


def blocks(case, drawn):
    """A drawn mix with drawn rules and a drawn importance: ggml's own blocks, and what gguf-py decodes is what nibble reads."""
    rng = case.rng
    mix = rng.choice(["q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k", "mxfp4"])
    rules = []
    if case.chance(0.5):
        rules += ["--tensor", rng.choice(["attn_q", "ffn_down", "v_proj", "embed", "blk.0", "query"]) + "="
                  + rng.choice(["q8_0", "q4_0", "q5_1", "q6_k", "f16", "bf16", "iq4_nl"])]
    if case.chance(0.3):
        rules += ["--keep", rng.choice(["output", "ffn_up", "o_proj", "layers.1"])]
    plain = {tensor.name: numpy.array(tensor.data) for tensor in gguf.GGUFReader(case / "f32.gguf").tensors}
    weights = importance(case, plain)
    case.note(mix=mix, rules=rules, importance=len(weights))
    source = rng.choice([drawn.folder.name, "f32.gguf"])
    try:
        case.nibble("quantize", source, "-o", "q.gguf", "--gguf-type", mix, *rules, *(("--imatrix", "i.dat") if weights else ()), "-q", "-j", rng.choice([1, 2]), *pre(case))
    except Refusal as refusal:
        # Rules that match nothing, types that rows have no whole blocks of, and types that search for nothing are named.
        if weights and "--imatrix is for types of blocks" in str(refusal):
            return
        if rules and ("rule" in str(refusal) or "pattern" in str(refusal) or "cannot become" in str(refusal)):
            return
        raise
    decoded = {}
    for tensor in gguf.GGUFReader(case / "q.gguf").tensors:
        kind = tensor.tensor_type
        data = numpy.array(tensor.data)
        decoded[tensor.name] = values = gguf.quants.dequantize(data, kind).reshape(plain[tensor.name].shape)
        name = kind.name.lower() if kind.name.startswith(("Q4_0", "Q4_1", "Q5_", "Q8", "IQ", "MX")) else kind.name[0].lower() + kind.name[1:]
        if name in ggml.TYPES and quantizers():
            expected = quantizers().quantize(name, plain[tensor.name], weights.get(tensor.name))
            assert numpy.array_equal(data.reshape(expected.shape), expected), f"{tensor.name}: blocks of {name} are not ggml's"
    try:
        case.nibble("dequantize", "q.gguf", "-o", "plain", "--dtype", "fp32", "-q", "-j", 1)
    except Refusal as refusal:
        # Of gate and up, which are one parameter here, a rule made different types.
        if rules and "does not go with" in str(refusal):
            return
        raise
    case.nibble("convert", "plain", "-o", "plain.gguf", "--gguf-type", "f32", "-q", "-j", 1, *pre(case))
    found = {tensor.name: numpy.array(tensor.data) for tensor in gguf.GGUFReader(case / "plain.gguf").tensors}
    assert found.keys() == decoded.keys(), found.keys() ^ decoded.keys()
    for name, values in decoded.items():
        close = name == "rope_freqs.weight"
        assert numpy.allclose(found[name], values, rtol=1e-6) if close else numpy.array_equal(found[name], values), f"{name} decodes otherwise"
    # Blocks stay blocks; tensors come in the order of their names here, which a file may spell otherwise (GPT-NeoX's head).
    case.nibble("convert", "q.gguf", "-o", "q2.gguf", "-q", "-j", 1, *pre(case))
    # DeepSeek's second projection of latents is decoded where a file has blocks of it.
    kept = [[tensor for tensor in contents(case / name)[1] if not tensor[0].endswith(("attn_k_b.weight", "attn_v_b.weight"))] for name in ("q2.gguf", "q.gguf")]
    assert sorted(kept[0]) == sorted(kept[1]), "blocks change from file to file"
