"""`nibble tokenize` against the libraries that made the tokenizers: tokenizers, sentencepiece, tiktoken and transformers, over
random Unicode texts. The tokenizers are trained here, one of every form that models' files take."""
import base64
import json
import random

import pytest
import sentencepiece
import tiktoken
import transformers
from conftest import ROOT
from sentencepiece import sentencepiece_model_pb2 as pieces_format
from test_minilm import minilm  # noqa: F401, a fixture
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from unicode_texts import WORDS, texts

COUNT = 2000
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|begin|>", "<pad>"]


def corpus():
    """English, code and a little of everything."""
    lines = (ROOT / "Tests" / "Fixtures" / "stories.txt").read_text().splitlines()
    lines += (ROOT / "README.md").read_text().splitlines()
    rng = random.Random(1)
    lines += [" ".join(rng.sample(WORDS, 12)) for _ in range(60)]
    return [line for line in lines if line.strip()]


def trained(model, trainer_class, normalizer=None, pre_tokenizer=None, size=700, **settings):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    settings = {"special_tokens": SPECIAL} | settings
    tokenizer.train_from_iterator(corpus(), trainer_class(vocab_size=size, show_progress=False, **settings))
    return tokenizer


def byte_pairs(pre_tokenizer, normalizer=None, **options):
    tokenizer = trained(
        models.BPE(**options), trainers.BpeTrainer, normalizer, pre_tokenizer,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gpt2():
    tokenizer = byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def roberta():
    tokenizer = byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_special_tokens(["<s>", "</s>", AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>")), add_prefix_space=True)
    return tokenizer


def split_by(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    tokenizer = byte_pairs(split_by(LLAMA3), ignore_merges=True)
    begin = ("<|begin|>", tokenizer.token_to_id("<|begin|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[begin])])
    return tokenizer


def qwen2():
    return byte_pairs(split_by(QWEN2), normalizers.NFC())


def deepseek():
    """Several splits one after another."""
    return byte_pairs(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre_tokenizers.Split(Regex(r"[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation(),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]))


def with_bytes(**settings):
    """Every byte as a token, as SentencePiece falls back to them."""
    return {"special_tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]} | settings


def llama2():
    tokenizer = trained(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), trainers.BpeTrainer,
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), size=900, **with_bytes())
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    # The bytes are ordinary tokens there.
    return plain_bytes(tokenizer)


def mistral():
    tokenizer = trained(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), trainers.BpeTrainer,
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), size=900, **with_bytes())
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return plain_bytes(tokenizer)


def plain_bytes(tokenizer):
    """The same, with <0x00> to <0xFF> no special tokens, and a beginning put in front."""
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [one for one in written["added_tokens"] if not one["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def bert(lowercase, **options):
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = trained(
        models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer, normalizers.BertNormalizer(lowercase=lowercase, **options),
        pre_tokenizers.BertPreTokenizer(), size=900, special_tokens=marks)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")])
    return tokenizer


def unigram(normalizer, scheme="always"):
    marks = ["<pad>", "</s>", "<unk>"]
    tokenizer = trained(
        models.Unigram(), trainers.UnigramTrainer, normalizer, pre_tokenizers.Metaspace(prepend_scheme=scheme), size=800,
        special_tokens=marks, unk_token="<unk>")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def xlm_roberta():
    """SentencePiece's own table of what is written another way."""
    made = train_pieces(model_type="unigram", normalization_rule_name="nmt_nfkc")
    table = pieces_format.ModelProto.FromString(made).normalizer_spec.precompiled_charsmap
    return unigram(normalizers.Sequence([
        normalizers.Precompiled(table), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]))


def added():
    """Tokens that were added: of whole words, with spaces on either side, spelled in normal form or not."""
    tokenizer = byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase()]))
    tokenizer.add_tokens([
        AddedToken("time", single_word=True), AddedToken("upon", lstrip=True), AddedToken("there", rstrip=True),
        AddedToken("HELLO", normalized=True), AddedToken("Straße", normalized=False), AddedToken("日本", lstrip=True, rstrip=True)])
    return tokenizer


MADE = {
    "gpt2": gpt2, "roberta": roberta, "llama3": llama3, "qwen2": qwen2, "deepseek": deepseek, "llama2": llama2, "mistral": mistral,
    "bert, uncased": lambda: bert(True), "bert, cased": lambda: bert(False),
    "bert, accents kept": lambda: bert(True, strip_accents=False), "bert, Chinese in words": lambda: bert(True, handle_chinese_chars=False),
    "t5": lambda: unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])),
    "unigram, as it is": lambda: unigram(normalizers.NFD(), "first"), "xlm-roberta": xlm_roberta, "added tokens": added,
}


def tokenize(nibble, tokenizer, rows, work, *options):
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = nibble("tokenize", "--tokenizer", tokenizer, "--file", path, *options).stdout.splitlines()
    assert len(said) == len(rows)
    return [json.loads(line) for line in said]


def assert_all_same(asked, ours, theirs):
    wrong = [(a, o, t) for a, o, t in zip(asked, ours, theirs, strict=True) if o != t]
    if wrong:
        shortest = min(wrong, key=lambda one: len(str(one[0])))
        pytest.fail(f"{len(wrong)} of {len(asked)} differ; {shortest[0]!a}: nibble {shortest[1]!a}, expected {shortest[2]!a}",
                    pytrace=False)


def assert_like_library(nibble, path, library, work, special, seed=1):
    asked = texts(COUNT, seed, special)
    said = tokenize(nibble, path, [{"text": text} for text in asked], work)
    bare = [library.encode(text, add_special_tokens=False).ids for text in asked]
    whole = [library.encode(text).ids for text in asked]
    if isinstance(library.model, models.Unigram):
        # Of cuts that are equally likely ("." ".." and ".." ".") one wins by the last bit of a sum, and the library reads
        # scores from JSON to within their last bit only.
        for place, (one, ids) in enumerate(zip(said, bare)):
            if sorted(one["ids"]) == sorted(ids) and library.decode(one["ids"]) == library.decode(ids):
                bare[place], whole[place] = one["ids"], one["ids_with_special"]
    assert_all_same(asked, [one["ids"] for one in said], bare)
    assert_all_same(asked, [one["ids_with_special"] for one in said], whole)
    assert_all_same(asked, [one["decoded"] for one in said], [library.decode(ids, skip_special_tokens=False) for ids in bare])
    # Texts that belong together, and ids that no text gave.
    pairs = list(zip(asked[100:300], asked[300:500]))
    said = tokenize(nibble, path, [{"text": one, "pair": two} for one, two in pairs], work)
    both = [library.encode(*pair) for pair in pairs]
    if not isinstance(library.model, models.Unigram):
        assert_all_same(pairs, [one["ids_with_special"] for one in said], [one.ids for one in both])
    assert_all_same(pairs, [one["type_ids"] for one in said], [one.type_ids for one in both])
    rng = random.Random(seed)
    known = sorted(library.get_vocab().values())
    ids = [rng.choices(known, k=rng.randint(1, 12)) for _ in range(500)]
    said = tokenize(nibble, path, [{"ids": row} for row in ids], work, "--decode")
    assert_all_same(ids, [one["text"] for one in said], [library.decode(row, skip_special_tokens=False) for row in ids])
    said = tokenize(nibble, path, [{"ids": row} for row in ids], work, "--decode", "--no-special")
    assert_all_same(ids, [one["text"] for one in said], [library.decode(row, skip_special_tokens=True) for row in ids])


@pytest.mark.parametrize("kind", MADE)
def test_tokenizer_json(nibble, work, kind):
    library = MADE[kind]()
    library.save(str(work / "tokenizer.json"))
    # As it will be read back.
    library = Tokenizer.from_file(str(work / "tokenizer.json"))
    special = [token.content for token in library.get_added_tokens_decoder().values()]
    assert_like_library(nibble, work / "tokenizer.json", library, work, special)


def test_a_real_tokenizer(nibble, work, minilm):  # noqa: F811
    """MiniLM's, of 30522 tokens, from tokenizer.json and from vocab.txt."""
    library = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    assert_like_library(nibble, minilm / "tokenizer.json", library, work, ["[MASK]", "[SEP]"])
    # vocab.txt has no table of its own for special tokens in texts: BERT's are known.
    assert_like_library(nibble, minilm / "vocab.txt", library, work, ["[MASK]", "[SEP]"], seed=2)


def test_vocab_and_merges(nibble, work):
    """GPT-2's two files, as transformers reads them."""
    made = gpt2()
    written = json.loads(made.to_str())["model"]
    (work / "vocab.json").write_text(json.dumps(written["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in written["merges"]]
    (work / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (work / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    library = transformers.AutoTokenizer.from_pretrained(work)
    asked = texts(COUNT, 3, ["<|endoftext|>"])
    said = tokenize(nibble, work, [{"text": text} for text in asked], work)
    assert_all_same(asked, [one["ids"] for one in said], [library.encode(text, add_special_tokens=False) for text in asked])


def test_tiktoken_ranks(nibble, work):
    """Llama 3's own form: tokens in base 64 with their ranks, and their regular expression."""
    made = llama3()
    alphabet = {character: byte for byte, character in transformers_bytes().items()}
    vocabulary = made.get_vocab()
    # Single bytes first, then in the order they were merged.
    tokens = sorted((name for name in vocabulary if name not in SPECIAL), key=lambda name: (len(name) > 1, vocabulary[name]))
    ranks = {bytes(alphabet[c] for c in name): rank for rank, name in enumerate(tokens)}
    (work / "tokenizer.model").write_text("".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items()))
    library = tiktoken.Encoding("made", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    asked = texts(COUNT, 4)
    said = tokenize(nibble, work / "tokenizer.model", [{"text": text} for text in asked], work)
    ids = [library.encode(text) for text in asked]
    assert_all_same(asked, [one["ids"] for one in said], ids)
    assert_all_same(asked, [one["decoded"] for one in said], asked)


def transformers_bytes():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()


# SentencePiece.

PIECES = {
    "bpe": {"model_type": "bpe"},
    "bpe with bytes": {"model_type": "bpe", "byte_fallback": True, "split_digits": True, "vocab_size": 900},
    "llama": {
        "model_type": "bpe", "byte_fallback": True, "split_digits": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "vocab_size": 900},
    "unigram": {"model_type": "unigram"},
    "unigram, folded": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
    "unigram, nfkc": {"model_type": "unigram", "normalization_rule_name": "nfkc", "add_dummy_prefix": False},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 900},
    "space behind": {"model_type": "unigram", "treat_whitespace_as_suffix": True},
    "space behind, bpe": {"model_type": "bpe", "treat_whitespace_as_suffix": True, "remove_extra_whitespaces": False},
    "symbols": {"model_type": "bpe", "user_defined_symbols": ["<sep>", "time", "▁▁", "a b"], "control_symbols": ["<cls>"]},
    "symbols, unigram": {"model_type": "unigram", "user_defined_symbols": ["<sep>", "time", "日本"], "control_symbols": ["<cls>"]},
    "characters": {"model_type": "char", "vocab_size": 300},
}


def train_pieces(**settings):
    """A SentencePiece model's bytes."""
    import io

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(**{
        "sentence_iterator": iter(corpus()), "model_writer": made, "vocab_size": 600, "hard_vocab_limit": False,
        "minloglevel": 2, "character_coverage": 0.999, "num_threads": 1} | settings)
    return made.getvalue()


@pytest.mark.parametrize("kind", PIECES)
def test_sentencepiece(nibble, work, kind):
    path = work / "tokenizer.model"
    path.write_bytes(train_pieces(**PIECES[kind]))
    assert_like_pieces(nibble, path, work)


def test_the_bundled_models_tokenizer(nibble, work, stories):
    assert_like_pieces(nibble, stories / "tokenizer.model", work)


def as_likely(library, one, other):
    return sorted(one) == sorted(other) and library.decode(one) == library.decode(other)


def assert_like_pieces(nibble, path, work):
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    # The library takes a text to end at its first zero byte in places; leave it out.
    asked = [text.replace("\0", "") for text in texts(COUNT, 5, ["<sep>", "<cls>", "<unk>"])]
    said = tokenize(nibble, path, [{"text": text} for text in asked], work)
    bare = [library.encode(text) for text in asked]
    # Of cuts that are equally likely ("00" "0" and "0" "00") versions of the library take one or the other.
    for place, (one, ids) in enumerate(zip(said, bare)):
        if one["ids"] != ids and as_likely(library, one["ids"], ids):
            bare[place] = one["ids"]
    assert_all_same(asked, [one["ids"] for one in said], bare)
    assert_all_same(asked, [one["decoded"] for one in said], [library.decode(ids) for ids in bare])
    rng = random.Random(5)
    ids = [rng.choices(range(library.vocab_size()), k=rng.randint(1, 12)) for _ in range(500)]
    said = tokenize(nibble, path, [{"ids": row} for row in ids], work, "--decode")
    assert_all_same(ids, [one["text"] for one in said], [library.decode(row) for row in ids])
