import NibbleCore

/// What a GGUF file is as a Hugging Face model: its names there, and the `config.json` that its metadata and shapes amount to.
struct GgufSource {
  let names: LlamaCppNames
  let config: JSON

  /// What llama.cpp computes frequencies with; the configuration says it in other words.
  static let frequencies = "rope_freqs.weight", longFactors = "rope_factors_long.weight", shortFactors = "rope_factors_short.weight"

  /// Whether a tensor is no weight of the model, and is said by the configuration.
  static func isNoWeight(_ name: String) -> Bool { [frequencies, longFactors, shortFactors].contains(name) }

  /// - Returns: nil for architectures whose names are not known
  /// - Throws: `.badInput` for metadata that says nothing a configuration can be made of
  init?(_ parts: GgufParts) throws {
    guard let architecture = parts.first.text("general.architecture") else {
      throw NibbleError.badInput("\(path: parts.first.path): \(key: "general.architecture") is missing, so this is no model")
    }
    let all = LlamaCppNames.of(architecture: architecture)
    guard let names = Self.chosen(all, parts) else { return nil }
    self.names = names
    var reader = try GgufConfigReader(parts, architecture)
    config = try reader.config(of: names)
  }

  /// More than any model has.
  static let mostTensors = 1 << 20

  /// The experts that a tensor holds, each as a tensor under its Hugging Face name; nil for a tensor that holds none.
  ///
  /// - Throws: `.badInput` for a shape that so many experts do not have
  func experts(in tensor: GgufFile.Tensor, of path: String) throws -> [(name: String, tensor: GgufFile.Tensor)]? {
    guard names.huggingFace(experts: 0, of: tensor.name) != nil else { return nil }
    let count = (config["num_local_experts"] ?? config["num_experts"] ?? config["n_routed_experts"])?.int ?? 0
    guard count <= ExpertPlace.most else {
      throw NibbleError.badInput("\(path: path): \(count) experts of a layer, more than \(ExpertPlace.most)")
    }
    // Programs that drop dimensions of one make a matrix of one expert.
    let rank = tensor.name.hasSuffix(".bias") ? 2 : 3
    let shape = count == 1 && tensor.shape.count == rank - 1 ? [1] + tensor.shape : tensor.shape
    guard count > 0, shape.count == rank, shape[0] == count else {
      throw NibbleError.badInput(
        "\(path: path): \(tensor: tensor.name) has the shape \(tensor.shape), where a \(rank == 2 ? "bias" : "matrix") for each of \(count) experts is expected")
    }
    let length = tensor.range.count / count, first = tensor.range.lowerBound
    return names.huggingFace(experts: count, of: tensor.name)?.enumerated().map { index, name in
      let start = first + index * length
      return (name, .init(name: tensor.name, shape: Array(shape.dropFirst()), type: tensor.type, range: start..<start + length))
    }
  }

  /// Several families are one architecture there. BERT, RoBERTa and XLM-RoBERTa differ in their tokenizers, DistilBERT has no types of tokens,
  /// Mixtral has experts, Granite 4 a size of what experts share, OLMo 3 has windows, and the later Falcons have a second norm, and other names for it.
  private static func chosen(_ all: [LlamaCppNames], _ parts: GgufParts) -> LlamaCppNames? {
    func has(_ tensor: String) -> Bool { parts.tensors.contains { $0.tensor.name == tensor } }
    let file = parts.first
    guard let first = all.first else { return nil }
    switch first.architecture {
    case "llama": return all.first { ($0.experts != nil) == (file.whole("llama.expert_count") ?? 0 > 0) }
    case "bert":
      let types = ["gpt2": "roberta", "t5": "xlm-roberta"]
      let type = file.text("tokenizer.ggml.model").flatMap { types[$0] } ?? (has("token_types.weight") ? "bert" : "distilbert")
      return all.first { $0.modelTypes.contains(type) }
    case "mistral3": return all.first { $0.modelTypes.contains(file.metadata["mistral3.attention.temperature_scale"] == nil ? "mistral" : "ministral3") }
    case "olmo2": return all.first { $0.modelTypes.contains(file.metadata["olmo2.attention.sliding_window"] == nil ? "olmo2" : "olmo3") }
    case "granite":
      let isFourth = file.metadata["granite.expert_shared_feed_forward_length"] != nil
      return all.first { $0.modelTypes.contains(isFourth ? "granitemoehybrid" : "granite") }
    case "deepseek2":
      // What corrects the scores of experts came with V3, and sigmoids with it.
      let isThird = file.whole("deepseek2.expert_gating_func") == 2 || parts.tensors.contains { $0.tensor.name.hasSuffix(".exp_probs_b.bias") }
      return all.first { $0.modelTypes.contains(isThird ? "deepseek_v3" : "deepseek_v2") }
    case "t5": return has("enc.blk.0.ffn_gate.weight") ? first.taking("wi_1") : first
    case "falcon": return has("blk.0.attn_norm_2.weight") ? first.taking("ln_mlp") : first
    default: return first
    }
  }
}
