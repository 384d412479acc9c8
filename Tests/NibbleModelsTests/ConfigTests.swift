import Foundation
import NibbleCore
import NibbleModels
import TestSupport
import Testing

@Suite("Configurations")
struct ConfigTests {
  /// A model folder whose configuration says something else.
  static func open(_ base: String, _ change: String) throws -> Model {
    let folder = TemporaryFolder()
    try folder.write("model.safetensors", try bytes(of: fixture("models/\(base)/model.safetensors")))
    var config = try JSON.parse(try bytes(of: fixture("models/\(base)/config.json")))
    for (key, value) in try JSON.parse("{\(change)}").members ?? [] { config = config.setting(key, to: value) }
    try folder.write("config.json", config.text())
    return try Model(folder.path)
  }

  static let refused: [(String, String)] = [
    ("llama", #""model_type": "mamba""#), ("llama", #""hidden_act": "laplace""#),
    ("llama", #""architectures": ["LlamaForTokenClassification"]"#),
    ("llama", #""architectures": null"#), ("llama", #""rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}"#),
    ("llama", #""rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}"#),
    ("llama", #""pretraining_tp": 2"#), ("llama", #""attn_logit_softcapping": 50.0"#), ("llama", #""num_experts": 8"#),
    ("llama", #""hidden_size": 1000000000000000000"#), ("llama", #""hidden_size": -64"#), ("llama", #""hidden_size": "64""#),
    ("llama", #""num_hidden_layers": 0"#), ("llama", #""num_hidden_layers": 3"#), ("llama", #""num_hidden_layers": 1"#),
    ("llama", #""num_key_value_heads": 3"#), ("llama", #""num_attention_heads": 1e400"#), ("llama", #""vocab_size": 255"#),
    ("llama", #""head_dim": 15"#), ("llama", #""intermediate_size": 64"#), ("llama", #""rms_norm_eps": -1"#),
    ("llama", #""attention_bias": true"#), ("llama", #""quantization_config": {"quant_method": "gptq"}"#),
    ("llama", #""rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}"#),
    ("llama", #""model_type": "qwen3""#), ("llama", #""model_type": "gemma", "use_bidirectional_attention": true"#),
    ("llama", #""model_type": "gemma2", "sliding_window": null"#), ("llama", #""model_type": "falcon", "alibi": true"#),
    ("llama", #""model_type": "phi3", "rope_parameters": {"rope_type": "linear", "factor": 2.0}"#),
    ("llama", #""model_type": "gemma3_text", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}"#),
    ("llama", #""model_type": "granitemoehybrid", "num_local_experts": 0"#), ("llama", #""model_type": "granitemoehybrid", "layer_types": ["mamba"]"#),
    ("llama", #""model_type": "ministral3", "rope_parameters": {"rope_type": "yarn", "factor": 4.0}"#), ("llama", #""model_type": "llama4_text", "floor_scale": 0"#),
    ("llama", #""model_type": "smollm3", "no_rope_layers": [1]"#), ("llama", #""model_type": "granite", "residual_multiplier": -1"#),
    ("llama", #""model_type": "phi3", "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}"#),
    ("gpt2", #""scale_attn_weights": 1"#), ("gpt2", #""n_head": 5"#), ("gpt2", #""n_positions": 65"#),
    ("gpt2", #""n_inner": 128"#), ("roberta", #""position_embedding_type": "relative_key""#), ("roberta", #""is_decoder": true"#),
    ("roberta", #""architectures": ["RobertaForMultipleChoice"]"#), ("roberta", #""architectures": ["RobertaForMaskedLM"]"#),
    ("roberta", #""problem_type": "ranking""#),
    ("roberta", #""max_position_embeddings": 1"#), ("roberta", #""pad_token_id": 10000"#),
  ]

  @Test("that ask for what there is no code for, or make no sense, are refused", arguments: refused)
  func refusals(base: String, change: String) throws {
    let error = #expect(throws: NibbleError.self) { try Self.open(base, change) }
    #expect(error?.kind == .badInput && error?.path != nil, "\(error?.message ?? "")")
  }

  /// Llama 4's layers, by what a configuration says of positions and kinds.
  @Test("chunks, positions, scales and norms of Llama 4's layers", arguments: [
    ("", [8192, 8192, 8192, nil], [true, true, true, false]),
    (#", "no_rope_layers": [0, 1, 1, 1], "attention_chunk_size": 16"#, [nil, 16, 16, 16], [false, true, true, true]),
    (
      #", "no_rope_layer_interval": 2, "layer_types": ["full_attention", "full_attention", "chunked_attention", "chunked_attention"]"#,
      [nil, nil, 8192, 8192], [true, false, true, false]
    ),
  ] as [(String, [Int?], [Bool])])
  func llama4(more: String, chunks: [Int?], turns: [Bool]) throws {
    let text = #"{"model_type": "llama4_text", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16\#(more)}"#
    let family = try #require(Architectures.all.named("llama4_text") as? any TransformerArchitecture.Type)
    let shape = try family.shape(ConfigReader(try JSON.parse(text), place: "config.json"))
    #expect(shape.chunks == chunks && shape.rotary.map { $0 != nil } == turns)
    #expect(shape.queryScales.map { $0 == nil } == turns && shape.plainHeadNorms.map { $0 != nil } == turns)
    #expect(shape.queryScales.compactMap { $0 }.allSatisfy { $0 == QueryScale(slope: 0.1, span: 8192, first: 1) })
  }

  @Test("that only say otherwise what they said run")
  func accepted() throws {
    _ = try Self.open(
      "llama", #""rope_parameters": null, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}"#)
    _ = try Self.open("llama", #""architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4"#)
    _ = try Self.open("roberta", #""hidden_act": "relu""#)
  }

  /// Frequencies of transformers 5.23, heads of 16.
  static let rotations: [(String, [Float], Float)] = [
    (
      #"{"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10000.0}"#,
      [0.25, 0.079056941, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05], 1
    ),
    (
      #"{"rope_parameters": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}}"#,
      [1, 0.19392276, 0.03760603, 0.0072926651, 0.00042955671, 8.5702559e-06, 1.6619674e-06, 3.2229329e-07], 1
    ),
    (
      #"{"rope_parameters": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}}"#,
      [1, 0.19392276, 0.037606031, 0.0072926651, 0.0014142134, 1.7140512e-05, 3.3239348e-06, 6.4458658e-07], 1
    ),
    (
      #"{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 10000.0}}"#,
      [1, 0.31622776, 0.1, 0.025693506, 0.0062499996, 0.0013834966, 0.00025, 7.9056947e-05], 1.1386294
    ),
    (
      #"{"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024, "rope_theta": 1000000.0, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25}}"#,
      [1, 0.17782794, 0.017787812, 0.00070292666, 0.000125, 2.2228493e-05, 3.9528468e-06, 7.0292668e-07], 1.25
    ),
    // What comes first where a configuration says things twice, and what stands in for what it does not say.
    (
      #"{"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 500.0}"#,
      [0.25, 0.11496582, 0.05286856, 0.024312312, 0.01118034, 0.0051414282, 0.002364354, 0.0010872796], 1
    ),
    (
      #"{"rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, "rope_theta": 500000.0, "original_max_position_embeddings": 2048}"#,
      [1, 0.19392276, 0.037606031, 0.0034707172, 4.419417e-05, 8.5702559e-06, 1.6619674e-06, 3.2229329e-07], 1
    ),
    (
      #"{"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, "rope_theta": 500000.0}"#,
      [1, 0.19392276, 0.037606031, 0.0072926651, 0.00052484602, 3.4281024e-05, 6.6478697e-06, 1.2891732e-06], 1
    ),
    (
      #"{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}, "rope_scaling": {}, "original_max_position_embeddings": 2048}"#,
      [1, 0.31622776, 0.1, 0.025693506, 0.0062499996, 0.0013834966, 0.00025, 7.9056947e-05], 1.1386294
    ),
    (
      #"{"rope_parameters": {"rope_type": "yarn", "factor": 40.0, "rope_theta": 10000.0, "original_max_position_embeddings": 2048, "mscale": 0.707, "mscale_all_dim": 1.5}}"#,
      [1, 0.31622776, 0.1, 0.023914725, 0.0051249997, 0.00084986218, 2.4999999e-05, 7.9056945e-06], 0.81167699
    ),
    (
      #"{"rope_parameters": {"rope_type": "yarn", "factor": 40.0, "rope_theta": 10000.0, "original_max_position_embeddings": 2048, "mscale": 0.707}}"#,
      [1, 0.31622776, 0.1, 0.023914725, 0.0051249997, 0.00084986218, 2.4999999e-05, 7.9056945e-06], 1.3688879
    ),
    (
      #"{"rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 2048, "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0], "long_factor": [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0]}}"#,
      [1, 0.31622776, 0.1, 0.031622775, 0.0099999998, 0.0031622776, 0.001, 0.00015811388], 1.0871146
    ),
  ]

  @Test("rotary positions turn as transformers has them", arguments: rotations)
  func rotary(config: String, frequencies: [Float], factor: Float) throws {
    let rotary = try RotaryPositions(ConfigReader(try JSON.parse(config), place: "config.json"), size: 16, context: 8192)
    #expect(zip(rotary.frequencies, frequencies).allSatisfy { abs($0 - $1) <= 4e-7 * $1 } && rotary.frequencies.count == 8)
    #expect(abs(rotary.attentionFactor - factor) <= 1e-6)
  }

  /// What transformers 5.23 takes where nothing is said: vocabulary, width, layers, heads, heads of keys, context, window.
  static let silent: [(String, [Int?])] = [
    ("llama", [32000, 4096, 32, 32, 32, 2048, nil]), ("mistral", [32000, 4096, 32, 32, 8, 131_072, 4096]),
    ("qwen2", [151_936, 4096, 32, 32, 32, 32768, nil]), ("gpt2", [50257, 768, 12, 12, 12, 1024, nil]),
    ("bert", [30522, 768, 12, 12, 12, 512, nil]), ("roberta", [50265, 768, 12, 12, 12, 510, nil]),
    ("ministral", [32000, 4096, 32, 32, 8, 131_072, 4096]), ("qwen3", [151_936, 4096, 32, 32, 32, 32768, nil]),
    ("smollm3", [128_256, 2048, 36, 16, 4, 32768, nil]), ("olmo2", [50304, 4096, 32, 32, 32, 2048, nil]),
    ("olmo3", [50304, 4096, 32, 32, 32, 2048, 4096]), ("gemma", [256_000, 3072, 28, 16, 16, 8192, nil]),
    ("gemma2", [256_000, 2304, 26, 8, 4, 8192, 4096]), ("gemma3_text", [262_208, 2304, 26, 8, 4, 131_072, 4096]),
    ("granite", [32000, 4096, 32, 32, 32, 2048, nil]), ("phi3", [32064, 3072, 32, 32, 32, 4096, nil]),
    ("glm4", [151_552, 4096, 40, 32, 2, 131_072, nil]), ("starcoder2", [49152, 3072, 30, 24, 2, 4096, nil]),
    ("gpt_neox", [50432, 6144, 44, 64, 64, 2048, nil]), ("falcon", [65024, 4544, 32, 71, 1, 2048, nil]),
    ("ministral3", [131_072, 4096, 34, 32, 8, 262_144, nil]), ("llama4_text", [202_048, 5120, 48, 40, 8, 131_072, nil]),
    ("phi", [51200, 2048, 24, 32, 32, 2048, nil]), ("xlm-roberta", [30522, 768, 12, 12, 12, 510, nil]), ("camembert", [30522, 768, 12, 12, 12, 510, nil]),
  ]

  @Test("that are silent mean what transformers takes then", arguments: silent)
  func silence(type: String, expected: [Int?]) throws {
    func shape(_ more: String = "") throws -> TransformerShape {
      let config = ConfigReader(try JSON.parse(#"{"model_type": "\#(type)"\#(more)}"#), place: "config.json")
      return try #require(Architectures.all.named(type) as? any TransformerArchitecture.Type).shape(config)
    }
    let usual = try shape()
    let sizes = [usual.vocabulary, usual.width, usual.layers, usual.heads, usual.keyValueHeads, usual.contextLength]
    #expect(sizes + [usual.windows[0]] == expected)
    // Null is not the same as nothing.
    if type == "mistral" {
      #expect(try shape(#", "sliding_window": null"#).windows[0] == nil)
      #expect(try shape(#", "num_key_value_heads": null"#).keyValueHeads == 32)
    }
    if type == "qwen2" { #expect(try shape(#", "use_sliding_window": true"#).windows.map { $0 == 4096 } == (0..<32).map { $0 >= 28 }) }
    if type == "gpt2" { #expect(try shape(#", "n_embd": 64, "hidden_size": 96"#).width == 96) }
  }

  @Test("tensors the model has no use for are named")
  func leftOver() throws {
    let folder = TemporaryFolder()
    var builder = SafetensorsBuilder()
    builder.add(random: "model.layers.0.self_attn.q_norm.weight", [16])
    try folder.write("model-00004-of-00004.safetensors", builder.bytes)
    for name in [
      "config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
    ] {
      try folder.write(name.replacing("00003.s", with: "00004.s"), try bytes(of: fixture("models/llama-sharded/" + name)))
    }
    var index = try JSON.parse(try bytes(of: fixture("models/llama-sharded/model.safetensors.index.json")))
    let map = (index["weight_map"]?.members ?? []).map {
      (key: $0.key, value: JSON(($0.value.string ?? "").replacing("00003.s", with: "00004.s")))
    }
    index = index.setting(
      "weight_map", to: .object(map + [("model.layers.0.self_attn.q_norm.weight", "model-00004-of-00004.safetensors")]))
    try folder.write("model.safetensors.index.json", index.text())
    let error = #expect(throws: NibbleError.self) { try Model(folder.path) }
    #expect(error?.message.contains("q_norm") == true, "\(error?.message ?? "")")
  }
}
