"""Random texts that tokenizers get wrong: every script, marks without a letter, joined emoji, odd spaces, controls."""
import random
import sys
import unicodedata

WORDS = (
    "the and Once upon a time there was don't I'll we've HELLO iPhone naïve café Straße ﬁnance ½ x² 2024 1,000.50 3.14159 "
    "foo_bar snake-case a.b@c.de https://example.org/?q=1&r=2 C++ #tag $5.00 100% (see) [1] {x} <b> ... -- — – “quoted” ‘s ’tis "
    "Ελληνικά русский язык עִבְרִית العربية हिन्दी ไทย 日本語 漢字かな カタカナ 한국어 ไม่ Việt tiếng Türkçe İstanbul ıI ǅ ß ẞ ſ K Å").split()
PIECES = [
    "\u0301", "e\u0301", "\u0300\u0301", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u200d", "\u200b", "\ufeff", "\u00ad", "\u2028", "\u2029",
    "\u0085", "\u00a0", "\u3000", "\u2003", "\u202f", "\u180e", "\t", "\n", "\r\n", "\r", "\n\n", "  ", "   ", " ", "\x0b", "\x0c",
    "\x00", "\x01", "\x7f", "\x1b[0m", "\ufffd", "\ue000", "\U0010fffd", "\ud7a3", "각", "\u1112\u1161\u11ab", "ｶﾞ", "Ａ１",
    "①", "㎏", "ﷺ", "Ǆ", "ŉ", "ΐ", "ﬀ", "▁", "Ġ", "##", "Ċ", "'", "’", "_", "0", "٣", "৭", "Ⅷ", "<s>", "</s>", "[CLS]", "<|endoftext|>", "<0x0A>",
]
ASSIGNED = [
    code for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) not in ("Cn", "Cs") and not 0xF0000 <= code <= 0x10FFFF and not 0xE000 <= code < 0xF900]


def texts(count, seed, special=()):
    """`count` texts without surrogates; `special` spellings turn up in some."""
    rng = random.Random(seed)
    pieces = PIECES + list(special) * 3
    made = ["", " ", "\n", "a", " a", "a ", "  a  b  "]

    def piece():
        kind = rng.random()
        if kind < 0.45:
            return rng.choice(WORDS)
        if kind < 0.65:
            return rng.choice(pieces)
        if kind < 0.8:
            return chr(rng.choice(ASSIGNED))
        if kind < 0.9:
            # A run from one block.
            start = rng.choice(ASSIGNED)
            return "".join(chr(c) for c in range(start, start + rng.randint(1, 5)) if c in ASSIGNED_SET)
        return "".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 8)))

    while len(made) < count:
        made.append("".join(piece() + rng.choice(["", " ", " ", " "]) for _ in range(rng.randint(1, 12))))
    return made


ASSIGNED_SET = frozenset(ASSIGNED)
