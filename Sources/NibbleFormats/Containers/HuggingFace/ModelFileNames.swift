import NibbleCore

/// The small files of a model folder that belong to the model.
package enum ModelFileNames {
  private static let names: Set<String> = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "config_sentence_transformers.json", "sentence_bert_config.json", "modules.json", "special_tokens.json",
  ]

  /// Whether a file of a model folder travels with the weights.
  static func isCarried(_ name: String) -> Bool {
    if name.hasPrefix(".") || name.utf8.contains(UInt8(ascii: "/")) { return false }
    // Terms under which a model may be used travel with it.
    return names.contains(name) || name.hasSuffix(".jinja")
      || ["LICENSE", "LICENCE", "NOTICE"].contains { name.uppercased().hasPrefix($0) }
  }

  /// A folder of chat templates by name.
  static let templates = "additional_chat_templates"

  /// Whether a folder is called as sentence-transformers calls those of a model's parts: `1_Pooling`.
  static func isModule(_ folder: String) -> Bool {
    guard let line = folder.firstIndex(of: "_"), line != folder.startIndex, folder.utf8.count <= 100 else { return false }
    func isLetter(_ byte: UInt8) -> Bool { byte < 0x80 && (Character(Unicode.Scalar(byte)).isLetter || byte == 0x5F) }
    func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
    let rest = folder[folder.index(after: line)...].utf8
    return folder[..<line].utf8.allSatisfy(isDigit) && !rest.isEmpty && rest.allSatisfy { isLetter($0) || isDigit($0) }
  }

  /// Whether `name`, which comes from a file, can stand in a model folder beside the weights: a file there, or one in a folder for chat
  /// templates or a model's part.
  static func isPlain(_ name: String) -> Bool {
    guard let slash = name.utf8.firstIndex(of: UInt8(ascii: "/")) else { return isPlainFile(name) && !name.hasSuffix(".safetensors") }
    let (folder, file) = (String(name[..<slash]), String(name[name.utf8.index(after: slash)...]))
    guard name.utf8.count <= 255, isPlainFile(file) else { return false }
    // Pickles, which are read by no one here, do not travel.
    return folder == templates ? file.hasSuffix(".jinja") : isModule(folder) && !file.hasSuffix(".bin")
  }

  private static func isPlainFile(_ name: String) -> Bool {
    !name.isEmpty && name.utf8.count <= 255 && !name.hasPrefix(".")
      && name != SideRecord.fileName && name != "model.safetensors.index.json"
      && name.utf8.allSatisfy { $0 > 0x1F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "\\") && $0 != 0x7F }
  }

  /// Whether a verb that writes model folders may have written `name`, a file or `folder/file`.
  @Sendable package static func isOurs(_ name: String) -> Bool {
    if name.utf8.contains(UInt8(ascii: "/")) { return isPlain(name) }
    if [OnnxLayout.modelName, OnnxLayout.dataName].contains(name) { return true }
    if isCarried(name) || name == SideRecord.fileName || name == "model.safetensors.index.json" { return true }
    return name.hasPrefix("model") && (name.hasSuffix(".safetensors") || name.hasSuffix(".gguf"))
  }
}
