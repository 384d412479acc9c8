"""What caches keep of latent attention: texts whose prompts are read in one part and in several, long and short, texts of a batch, and adapters
that change how latents are expanded, against transformers and PEFT. The layers have no experts: near ties of routers are no matter of caches."""
import pytest
import transformers
from running import as_float32
from test_adapters_running import by_peft, save_adapter
from test_generate import MODELS, continued, generate, in_rows, prompt_of, save_model, text_of

CLASSES = {"deepseek_v2": transformers.DeepseekV2ForCausalLM, "deepseek_v3": transformers.DeepseekV3ForCausalLM}
SCALING = {"type": "yarn", "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 16}


def save(folder, family, monkeypatch, **changes):
    own = {"first_k_dense_replace": 2, "num_hidden_layers": 2, "rope_scaling": SCALING, "max_position_embeddings": 1024}
    monkeypatch.setitem(MODELS, family, (CLASSES[family], family, own))
    return save_model(folder, family, **changes)


# A prompt is read in parts of 512 tokens: the last one alone, few that look at latents, many for which all are expanded.
@pytest.mark.parametrize("length", [1, 40, 513, 530, 700])
@pytest.mark.parametrize("family", CLASSES)
def test_texts_of_every_length(nibble, work, monkeypatch, family, length):
    model = save(work / "m", family, monkeypatch)
    prompt = prompt_of(length)
    for threads in (1, 3):
        assert generate(nibble, work / "m", prompt, "--threads", threads)["ids"] == continued(model, prompt)[0]


# Parts of rows end with blocks, and with blocks of scales; or they do not, and keys and values are kept.
@pytest.mark.parametrize("rank", [32, 1024])
def test_packed_projections(nibble, work, monkeypatch, rank):
    save(work / "m", "deepseek_v3", monkeypatch, kv_lora_rank=rank, v_head_dim=16)
    nibble("quantize", work / "m", "-o", work / "m.nbl")
    nibble("dequantize", work / "m.nbl", "-o", work / "twin", "--dtype", "fp32")
    prompt = prompt_of(30)
    expected, _ = continued(as_float32(CLASSES["deepseek_v3"], work / "twin"), prompt)
    assert generate(nibble, work / "m.nbl", prompt)["ids"] == expected


@pytest.mark.parametrize("targets", [["kv_b_proj"], ["q_b_proj", "kv_a_proj_with_mqa", "o_proj"]])
def test_adapters(nibble, work, monkeypatch, targets):
    save(work / "m", "deepseek_v3", monkeypatch)
    adapter = save_adapter(CLASSES["deepseek_v3"], work / "m", work / "a", target_modules=targets)
    model = by_peft(CLASSES["deepseek_v3"], work / "m", adapter)
    prompt = prompt_of(20)
    with_it = generate(nibble, work / "m", prompt, "--adapter", adapter)["ids"]
    assert with_it == continued(model, prompt)[0]
    assert with_it != generate(nibble, work / "m", prompt)["ids"]


def test_beams_share_what_they_have(nibble, work, monkeypatch):
    model = save(work / "m", "deepseek_v2", monkeypatch)
    prompt = prompt_of(25)
    said = generate(nibble, work / "m", prompt, "--num-beams", 3)
    assert said["ids"] == continued(model, prompt, num_beams=3)[0]


def test_texts_of_a_batch(nibble, work, monkeypatch):
    model = save(work / "m", "deepseek_v3", monkeypatch)
    prompts = [prompt_of(length, seed=length) for length in (3, 31, 17)]
    said = in_rows(nibble, work / "m", [{"prompt": text_of(prompt)} for prompt in prompts], work, new=24)
    assert [one["ids"] for one in said] == [continued(model, prompt)[0] for prompt in prompts]
