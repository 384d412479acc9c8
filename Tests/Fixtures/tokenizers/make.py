"""Makes `components.jsonl` and the folders under `small`: tokenizers of every kind of part, with what Hugging Face's
library and sentencepiece make of texts chosen to be awkward.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3
    venv/bin/python make.py
"""
import json
import pathlib

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as D, models as M, normalizers as N, pre_tokenizers as P, processors as R, trainers as T

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", "Hello, world!", "  two  spaces  ", "tab\tand\nline\r\n\n", "don't WE'LL 'S n't", "x1234567 3.14 1,000",
    "Ünïcödé é ﬁ Ⅷ ½ ² İ ß ΑΣ", "中文字 日本語かな 한국어 가", "👩‍👩‍👧 🇩🇪 1️⃣", "a\u00a0b\u3000c\u2003d\u180ee\u0085f\u2028g",
    "▁▁mark▁", "aaaa aab baa xx  xxx", "\x00\x01\u200b\u200d\ufeff\ufffd", "café Å é ệ ा្", "don fi ab aa  DON'T",
    "<s>hi</s> <mask> [CLS] <|endoftext|>x", "if (a[i] == '%') { return \"q\"; }  # …", "٣ ४ Ωmega ǅ ſ", "𝒳 𐍈 \U000105c0 \U0002ebf0",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"


