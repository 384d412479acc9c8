import NibbleCore

/// The text model inside a checkpoint that takes pictures as well: whose configuration is a part of the whole's, and whose modules stand
/// below one of its.
///
/// A text without pictures passes through that part only. The others are packed, merged and carried like all tensors, and never run.
package struct TextPart: Sendable {
  /// `model_type`s of the whole.
  package let modelTypes: [String]
  /// That of the part, where `text_config` does not say.
  package let usual: String
  /// What the whole calls modules that the text model alone calls `model.`, and its head.
  let path: String
  let head: String
  /// Beginnings of modules' paths and of their names in files, where those differ: transformers renames them when it loads a file.
  let respelled: [(module: String, file: String)]
  /// Modules of the other parts.
  let others: [String]
  /// Whose `tie_word_embeddings` decides about the head.
  var tying = Tying.byWhole
  /// What llama.cpp calls the whole's text model, where that is another name than it has for the same model by itself.
  var architecture: String?
  /// Whether older configurations have the numbers of the text model among those of the whole.
  var isFlat = false

  /// What the names of text models that can be a part begin with, where they stand by themselves.
  static let prefix = "model."

  enum Tying {
    /// The whole's alone; the text model's alone; both tie it.
    case byWhole, byText, byEither
  }

  /// Text models whose head is the embedding's, where a configuration does not say: those of transformers 5.23.
  static let tiedByDefault: Set = ["gemma", "gemma2", "gemma3_text", "smollm3", "starcoder2", "falcon"]

  /// Whether the head is a module of the whole: it does without what the text model alone does to its scores.
  var ownsHead: Bool { head == "lm_head" }

  /// What the whole calls a parameter or a module of the text model, whichever of the two calls it so.
  package func whole(_ name: String) -> String {
    if own(name) != nil { return name }
    if name.hasPrefix(Self.prefix) { return path + name.dropFirst(Self.prefix.count) }
    return name == "lm_head" || name.hasPrefix("lm_head.") ? head + name.dropFirst("lm_head".count) : name
  }

  /// What the text model alone calls a parameter of the whole, as modules are spelled; nil for those of other parts.
  package func own(_ name: String) -> String? {
    if name.hasPrefix(path) { return Self.prefix + name.dropFirst(path.count) }
    return name == head || name.hasPrefix(head + ".") ? "lm_head" + name.dropFirst(head.count) : nil
  }

  /// A path as files spell it.
  func inFiles(_ path: String) -> String {
    respelled.lazy.compactMap { Self.moved(path, from: $0.module, to: $0.file) }.first ?? path
  }

  /// A path as modules are called, whichever of the two it was.
  package func inModules(_ path: String) -> String {
    if respelled.contains(where: { Self.moved(path, from: $0.module, to: "") != nil }) { return path }
    return respelled.lazy.compactMap { Self.moved(path, from: $0.file, to: $0.module) }.first ?? path
  }

  private static func moved(_ path: String, from old: String, to new: String) -> String? {
    if path == old { return new }
    return path.hasPrefix(old + ".") ? new + path.dropFirst(old.count) : nil
  }
}

extension TextPart {
  /// Of transformers 5.23: its classes of models with pictures whose texts alone are those of a family that runs.
  package static let all: [TextPart] = [
    llava(["gemma3"], usual: "gemma3_text"), llava(["mistral3"], usual: "mistral", architecture: "mistral3"), llava(["llava"], usual: "llama", tying: .byEither),
    llava(["internvl"], usual: "qwen2"),
    TextPart(
      modelTypes: ["llama4"], usual: "llama4_text", path: "language_model.model.", head: "language_model.lm_head", respelled: [],
      others: ["vision_model", "multi_modal_projector"], tying: .byText),
    TextPart(
      modelTypes: ["smolvlm", "idefics3"], usual: "llama", path: "model.text_model.", head: "lm_head", respelled: [],
      others: ["model.vision_model", "model.connector"]),
    qwen("qwen2_vl"), qwen("qwen2_5_vl"),
    TextPart(
      modelTypes: ["qwen3_vl"], usual: "qwen3_vl_text", path: "model.language_model.", head: "lm_head", respelled: [], others: ["model.visual"]),
  ]

  /// What shares LLaVA's modules.
  private static func llava(_ types: [String], usual: String, tying: Tying = .byWhole, architecture: String? = nil) -> TextPart {
    TextPart(
      modelTypes: types, usual: usual, path: "model.language_model.", head: "lm_head",
      respelled: [
        ("model.language_model", "language_model.model"), ("lm_head", "language_model.lm_head"), ("model.vision_tower", "vision_tower"),
        ("model.multi_modal_projector", "multi_modal_projector"),
      ], others: ["model.vision_tower", "model.multi_modal_projector"], tying: tying, architecture: architecture)
  }

  /// What shares Qwen2-VL's.
  private static func qwen(_ type: String) -> TextPart {
    TextPart(
      modelTypes: [type], usual: type + "_text", path: "model.language_model.", head: "lm_head",
      respelled: [("model.visual", "visual"), ("model.language_model", "model")], others: ["model.visual"], tying: .byEither, isFlat: true)
  }

  package static var modelTypes: [String] { all.flatMap(\.modelTypes) }

  static func of(_ modelType: String?) -> TextPart? { modelType.flatMap { type in all.first { $0.modelTypes.contains(type) } } }

  /// Whether a module or a parameter belongs to another part than the text model's, whichever way it is spelled.
  package func isOther(_ name: String) -> Bool {
    let module = inModules(name)
    return others.contains { Self.moved(module, from: $0, to: "") != nil }
  }
}
