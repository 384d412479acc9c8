import NibbleCore

/// Texts a model is judged on.
public struct Documents: Sendable {
  /// A text, and where it stands.
  public struct Document: Sendable {
    public let text: String
    public let place: String
  }

  public let documents: [Document]

  /// Reads a JSON Lines file of rows with a `text`, or any other file as text.
  ///
  /// A text file is one document, unless lines that say `<|endoftext|>` divide it.
  ///
  /// - Throws: `.badInput` naming file and line
  public init(_ path: String) throws {
    let lower = path.lowercased()
    documents = lower.hasSuffix(".jsonl") || lower.hasSuffix(".ndjson") ? try Self.rows(path) : try Self.texts(path)
    guard !documents.isEmpty else { throw NibbleError.badInput("\(path): no text in it") }
  }

  private static func rows(_ path: String) throws -> [Document] {
    var documents: [Document] = []
    try JSONLines.forEach(path) { row, place in
      guard let text = row["text"]?.string else { throw NibbleError.badInput("\(place): a row without a 'text'") }
      documents.append(Document(text: text, place: place))
    }
    return documents
  }

  private static func texts(_ path: String) throws -> [Document] {
    let file = try InputFile(path)
    guard file.size <= 1 << 32 else { throw NibbleError.badInput("\(path): \(file.size) bytes are too many for a text") }
    guard let text = String(validating: try file.bytes(at: 0, count: file.size), as: UTF8.self) else { throw NibbleError.badInput("\(path): not UTF-8") }
    var documents: [Document] = []
    var lines: [Substring] = []
    var first = 1
    var number = 0
    func close() {
      // Line breaks around a divider belong to the divider.
      let body = lines.joined(separator: "\n").trimmingLineBreaks
      if !body.isEmpty { documents.append(Document(text: body, place: "\(path):\(first)")) }
      lines = []
      first = number + 1
    }
    // A lone file is a document as it stands, its last line break included.
    guard text.contains("<|endoftext|>") else { return text.isEmpty ? [] : [Document(text: text, place: path)] }
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      number += 1
      if line == "<|endoftext|>" { close() } else { lines.append(line) }
    }
    close()
    return documents
  }
}

extension String {
  var trimmingLineBreaks: String {
    var view = self[...]
    while let first = view.first, first.isNewline { view = view.dropFirst() }
    while let last = view.last, last.isNewline { view = view.dropLast() }
    return String(view)
  }
}
