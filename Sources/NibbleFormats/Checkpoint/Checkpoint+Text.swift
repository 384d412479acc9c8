import NibbleCore

extension TextPart {
  /// `model_type` of the text model of a configuration of the whole.
  func modelType(_ config: JSON?) -> String { config?["text_config"]?["model_type"]?.string ?? usual }
}

extension Checkpoint {
  /// The configuration of the network that runs: the whole, or what a model that takes pictures as well says of its text model.
  package var networkConfig: JSON? {
    guard let config, let part = TextPart.of(modelType) else { return config }
    var text = config["text_config"] ?? (part.isFlat ? config : .object([]))
    guard text.members != nil else { return text }
    if text["model_type"] ?? .null == .null || config["text_config"] == nil { text = text.setting("model_type", to: JSON(part.modelType(config))) }
    // The whole decides about its head, and says what it is packed with.
    text = text.setting("tie_word_embeddings", to: .bool(tiedHeadName != nil))
    if part.ownsHead { for key in ["final_logit_softcapping", "logits_scaling", "logit_scale"] { text = text.setting(key, to: .null) } }
    for key in ["quantization_config", GgufUntranslated.key] { if let value = config[key] { text = text.setting(key, to: value) } }
    let classes = config["architectures"]?.array?.map { name in
      name.string.map { JSON($0.replacing("ForConditionalGeneration", with: "ForCausalLM")) } ?? name
    }
    return classes.map { text.setting("architectures", to: .array($0)) } ?? text
  }

  /// llama.cpp's names for it; nil where they are not known.
  package var llamaCpp: LlamaCppNames? {
    guard let type = networkConfig?["model_type"]?.string else { return nil }
    guard let part = TextPart.of(modelType) else { return LlamaCppNames.of(modelType: type) }
    // A text model whose own class is said is written as what that is.
    let wanted = config?["text_config"]?["architectures"]?.array?.first?.string == nil ? part.architecture : nil
    let known = LlamaCppNames.all.filter { $0.modelTypes.contains(type) }
    var names = known.first { $0.architecture == wanted } ?? known.first
    names?.part = part
    return names
  }

  /// The same configuration as llama.cpp's converter reads it: tokens with a meaning are looked for in the whole's first.
  var llamaCppConfig: JSON? {
    guard let config, TextPart.of(modelType) != nil, let text = networkConfig else { return networkConfig }
    return ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot"].reduce(text) { text, role in
      let key = "\(role)_token_id"
      guard let id = config[key], id != .null else { return text }
      return text.setting(key, to: id)
    }
  }

  /// Whether that stands in an object of its own.
  package var hasTextConfig: Bool { TextPart.of(modelType) != nil && config?["text_config"] != nil }

  /// The same with a warning of tensors that texts alone have no use for.
  package func warning(ofUnused tensors: [StoredTensor]) -> Checkpoint {
    guard let first = tensors.first else { return self }
    let bytes = tensors.reduce(0) { $0 + $1.storedBytes }
    var told = self
    told.warnings.append(
      .init(
        .unused,
        "\(path: path): texts pass through its text model only: \(tensors.count) tensors of other parts (\(byteText(bytes))), "
          + "\(subject: first.name.text) the first, are not used"))
    return told
  }

  /// The same with another value of `key` in the configuration of the network that runs.
  package func setting(_ key: String, to value: JSON) -> Checkpoint {
    guard let config else { return self }
    guard hasTextConfig, let text = config["text_config"] else { return with(config: config.setting(key, to: value)) }
    return with(config: config.setting("text_config", to: text.setting(key, to: value)))
  }
}
