// Prints mixes.json: which type llama.cpp gives each tensor of some models, for every mix that nibble knows.
//
//   g++ -I$LLAMA/include -I$LLAMA/ggml/include -I$LLAMA/src mixes.cpp -lllama -lggml -lggml-base && ./a.out > mixes.json

#include <cstdio>
#include <string>
#include <vector>

#include "ggml.h"
#include "llama-ext.h"

struct Model {
  const char *name, *architecture;
  uint32_t width, inner, layers, heads, key_heads, experts, vocabulary;
  bool tied, fused;
};

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;  // as ggml has it, columns first
};

static const Model models[] = {
    {"llama 8B", "llama", 4096, 14336, 32, 32, 8, 0, 128256, false, false},
    {"SmolLM2 135M", "llama", 576, 1536, 30, 9, 3, 0, 49152, true, false},
    {"llama 70B", "llama", 8192, 28672, 80, 64, 8, 0, 32000, false, false},
    {"qwen2 0.5B", "qwen2", 896, 4864, 24, 14, 2, 0, 151936, true, false},
    {"mixtral", "llama", 4096, 14336, 32, 32, 8, 8, 32000, false, false},
    {"four experts", "llama", 1024, 2816, 9, 16, 4, 4, 32000, false, false},
    {"gpt2", "gpt2", 768, 3072, 12, 12, 12, 0, 50257, true, true},
    {"bert", "bert", 312, 1200, 4, 12, 12, 0, 21128, true, false},
    {"falcon", "falcon", 512, 2048, 32, 8, 1, 0, 1000, true, true},
    {"odd", "llama", 1000, 2700, 5, 10, 10, 0, 300, false, false},
};

static const struct {
  const char *name;
  int number;
} mixes[] = {{"f32", 0}, {"f16", 1}, {"bf16", 32}, {"q8_0", 7}, {"q6_k", 18}, {"q5_k_m", 17}, {"q5_k_s", 16}, {"q5_1", 9}, {"q5_0", 8},
             {"q4_k_m", 15}, {"q4_k_s", 14}, {"q4_1", 3}, {"q4_0", 2}, {"iq4_nl", 25}, {"iq4_xs", 30}, {"mxfp4_moe", 38}, {"q3_k_l", 13},
             {"q3_k_m", 12}, {"q3_k_s", 11}, {"q2_k", 10}};

static std::vector<Tensor> outside(const Model &m) {
  std::vector<Tensor> all;
  const std::string kind = m.architecture;
  if (!m.tied) all.push_back({"output.weight", {m.width, m.vocabulary}});
  if (kind == "gpt2" || kind == "bert") all.push_back({"position_embd.weight", {m.width, 512}});
  all.push_back({"token_embd.weight", {m.width, m.vocabulary}});
  if (kind == "bert") all.push_back({"token_types.weight", {m.width, 2}});
  return all;
}

static std::vector<Tensor> layer(const Model &m) {
  std::vector<Tensor> all = {{"attn_norm.weight", {m.width}}, {"attn_output.weight", {m.width, m.width}}};
  const int64_t keys = m.width / m.heads * m.key_heads;
  if (m.fused) all.push_back({"attn_qkv.weight", {m.width, 3 * m.width}});
  else for (auto [name, rows] : {std::pair("attn_k.weight", keys), {"attn_q.weight", (int64_t)m.width}, {"attn_v.weight", keys}})
      all.push_back({name, {m.width, rows}});
  const int64_t experts = m.experts;
  if (experts) {
    all.push_back({"ffn_down_exps.weight", {m.inner, m.width, experts}});
    all.push_back({"ffn_gate_exps.weight", {m.width, m.inner, experts}});
    all.push_back({"ffn_gate_inp.weight", {m.width, experts}});
    all.push_back({"ffn_up_exps.weight", {m.width, m.inner, experts}});
  } else {
    all.push_back({"ffn_down.bias", {m.width}});
    all.push_back({"ffn_down.weight", {m.inner, m.width}});
    if (!m.fused) all.push_back({"ffn_gate.weight", {m.width, m.inner}});
    all.push_back({"ffn_up.weight", {m.width, m.inner}});
  }
  return all;
}

static void print(const char *key, const std::vector<Tensor> &tensors) {
  printf(", \"%s\": [", key);
  for (size_t i = 0; i < tensors.size(); i++) {
    printf("%s[\"%s\", [", i ? ", " : "", tensors[i].name.c_str());
    for (size_t k = tensors[i].shape.size(); k-- > 0;) printf("%ld%s", (long)tensors[i].shape[k], k ? ", " : "]]");
  }
  printf("]");
}

int main() {
  for (const Model &m : models) {
    llama_quant_model_desc description = {m.architecture, m.width, m.inner, m.layers, m.heads, m.key_heads, m.experts,
                                          m.width / m.heads, m.width / m.heads};
    llama_model_quantize_params parameters = llama_model_quantize_default_params();
    quantize_state_impl *state = llama_quant_init(llama_quant_model_from_metadata(&description), &parameters);
    ggml_context *context = ggml_init({size_t(1) << 26, nullptr, true});
    // llama.cpp takes tensors in this order, by layers and names.
    std::vector<Tensor> all = outside(m);
    for (uint32_t number = 0; number < m.layers; number++)
      for (Tensor tensor : layer(m)) {
        tensor.name = "blk." + std::to_string(number) + "." + tensor.name;
        all.push_back(tensor);
      }
    std::vector<ggml_tensor *> tensors, packed;
    for (const Tensor &one : all) {
      tensors.push_back(ggml_new_tensor(context, GGML_TYPE_F32, (int)one.shape.size(), one.shape.data()));
      ggml_set_name(tensors.back(), one.name.c_str());
      if (llama_quant_tensor_allows_quantization(state, tensors.back())) packed.push_back(tensors.back());
    }
    printf("%s{\"name\": \"%s\", \"architecture\": \"%s\", \"layers\": %u, \"heads\": %u, \"key_heads\": %u, \"experts\": %u",
           &m == models ? "[\n" : ",\n", m.name, m.architecture, m.layers, m.heads, m.key_heads, m.experts);
    print("outside", outside(m));
    print("layer", layer(m));
    printf(", \"types\": {");
    for (const auto &mix : mixes) {
      // A letter a tensor: A is the type 0, which is F32.
      std::vector<ggml_type> types(packed.size());
      llama_quant_compute_types(state, (llama_ftype)mix.number, packed.data(), types.data(), packed.size());
      printf("%s\n  \"%s\": \"", mix.number ? "," : "", mix.name);
      for (size_t i = 0, k = 0; i < tensors.size(); i++)
        putchar(k < packed.size() && packed[k] == tensors[i] ? 'A' + (int)types[k++] : 'A');
      printf("\"");
    }
    printf("\n}}");
  }
  printf("\n]\n");
}
