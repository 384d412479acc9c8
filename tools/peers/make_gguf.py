"""Writes a Llama checkpoint of bfloat16 as a GGUF file for llama.cpp, without a tokenizer: MODEL OUT.gguf."""
import json
import math
import pathlib
import sys

import gguf
import numpy

NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def tensors(folder):
    """Name and values, as bfloat16's 16 bits, in place."""
    for path in sorted(folder.glob("*.safetensors")):
        data = numpy.memmap(path, mode="r")
        length = int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8 : 8 + length]))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, data[start:end].view("<u2").reshape(entry["shape"])


def new_name(name):
    if name in WHOLE:
        return WHOLE[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def rotary_factors(config):
    """What llama.cpp divides frequencies by, for Llama 3's positions."""
    scaling, size = config["rope_scaling"], config["head_dim"]
    trained, low, high = (scaling[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    for pair in range(0, size, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (pair / size)
        smooth = min(max((trained / wavelength - low) / (high - low), 0), 1)
        yield 1 / ((1 - smooth) / scaling["factor"] + smooth)


def main():
    folder, out = map(pathlib.Path, sys.argv[1:])
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("random weights")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tensor("rope_freqs.weight", numpy.array(list(rotary_factors(config)), numpy.float32))
    for name, values in tensors(folder):
        if values.ndim == 1:
            writer.add_tensor(new_name(name), (values.astype("<u4") << 16).view("<f4"))
        else:
            writer.add_tensor(new_name(name), values.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
