import NibbleCore

/// What is done to the words of the command line before they are parsed.
enum Arguments {
  /// Hugging Face's snake_case flags become kebab-case: `--block_size` is `--block-size`.
  static func normalized(_ words: [String]) throws -> [String] {
    var isLiteral = false
    return words.map { word in
      if word == "--" { isLiteral = true }
      guard !isLiteral, word.hasPrefix("--") else { return word }
      let name = word.prefix { $0 != "=" }
      return String(name.map { $0 == "_" ? "-" : $0 }) + word.dropFirst(name.count)
    }
  }
}
