import NibbleCore

/// How a row becomes a prompt: a text in which `{key}` stands for the row's text under that key; `{{` and `}}` are braces.
public struct PromptFormat: Sendable, Equatable {
  private enum Part: Equatable { case text(String), key(String) }
  private let parts: [Part]

  /// - Throws: `.usage` for braces that do not match
  public init(_ text: String) throws {
    var (parts, own) = ([Part](), "")
    var rest = Substring(text)
    while let first = rest.first {
      if rest.hasPrefix("{{") || rest.hasPrefix("}}") {
        own.append(first)
        rest = rest.dropFirst(2)
      } else if first == "{" {
        guard let end = rest.firstIndex(of: "}") else { throw NibbleError.usage("a prompt format \(quoted(text)) has a '{' without its '}'; '{{' is a brace") }
        let key = rest[rest.index(after: rest.startIndex)..<end]
        guard !key.isEmpty, !key.contains("{") else { throw NibbleError.usage("a prompt format \(quoted(text)) has no key between '{' and '}'; '{{' is a brace") }
        if !own.isEmpty { parts.append(.text(own)) }
        own = ""
        parts.append(.key(String(key)))
        rest = rest[rest.index(after: end)...]
      } else if first == "}" {
        throw NibbleError.usage("a prompt format \(quoted(text)) has a '}' without its '{'; '}}' is a brace")
      } else {
        own.append(first)
        rest = rest.dropFirst()
      }
    }
    if !own.isEmpty { parts.append(.text(own)) }
    self.parts = parts
  }

  /// The prompt of a row.
  ///
  /// - Throws: `.badInput` naming the place, for a key that the row has not or whose value is neither a text nor a number
  public func prompt(_ row: JSON, place: String) throws -> String {
    try parts.map { part in
      switch part {
      case .text(let text): return text
      case .key(let key):
        if let text = row[key]?.string { return text }
        guard let value = row[key], value.double != nil else {
          throw NibbleError.badInput("\(path: place): \(key: key), which the prompt needs, is \(row[key] == nil ? "missing" : "no text")")
        }
        return value.text()
      }
    }.joined()
  }
}
