import NibbleCore
import Testing

@testable import NibbleFormats

/// Names and row orders of llama.cpp's files, checked against gguf-py's tensor_mapping.py.
@Suite struct LlamaCppNamesTests {
  @Test(arguments: [
    ("llama", "model.embed_tokens.weight", "token_embd.weight"), ("llama", "model.norm.weight", "output_norm.weight"),
    ("llama", "lm_head.weight", "output.weight"), ("mistral", "model.layers.11.input_layernorm.weight", "blk.11.attn_norm.weight"),
    ("llama", "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
    ("qwen2", "model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias"),
    ("qwen3", "model.layers.3.self_attn.k_norm.weight", "blk.3.attn_k_norm.weight"),
    ("gemma2", "model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"),
    ("gemma2", "model.layers.0.pre_feedforward_layernorm.weight", "blk.0.ffn_norm.weight"),
    ("olmo2", "model.layers.0.post_feedforward_layernorm.weight", "blk.0.post_ffw_norm.weight"),
    ("gpt2", "transformer.wpe.weight", "position_embd.weight"), ("gpt2", "transformer.h.5.attn.c_attn.bias", "blk.5.attn_qkv.bias"),
    ("bert", "bert.embeddings.token_type_embeddings.weight", "token_types.weight"),
    ("roberta", "roberta.encoder.layer.7.attention.output.LayerNorm.bias", "blk.7.attn_output_norm.bias"),
    ("xlm-roberta", "classifier.dense.weight", "cls.weight"),
    ("qwen2_moe", "model.layers.2.mlp.shared_expert.up_proj.weight", "blk.2.ffn_up_shexp.weight"),
    ("qwen2_moe", "model.layers.2.mlp.shared_expert_gate.weight", "blk.2.ffn_gate_inp_shexp.weight"),
    ("gpt_oss", "model.layers.1.self_attn.sinks", "blk.1.attn_sinks.weight"), ("gpt_oss", "model.layers.1.mlp.router.bias", "blk.1.ffn_gate_inp.bias"),
    ("gpt_oss", "model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"),
    ("granitemoehybrid", "model.layers.0.shared_mlp.output_linear.weight", "blk.0.ffn_down.weight"),
    ("ministral3", "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
    ("llama4_text", "model.layers.1.feed_forward.shared_expert.up_proj.weight", "blk.1.ffn_up_shexp.weight"),
    ("llama4_text", "model.layers.1.feed_forward.router.weight", "blk.1.ffn_gate_inp.weight"),
    ("glm4_moe", "model.layers.2.mlp.gate.e_score_correction_bias", "blk.2.exp_probs_b.bias"),
    ("glm4_moe", "model.layers.46.shared_head.head.weight", "blk.46.nextn.shared_head_head.weight"),
    ("deepseek_v3", "model.layers.1.self_attn.k_b_proj.weight", "blk.1.attn_k_b.weight"),
    ("deepseek_v2", "model.layers.1.mlp.shared_experts.down_proj.weight", "blk.1.ffn_down_shexp.weight"),
    ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "enc.blk.0.attn_rel_b.weight"),
    ("t5", "decoder.block.11.layer.1.EncDecAttention.o.weight", "dec.blk.11.cross_attn_o.weight"),
    ("mt5", "decoder.block.1.layer.2.DenseReluDense.wi_0.weight", "dec.blk.1.ffn_gate.weight"),
    ("t5", "decoder.final_layer_norm.weight", "dec.output_norm.weight"), ("t5", "shared.weight", "token_embd.weight"),
  ])
  func bothWays(_ type: String, _ ours: String, _ theirs: String) throws {
    let names = try #require(LlamaCppNames.of(modelType: type))
    #expect(names.gguf(tensor: ours) == theirs)
    #expect(names.huggingFace(tensor: theirs) == ours)
  }

  /// A tensor there holds all experts of a layer.
  @Test(arguments: [
    ("mixtral", "model.layers.3.block_sparse_moe.experts.1.w2.weight", "blk.3.ffn_down_exps.weight"),
    ("qwen3_moe", "model.layers.0.mlp.experts.1.up_proj.weight", "blk.0.ffn_up_exps.weight"),
    ("olmoe", "model.layers.0.mlp.experts.1.gate_proj.weight", "blk.0.ffn_gate_exps.weight"),
    ("qwen2_moe", "model.layers.0.mlp.experts.1.gate_proj.weight", "blk.0.ffn_gate_exps.weight"),
    ("glm4_moe", "model.layers.3.mlp.experts.1.down_proj.weight", "blk.3.ffn_down_exps.weight"),
    ("deepseek_v3", "model.layers.3.mlp.experts.1.up_proj.weight", "blk.3.ffn_up_exps.weight"),
  ])
  func experts(_ type: String, _ ours: String, _ theirs: String) throws {
    let names = try #require(LlamaCppNames.of(modelType: type))
    #expect(names.expert(tensor: ours)?.gguf == theirs && names.expert(tensor: ours)?.number == 1)
    #expect(names.huggingFace(experts: 2, of: theirs)?.last == ours)
    #expect(names.gguf(tensor: ours) == nil && names.huggingFace(tensor: theirs) == nil)
    for odd in [".01.", ".-1.", "."] {
      #expect(names.expert(tensor: ours.replacing(".1.", with: odd)) == nil)
    }
    #expect(names.expert(tensor: ours.replacing(".weight", with: ".bias")) == nil)
  }

  /// What is one parameter here: outputs in turn, or one half behind the other.
  @Test func partedParameters() throws {
    let names = try ["gpt_oss", "llama4_text", "granitemoehybrid", "llama"].map { try #require(LlamaCppNames.of(modelType: $0)) }
    #expect(names.map { $0.parted?.whole } == ["gate_up_proj", "gate_up_proj", "shared_mlp.input_linear", nil])
    #expect(names.map { $0.experts?.takesTurns } == [true, false, nil, nil])
    #expect(names[2].gguf(module: "model.layers.0.shared_mlp.input_linear") == nil && names[2].gguf(module: "model.layers.0.shared_mlp.up") == "blk.0.ffn_up")
  }

  /// gpt-oss's have biases, and outputs of gate and up in turn, which a job parts before it asks.
  @Test(arguments: [("down_proj", "ffn_down_exps"), ("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps")])
  func expertsWithBiases(_ ours: String, _ theirs: String) throws {
    let names = try #require(LlamaCppNames.of(modelType: "gpt_oss"))
    for suffix in [".weight", ".bias"] {
      let name = "model.layers.4.mlp.experts.1.\(ours)\(suffix)"
      #expect(names.expert(tensor: name)?.gguf == "blk.4.\(theirs)\(suffix)")
      #expect(names.huggingFace(experts: 2, of: "blk.4.\(theirs)\(suffix)")?.last == name)
    }
    #expect(names.expert(tensor: "model.layers.4.mlp.experts.1.gate_up_proj.weight") == nil)
    let order = ["down_proj.weight", "down_proj.bias", "gate_proj.weight", "up_proj.weight", "gate_proj.bias", "up_proj.bias"]
    let places = order.compactMap { names.experts?.place(of: "model.layers.4.mlp.experts.1." + $0) }
    #expect(places.count == 6 && places == places.sorted() && Set(places).count == 6)
  }

  /// llama.cpp's code for these has none.
  @Test func biasesThatAreNotLoaded() throws {
    #expect(try #require(LlamaCppNames.of(modelType: "qwen3")).gguf(tensor: "model.layers.0.self_attn.o_proj.bias") == nil)
    #expect(try #require(LlamaCppNames.of(modelType: "llama")).gguf(tensor: "model.layers.0.self_attn.o_proj.bias") == "blk.0.attn_output.bias")
  }

  /// Checkpoints of the bare model leave the prefix out, TensorFlow's call norms gamma and beta.
  @Test func otherSpellings() throws {
    let bert = try #require(LlamaCppNames.of(modelType: "bert"))
    #expect(bert.gguf(tensor: "encoder.layer.0.output.LayerNorm.gamma") == "blk.0.layer_output_norm.weight")
    let gpt2 = try #require(LlamaCppNames.of(modelType: "gpt2"))
    #expect(gpt2.gguf(tensor: "h.0.ln_1.weight") == "blk.0.attn_norm.weight")
    #expect(gpt2.fullPath("h.0.mlp.c_fc") == "transformer.h.0.mlp.c_fc")
  }

  @Test(arguments: [
    "model.layers.01.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight", "model.layers.mlp.up_proj.weight", "score.weight",
    "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_norm.weight", "", ".weight",
  ])
  func namesNobodyHas(_ name: String) throws {
    #expect(try #require(LlamaCppNames.of(modelType: "llama")).gguf(tensor: name) == nil)
  }

  @Test func whatIsLeftOut() throws {
    let bert = try #require(LlamaCppNames.of(modelType: "bert"))
    for name in ["bert.pooler.dense.bias", "embeddings.position_ids", "cls.predictions.bias"] {
      #expect(bert.reasonToDrop(name) != nil)
    }
    // The pooler is the first layer of a classification head.
    #expect(bert.reasonToDrop("bert.pooler.dense.bias", hasHead: true) == nil)
    #expect(bert.gguf(tensor: "bert.pooler.dense.bias") == "cls.bias")
    #expect(bert.reasonToDrop("cls.predictions.bias", hasHead: true) != nil)
    #expect(bert.reasonToDrop("qa_outputs.weight") == nil)
    let gemma = try #require(LlamaCppNames.of(modelType: "gemma"))
    #expect(gemma.gguf(tensor: "lm_head.weight") == nil && gemma.reasonToDrop("lm_head.weight") != nil)
  }

  @Test func formsOfNumbers() throws {
    let config: JSON = ["num_attention_heads": 8, "num_key_value_heads": 2, "pad_token_id": 1]
    func form(_ type: String, _ name: String) throws -> LlamaCppForm {
      try #require(LlamaCppNames.of(modelType: type)).form(name, config)
    }
    #expect(try form("llama", "blk.0.attn_q.weight") == .interleaved(heads: 8))
    #expect(try form("llama", "blk.0.attn_k.bias") == .interleaved(heads: 2))
    #expect(try form("llama", "blk.0.attn_v.weight") == .same)
    #expect(try form("qwen2", "blk.0.attn_q.weight") == .same)
    #expect(try form("gpt2", "blk.0.ffn_up.weight") == .transposed)
    #expect(try form("gpt2", "blk.0.ffn_up.bias") == .same)
    #expect(try form("gemma2", "blk.0.post_ffw_norm.weight") == .plusOne)
    #expect(try form("roberta", "position_embd.weight") == .withoutFirst(rows: 2))
    #expect(try form("bert", "position_embd.weight") == .same)
    #expect(throws: NibbleError.self) { try LlamaCppNames.of(modelType: "llama")?.form("blk.0.attn_q.weight", nil) }
  }

  @Test func rowsOfHeads() throws {
    // Two heads of four rows: halves (0, 1 | 2, 3) become pairs (0, 2, 1, 3).
    #expect(LlamaCppForm.order(rows: 8, heads: 2) == [0, 2, 1, 3, 4, 6, 5, 7])
    let order = try #require(LlamaCppForm.order(rows: 96, heads: 3)), back = try #require(LlamaCppForm.orderBack(rows: 96, heads: 3))
    #expect(order.map { back[$0] } == Array(0..<96))
    #expect(LlamaCppForm.order(rows: 6, heads: 2) == nil && LlamaCppForm.order(rows: 8, heads: 0) == nil)
  }
}
