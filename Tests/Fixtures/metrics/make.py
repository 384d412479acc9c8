"""What public scorers make of some texts: texts.json and paraphrases.txt beside this file, and a small part of WordNet 3.0.

    python make.py E2E_METRICS     a clone of tuetschek/e2e-metrics (1b9c4d87), whose metrics/pymteval.py scores BLEU and NIST

Needs pycocoevalcap 1.2 (ROUGE-L, CIDEr, Stanford's PTB tokenizer, METEOR 1.5), future, a Java, and Debian's wordnet-base.
The texts are made up for this project.
"""
import gzip
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import pycocoevalcap.meteor.meteor
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

sys.path.insert(0, sys.argv[1] + "/metrics")
import pymteval

HERE = pathlib.Path(__file__).parent
METEOR = pathlib.Path(pycocoevalcap.meteor.meteor.__file__).parent / "meteor-1.5.jar"
WORDNET = pathlib.Path("/usr/share/wordnet")

TEXTS = [
    ("The Old Mill is a family-friendly pub in the centre.",
     ["The Old Mill is a family-friendly pub in the centre.", "In the centre you'll find the Old Mill, a pub for families."]),
    ("Kids are welcome at the big café by the river, it's cheap.",
     ["Children are welcome in the large café near the river. It is inexpensive.", "The café isn't dear; kids can go there."]),
    ("You can purchase Italian food there for less than £20.",
     ["You can buy Italian food for less than £20 there!", "Italian dishes cost 10-20 pounds (at most).", "It sells Italian food."]),
    ("Rated 3 out of 5, \"Green Man\" doesn't serve children's meals.",
     ["The 'Green Man' does not serve meals for children and is rated 3/5."]),
    ("It runs well. It is running well...", ["They ran it well, and it runs.", "It is run well."]),
    ("pub", ["A pub.", "The pub is a pub in the pub."]),
    ("", ["There is nothing to say.", "Nothing."]),
    ("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
    ("Wildwood has 1,000 seats, 2.5 stars & costs $30 at 7 p.m. on Mon.",
     ["Wildwood: 1,000 seats, rated 2.5 stars, $ 30 (from 7 p.m.)", "A thousand seats and two and a half stars -- that's Wildwood."]),
    ("A quick fox jumped over dogs that were lazy, and the dogs slept.",
     ["Lazy dogs were jumped over by the quick fox and the dogs slept.", "The fast fox leaps over a lazy dog; the dog sleeps."]),
    ("Next to the hotel, a five-star restaurant with cuisine from Japan is located.",
     ["A Japanese five star restaurant is located next to the hotel.", "There is a restaurant of 5 stars close to the hotel serving Japanese food."]),
    ("The U.S. diner can't be beaten?! Its “fries” are the best – really.",
     ["Nothing beats the US diner: its fries are best.", "The American diner's fries are the best, really!", "Try the diner’s fries."]),
    ("This pub can not be beaten and it is close to the river.", ["This pub is the best and it is next to the river."]),
]
PARAPHRASES = [("next to", "close to"), ("unheard of", "close to"), ("close to", "near"), ("at most", "less than"), ("can not be beaten", "is the best"),
               ("is located", "there is"), ("five star", "5 stars"), ("a half", "half a"), ("welcome", "can go there"), ("cuisine", "food")]


def meteor(modules, hyps, refs, *more):
    command = ["java", "-Dfile.encoding=UTF-8", "-jar", str(METEOR), "-", "-", "-stdio", "-l", "en", "-norm", "-m", modules, *more]
    run = lambda lines: subprocess.run(command, input="\n".join(lines).encode() + b"\n", capture_output=True, check=True).stdout.decode()
    stats = run(["SCORE ||| " + " ||| ".join(r + [h]) for h, r in zip(hyps, refs)]).strip().split("\n")
    scores = [float(x) for x in run(["EVAL ||| " + " ||| ".join(stats)]).split()]
    return {"value": scores[-1], "items": scores[:-1]}


def pair(scorer, hyps, refs):
    value, items = scorer.compute_score(dict(enumerate(refs)), {i: [h] for i, h in enumerate(hyps)})
    return {"value": float(value), "items": [float(x) for x in items]}


def mteval(make, hyps, refs):
    whole, items = make(), []
    for hyp, ref in zip(hyps, refs):
        whole.append(hyp, ref)
        one = make()
        one.append(hyp, ref)
        items.append(one.score())
    return {"value": whole.score(), "items": items}


hyps, refs = [h for h, _ in TEXTS], [r for _, r in TEXTS]
words = PTBTokenizer().tokenize({i: [{"caption": t} for t in [h, *r]] for i, (h, r) in enumerate(TEXTS)})
captions = [words[i] for i in range(len(TEXTS))]
caption_hyps, caption_refs = [c[0] for c in captions], [c[1:] for c in captions]

with tempfile.NamedTemporaryFile(suffix=".gz") as packed:
    table = "".join(f"0.5\n{a}\n{b}\n" for a, b in PARAPHRASES)
    packed.write(gzip.compress(table.encode()))
    packed.flush()
    expected = {
        "bleu": mteval(pymteval.BLEUScore, hyps, refs),
        # Of texts shorter than four words alone, the original divides by 1e-9.
        "bleu_smooth": mteval(lambda: pymteval.BLEUScore(smoothing=1.0), hyps, refs),
        # The original divides by zero where a text is shorter than five words.
        "nist": {"value": mteval(pymteval.NISTScore, hyps[:5] + hyps[7:], refs[:5] + refs[7:])["value"]},
        "rouge_l": pair(Rouge(), caption_hyps, caption_refs),
        "cider": pair(Cider(), caption_hyps, caption_refs),
        "meteor_exact_stem": meteor("exact stem", hyps, refs),
        "meteor_exact_stem_synonym": meteor("exact stem synonym", hyps, refs),
        "meteor": meteor("exact stem synonym paraphrase", hyps, refs, "-a", packed.name),
        "meteor_captions": meteor("exact stem synonym", caption_hyps, caption_refs),
    }
(HERE / "paraphrases.txt").write_text(table)
(HERE / "texts.json").write_text(json.dumps(
    {"texts": [{"prediction": h, "references": r, "captions": c} for (h, r), c in zip(TEXTS, captions)], "expected": expected},
    ensure_ascii=False, indent=1) + "\n")

# The lines of WordNet's files that these texts need, after its licence.
vocabulary = set(re.findall(r"[a-zé]+", " ".join(hyps + sum(refs, [])).lower()))
for word in list(vocabulary):
    vocabulary |= {word[:-1], word[:-2], word[:-3], word[:-1] + "e", word[:-2] + "e", word[:-3] + "e", word[:-3] + "y"}
(HERE / "wordnet").mkdir(exist_ok=True)
for part in ("noun", "verb", "adj", "adv"):
    wanted, kept = vocabulary | {"placed"}, []
    for line in (WORDNET / f"{part}.exc").read_text().splitlines(keepends=True):
        if line.split()[0] in wanted:
            kept.append(line)
            wanted |= set(line.split()[1:])
    (HERE / "wordnet" / f"{part}.exc").write_text("".join(kept))
    index = (WORDNET / f"index.{part}").read_text().splitlines(keepends=True)
    (HERE / "wordnet" / f"index.{part}").write_text("".join(l for l in index if l.startswith("  ") or l.split()[0] in wanted))