def bytes_tokenizer():
    """Its tokens are bytes and the mark at a word's end, so that ids show what normalizer and pre-tokenizer do."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    return Tokenizer(M.BPE(vocab=vocabulary, merges=[], byte_fallback=True, end_of_word_suffix="|"))


def with_added(tokenizer):
    tokenizer.add_special_tokens([
        "<s>", "</s>", AddedToken("<mask>", lstrip=True, special=True), AddedToken("<|endoftext|>", single_word=True),
        AddedToken("[CLS]", normalized=True, special=True)])
    tokenizer.add_tokens([
        "don", AddedToken("DON'T"), AddedToken("aa", single_word=True, normalized=False),
        AddedToken("ab", lstrip=True, rstrip=True), AddedToken("  "), AddedToken("é"), "fi"])
    return tokenizer


def components():
    normalizers = {
        "NFC": N.NFC(), "NFD": N.NFD(), "NFKC": N.NFKC(), "NFKD": N.NFKD(), "Lowercase": N.Lowercase(), "Strip": N.Strip(),
        "Strip left": N.Strip(left=True, right=False), "StripAccents": N.Sequence([N.NFD(), N.StripAccents()]),
        "Replace a text": N.Replace("aa", "b"), "Replace a pattern": N.Replace(Regex(r"\s+"), " "),
        "Replace with a reference": N.Replace(Regex(r"(\w)\1"), "-"), "Prepend": N.Prepend("▁"), "ByteLevel": N.ByteLevel(),
        "BERT": N.BertNormalizer(), "BERT cased": N.BertNormalizer(lowercase=False),
        "BERT keeping accents": N.BertNormalizer(strip_accents=False, clean_text=False), "nothing": N.Sequence([]),
    }
    for name, part in normalizers.items():
        tokenizer = bytes_tokenizer()
        tokenizer.normalizer = part
        yield f"normalizer {name}", tokenizer
    pre_tokenizers = {
        "ByteLevel": P.ByteLevel(add_prefix_space=True), "ByteLevel whole": P.ByteLevel(add_prefix_space=False, use_regex=False),
        "Whitespace": P.Whitespace(), "WhitespaceSplit": P.WhitespaceSplit(), "BERT": P.BertPreTokenizer(),
        "Digits": P.Digits(False), "Digits alone": P.Digits(True), "CharDelimiterSplit": P.CharDelimiterSplit("a"),
        "Sequence": P.Sequence([P.WhitespaceSplit(), P.Punctuation(), P.Digits(True)]),
        "Split then ByteLevel": P.Sequence([P.Split(Regex(r"\p{N}{1,3}"), "isolated"), P.ByteLevel(add_prefix_space=False)]),
    }
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        pre_tokenizers[f"Punctuation {behavior}"] = P.Punctuation(behavior)
        pre_tokenizers[f"Split {behavior}"] = P.Split(Regex(r"\s+|\d"), behavior)
        pre_tokenizers[f"Split inverted {behavior}"] = P.Split(" ", behavior, True)
        pre_tokenizers[f"Split at nothing {behavior}"] = P.Split(Regex("x*"), behavior)
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            pre_tokenizers[f"Metaspace {scheme}{' split' * split}"] = P.Metaspace(prepend_scheme=scheme, split=split)
    patterns = [
        LLAMA3, CASED, r"\w+|[^\w\s]+", r"\W+", r"\b", r"\d{2}+", "a++|b?+", "(?m).", "^.|.$", r"[\u0300-\u036F]+", r"\h+", r"\S+",
        r"\p{Han}+|\p{Greek}", r"\p{Letter}|\p{^L}\p{Sm}", "(?<=a)b|(?<!a)c", "[[:alpha:]]+|[[:punct:]]", "[一-龥぀-ゟ゠-ヿ]+",
    ]
    for pattern in patterns:
        pre_tokenizers[f"Split at {pattern}"] = P.Split(Regex(pattern), "isolated")
    for name, part in pre_tokenizers.items():
        tokenizer = bytes_tokenizer()
        tokenizer.pre_tokenizer = part
        yield f"pre-tokenizer {name}", tokenizer
    yield "added tokens", with_added(bytes_tokenizer())
    tokenizer = bytes_tokenizer()
    tokenizer.normalizer = N.BertNormalizer()
    yield "added tokens, normalized", with_added(tokenizer)
    tokenizer = bytes_tokenizer()
    tokenizer.normalizer = N.NFKC()
    tokenizer.pre_tokenizer = P.Metaspace(prepend_scheme="first")
    yield "added tokens and a first space", with_added(tokenizer)
    tokenizer = bytes_tokenizer()
    tokenizer.normalizer = N.Strip()
    tokenizer.pre_tokenizer = P.Metaspace(prepend_scheme="first")
    yield "a first space that was stripped", tokenizer


def trained(model, trainer, pre_tokenizer, decoder=None, normalizer=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    if decoder:
        tokenizer.decoder = decoder
    corpus = [json.loads(line)["text"] for line in (HERE / "gpt2" / "cases.jsonl").open()] + TEXTS
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def llama2_like():
    """stories512 as transformers converts a SentencePiece model."""
    model = sentencepiece.SentencePieceProcessor(str(HERE / "stories512" / "tokenizer.model"))
    pieces = {model.id_to_piece(id): id for id in range(model.get_piece_size())}
    plain = {piece for piece, id in pieces.items() if not (model.is_control(id) or model.is_byte(id) or model.is_unknown(id))}
    merges = [
        (-model.get_score(pieces[piece]), pieces[piece[:cut]], pieces[piece[cut:]], piece[:cut], piece[cut:])
        for piece in plain for cut in range(1, len(piece)) if piece[:cut] in plain and piece[cut:] in plain]
    merges = [(left, right) for *_, left, right in sorted(merges)]
    tokenizer = Tokenizer(M.BPE(vocab=pieces, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    tokenizer.decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = R.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


def small():
    quiet = {"show_progress": False, "vocab_size": 700}
    marks = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    llama3 = trained(
        M.BPE(), T.BpeTrainer(**quiet, special_tokens=marks, initial_alphabet=P.ByteLevel.alphabet()),
        P.Sequence([P.Split(Regex(LLAMA3), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)]), D.ByteLevel())
    llama3.post_processor = R.Sequence([
        R.ByteLevel(trim_offsets=False),
        R.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B:1",
            special_tokens=[("<|begin_of_text|>", 0)])])
    # Tokens that no merge leads to any more, but which words that are tokens become.
    content = json.loads(llama3.to_str())
    content["model"]["ignore_merges"] = True
    content["model"]["merges"] = content["model"]["merges"][:200]
    yield "llama3-like", Tokenizer.from_str(json.dumps(content))
    yield "llama2-like", llama2_like()
    yield "suffix", trained(
        M.BPE(unk_token="<unk>", fuse_unk=False),
        T.BpeTrainer(**quiet, special_tokens=["<unk>"], limit_alphabet=60, end_of_word_suffix="</w>"), P.Whitespace(), D.BPEDecoder())
    yield "prefix", trained(
        M.BPE(unk_token="<unk>", fuse_unk=True),
        T.BpeTrainer(**quiet, special_tokens=["<unk>"], limit_alphabet=60, continuing_subword_prefix="##"), P.WhitespaceSplit(),
        D.WordPiece(cleanup=False))
    yield "metaspace", trained(M.BPE(), T.BpeTrainer(**quiet), P.Metaspace(prepend_scheme="first"), D.Metaspace(prepend_scheme="first"))
    yield "wordlevel", trained(
        M.WordLevel(unk_token="<unk>"), T.WordLevelTrainer(show_progress=False, special_tokens=["<unk>"]), P.Whitespace())
    unigram = trained(
        M.Unigram(), T.UnigramTrainer(**quiet, special_tokens=["<unk>", "</s>"], unk_token="<unk>"), P.Metaspace(), D.Metaspace(),
        N.NFKC())
    unigram.post_processor = R.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    yield "unigram", unigram


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


rows = []
for name, tokenizer in components():
    content = json.loads(tokenizer.to_str())
    del content["model"]
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    rows.append({"name": name, "tokenizer": content, "cases": cases})
write_lines(HERE / "components.jsonl", rows)
for name, tokenizer in small():
    folder = HERE / "small" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
    # What is expected is what the file makes, not the tokenizer it was written from.
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({
            "text": text, "ids": ids, "ids_with_special": tokenizer.encode(text).ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    write_lines(folder / "cases.jsonl", cases)
    pair = tokenizer.encode(TEXTS[2], TEXTS[5])
    write_lines(folder / "pair_cases.jsonl", [{"a": TEXTS[2], "b": TEXTS[5], "ids": pair.ids, "type_ids": pair.type_ids}])
