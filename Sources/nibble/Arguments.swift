import NibbleCore

/// What is done to the words of the command line before they are parsed.
enum Arguments {
  /// The words of this run, as they were parsed.
  nonisolated(unsafe) static var words: [String] = []

  /// Which of these flags the command line or its `--config` gives.
  static func given(_ flags: [String]) -> [String] {
    flags.filter { flag in words.contains { $0 == flag || $0.hasPrefix(flag + "=") } }
  }

  /// Hugging Face's snake_case flags become kebab-case, and what a `--config` file says is put in front of the flags,
  /// unless a flag says it too.
  static func normalized(_ words: [String]) throws -> [String] {
    self.words = try withConfiguration(kebabCase(words))
    return self.words
  }

  /// Whether the words are `--version -v`, in either order.
  static func asksForDetails(_ words: [String]) -> Bool {
    words.count == 2 && words.contains("--version") && words.contains { ["-v", "--verbose"].contains($0) }
  }

  private static func withConfiguration(_ words: [String]) throws -> [String] {
    var words = words
    guard let path = take("--config", from: &words) else { return words }
    guard let verb = words.first, !verb.hasPrefix("-") else { return words }
    let (valued, bare) = try flags(path, given: words)
    // Flags without a value go last, where they cannot take the next word for one.
    let end = words.firstIndex(of: "--") ?? words.count
    let verbs = ["plan", "adapter"].contains(verb) && end > 1 ? 2 : 1
    return words[..<verbs] + valued + words[verbs..<end] + bare + words[end...]
  }

  private static func kebabCase(_ words: [String]) -> [String] {
    var isLiteral = false
    return words.map { word in
      if word == "--" { isLiteral = true }
      guard !isLiteral, word.hasPrefix("--") else { return word }
      let name = word.prefix { $0 != "=" }
      return String(name.map { $0 == "_" ? "-" : $0 }) + word.dropFirst(name.count)
    }
  }

  /// Takes a flag and its value out of the words.
  private static func take(_ flag: String, from words: inout [String]) -> String? {
    if let at = words.firstIndex(of: flag), at + 1 < words.count {
      defer { words.removeSubrange(at...at + 1) }
      return words[at + 1]
    }
    if let at = words.firstIndex(where: { $0.hasPrefix(flag + "=") }) {
      return String(words.remove(at: at).dropFirst(flag.count + 1))
    }
    return nil
  }

  /// Flags that take a list between commas, and those that may be repeated.
  static let lists: Set = ["target-modules", "exclude-modules", "modules-to-save", "labels"]
  private static let repeatable: Set = [
    "rank-pattern", "alpha-pattern", "lambda-pattern", "learning-rate-pattern", "method-option", "eval-option", "no-decay", "trainable-token-indices", "tensor",
    "keep", "adapter", "use", "stop",
  ]
  /// Switches that are on unless they are turned off, or may be either.
  private static let invertible: Set = ["double-quant", "gradient-checkpointing", "check"]
  private static let short = ["output": "-o", "threads": "-j", "quiet": "-q", "verbose": "-v"]

  /// The entries of a YAML file as flags: texts and numbers as values, lists as repeated flags, true and false as
  /// switches.
  private static func flags(_ path: String, given words: [String]) throws -> (valued: [String], bare: [String]) {
    let file = try InputFile(path)
    guard file.size <= 1 << 20 else { throw NibbleError.usage("\(path: path): a configuration of \(file.size) bytes") }
    let text = String(decoding: try file.bytes(at: 0, count: file.size), as: UTF8.self)
    guard let node = try YAML.parse(text, place: path) else { return ([], []) }
    if case .scalar("") = node { return ([], []) }
    guard case .mapping(let entries) = node else {
      throw NibbleError.usage("\(path: path): not a list of 'flag: value' lines")
    }
    var flags: (valued: [String], bare: [String]) = ([], [])
    for (key, value) in entries.map({ ($0.key, $0.value) }) {
      let name = String(key.map { $0 == "_" ? "-" : $0 })
      let isGiven = words.contains { word in
        word == "--" + name || word.hasPrefix("--" + name + "=") || word == "--no-" + name
          || short[name].map { word.hasPrefix($0) } ?? false
      }
      if isGiven { continue }
      let elements = if case .sequence(let list) = value { list } else { [value] }
      var scalars = try elements.map { element in
        guard case .scalar(let scalar) = element else {
          throw NibbleError.usage("\(path: path): the value of '\(name)' is neither a text nor a list of texts")
        }
        return scalar
      }
      if lists.contains(name) { scalars = [scalars.joined(separator: ",")] }
      guard scalars.count == 1 || repeatable.contains(name) else {
        throw NibbleError.usage("\(path: path): '\(name)' takes one value, not a list of \(scalars.count)")
      }
      for scalar in scalars {
        switch scalar {
        case "true", "yes", "on": flags.bare.append("--" + name)
        // A switch that is off is one that is not given.
        case "false", "no", "off": if invertible.contains(name) { flags.bare.append("--no-" + name) }
        default: flags.valued.append("--\(name)=\(scalar)")
        }
      }
    }
    return flags
  }
}
