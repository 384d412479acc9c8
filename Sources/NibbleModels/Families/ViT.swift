import NibbleCompute
import NibbleCore

/// Vision transformers: ViT, and DeiT, which has a token and a layer of classes more.
enum ViT: Architecture {
  static let modelTypes = ["vit", "deit"]

  private static func isDistilled(_ config: ConfigReader) -> Bool { config["model_type"]?.string == "deit" }

  static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network {
    try config.checkQuantization()
    let model = isDistilled(config) ? "deit." : "vit."
    let width = try width(config)
    let (embedding, positions) = try embedding(config, model + "embeddings.", width, source)
    let shape = try shape(config, width, rows: embedding.rows)
    let layers = try layers(config, model, shape, source)
    let finalNorm = try source.norm(model + "layernorm", width: width, hasBias: true)
    let head = try head(config, width, source)
    var idle: [Linear] = []
    if case .none = head, source.has(model + "pooler.dense.weight") {
      let outputs = try config.int("pooler_output_size", Limits.width, default: width)
      idle.append(try source.linear(model + "pooler.dense", outputs: outputs, inputs: width, bias: .required))
    }
    // What masked patches become, and a pooler that no classifier uses; the classes of a head beside the one that is asked for.
    let other: String? = if case .none = head { nil } else { #"^(cls_|distillation_)?classifier\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.mask_token$|(^|\.)pooler\."#), head: other)
    let weights = TransformerWeights(tokens: positions, layers: layers, finalNorm: finalNorm, head: head, idle: idle)
    return VisionTransformer(shape, weights, embedding, engine)
  }

  private static func width(_ config: ConfigReader) throws -> Int { try config.int("hidden_size", Limits.width, default: 768) }

  /// - Parameter rows: of an image
  private static func shape(_ config: ConfigReader, _ width: Int, rows: Int) throws -> TransformerShape {
    let heads = try config.int("num_attention_heads", Limits.heads, default: 12)
    guard heads <= width else { throw config.fail("\(key: "num_attention_heads") \(heads) is more than hidden_size \(width)") }
    let layers = try config.int("num_hidden_layers", Limits.layers, default: 12)
    return TransformerShape(
      vocabulary: rows, width: width, heads: heads, keyValueHeads: heads,
      headSize: try config.int("head_dim", 1...1 << 16, default: width / heads), layers: layers, contextLength: rows, isCausal: false,
      isRMSNorm: false, epsilon: Float(try config.double("layer_norm_eps", above: 0, default: 1e-12)),
      activation: try config.activation("hidden_act", default: "gelu"), isGated: false, windows: Array(repeating: nil, count: layers))
  }

  private static func embedding(
    _ config: ConfigReader, _ name: String, _ width: Int, _ source: WeightSource
  ) throws -> (PatchEmbedding, positions: Embedding) {
    let channels = try config.int("num_channels", 1...64, default: 3)
    let image = try config.sides("image_size", default: 224), patch = try config.sides("patch_size", default: 16)
    guard patch.height <= image.height, patch.width <= image.width else {
      throw config.fail("\(key: "patch_size") \(patch.height) x \(patch.width) is larger than image_size \(image.height) x \(image.width)")
    }
    let tokens = ["cls_token"] + (isDistilled(config) ? ["distillation_token"] : [])
    let embedding = PatchEmbedding(
      channels: channels, image: image, patch: patch,
      projection: try source.convolution(
        name + "patch_embeddings.projection", outputs: width, window: [channels, patch.height, patch.width], bias: .required),
      tokens: try tokens.map { try source.looseRows(name + $0, count: 1, width: width) })
    return (embedding, try source.looseRows(name + "position_embeddings", count: embedding.rows, width: width))
  }

  private static func layers(
    _ config: ConfigReader, _ model: String, _ shape: TransformerShape, _ source: WeightSource
  ) throws -> [LayerWeights] {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 3072)
    let bias: WeightSource.BiasRule = try config.bool("qkv_bias", default: true) ? .required : .none
    return try (0..<shape.layers).map { index in
      let layer = model + "layers.\(index)."
      func before(_ name: String) throws -> BranchNorms { BranchNorms(before: try source.norm(layer + name, width: width, hasBias: true)) }
      func linear(_ name: String, _ outputs: Int, _ inputs: Int, _ bias: WeightSource.BiasRule = .required) throws -> Linear {
        try source.linear(layer + name, outputs: outputs, inputs: inputs, bias: bias)
      }
      return LayerWeights(
        attentionNorms: try before("layernorm_before"),
        queryKeyValue: try ["q", "k", "v"].map { try linear("attention.\($0)_proj", shape.queryWidth, width, bias) },
        attentionOutput: try linear("attention.o_proj", width, shape.queryWidth), mlpNorms: try before("layernorm_after"),
        up: [try linear("mlp.fc1", inner, width)], down: try linear("mlp.fc2", width, inner))
    }
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.begin("classifier", outputs: labels, inputs: try width(config), hasBias: true)
    return true
  }

  private static func head(_ config: ConfigReader, _ width: Int, _ source: WeightSource) throws -> Head {
    func classes(_ name: String, _ labels: Int) throws -> Linear { try source.linear(name, outputs: labels, inputs: width, bias: .required) }
    let name = try config.architectureClass()
    switch name {
    case "ViTForImageClassification", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher":
      let labels = try config.labelCount(), isTaught = name.hasSuffix("WithTeacher")
      guard !isTaught || isDistilled(config) else { throw config.fail("architecture \(quoted(name)) is DeiT's") }
      var head = ClassificationHead(
        token: .first, dense: [], output: try classes(isTaught ? "cls_classifier" : "classifier", labels),
        problem: try config.problem(labels: labels))
      if isTaught { head.second = try classes("distillation_classifier", labels) }
      return .classification(head)
    case "ViTModel", "DeiTModel": return .none
    default: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}

extension ConfigReader {
  /// Height and width: two numbers, or one for both.
  fileprivate func sides(_ key: String, default fallback: Int) throws -> (height: Int, width: Int) {
    guard let value = self[key] else { return (fallback, fallback) }
    let sides = (value.array ?? [value, value]).map { $0.int ?? 0 }
    guard sides.count == 2, sides.allSatisfy((1...1 << 16).contains) else { throw wrong(key, value, "one or two whole numbers from 1 to 65536") }
    return (sides[0], sides[1])
  }
}
