import NibbleCore
import NibbleFormats

/// A rule as it stood on the command line, with its place among all rules there.
struct RuleText: Sendable {
  enum Kind { case rule, keep }
  let kind: Kind
  let text: String
  let place: Int

  // The parser transforms values in the order it meets them, on one thread.
  private nonisolated(unsafe) static var places = 0

  init(_ kind: Kind, _ text: String) {
    self.kind = kind
    self.text = text
    place = Self.places
    Self.places += 1
  }

  /// The rules in the order of the command line, files unfolded.
  static func rules(_ texts: [RuleText]) throws -> [PackingRule] {
    try texts.sorted { $0.place < $1.place }.flatMap { text in
      try text.lines().map { try text.kind == .rule ? PackingRule($0) : PackingRule(keeping: $0) }
    }
  }

  /// The same for types of ggml's.
  static func ggufRules(_ texts: [RuleText]) throws -> [GgufRule] {
    try texts.sorted { $0.place < $1.place }.flatMap { text in
      try text.lines().map { try text.kind == .rule ? GgufRule($0) : GgufRule(keeping: $0) }
    }
  }

  private func lines() throws -> [String] {
    guard text.hasPrefix("@") else { return [text] }
    let path = String(text.dropFirst())
    guard !path.isEmpty else { throw NibbleError.usage("'@' without the name of a file") }
    let file = try InputFile(path)
    guard file.size <= 1 << 20 else { throw NibbleError.usage("\(path: path): a rule file of \(file.size) bytes") }
    guard var content = String(validating: try file.bytes(at: 0, count: file.size), as: UTF8.self) else {
      throw NibbleError.usage("\(path: path): not UTF-8")
    }
    if content.unicodeScalars.first == "\u{FEFF}" { content.unicodeScalars.removeFirst() }
    return content.split(whereSeparator: \.isNewline).map(String.init).filter { !$0.isEmpty && !$0.hasPrefix("#") }
  }
}
