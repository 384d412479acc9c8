import NibbleCore

/// Texts to evaluate a model on.
public struct Documents: Sendable {
  /// A text, and where it stands.
  public struct Document: Sendable {
    public let text: String
    public let place: String

    /// A text of some place.
    public init(text: String, place: String) { (self.text, self.place) = (text, place) }
  }

  public let documents: [Document]

  /// Reads JSON Lines, or a JSON array, of rows with a `text`; any other file as text.
  ///
  /// A text file is one document, unless lines that say `<|endoftext|>` divide it.
  ///
  /// - Throws: `.badInput` naming file and line
  public init(_ path: String) throws {
    let lower = path.lowercased()
    documents = [".jsonl", ".ndjson", ".json"].contains { lower.hasSuffix($0) } ? try Self.rows(path) : try Self.texts(path)
    guard !documents.isEmpty else { throw NibbleError.badInput("\(path: path): no text in it") }
  }

  private static func rows(_ path: String) throws -> [Document] {
    var documents: [Document] = []
    try JSONLines.forEachRow(path) { row, place in
      guard let text = row["text"]?.string else { throw NibbleError.badInput("\(path: place): a row without a 'text'") }
      documents.append(Document(text: text, place: place))
    }
    return documents
  }

  private static func texts(_ path: String) throws -> [Document] {
    let file = try InputFile(path)
    guard file.size <= 1 << 32 else { throw NibbleError.badInput("\(path: path): \(file.size) bytes are too many for a text") }
    guard let text = String(validating: try file.bytes(at: 0, count: file.size), as: UTF8.self) else {
      throw NibbleError.badInput("\(path: path): not UTF-8")
    }
    // Swift takes "\r\n" for one character: lines are those of the bytes.
    let lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    let dividers = lines.indices.filter { isDivider(lines[$0]) }
    // A lone file is a document as it stands, its last line break included.
    guard !dividers.isEmpty else { return text.isEmpty ? [] : [Document(text: text, place: path)] }
    var first = 0
    return (dividers + [lines.count]).compactMap { end in
      defer { first = end + 1 }
      // Empty lines around a divider belong to the divider.
      let isEmpty = { (line: Int) in lines[line].isEmpty || lines[line].elementsEqual("\r".utf8) }
      guard let from = (first..<end).first(where: { !isEmpty($0) }), let last = (first..<end).last(where: { !isEmpty($0) }) else {
        return nil
      }
      let body = Substring(text.utf8[lines[from].startIndex..<lines[last].endIndex])
      return Document(
        text: body.utf8.last == UInt8(ascii: "\r") ? String(decoding: body.utf8.dropLast(), as: UTF8.self) : String(body),
        place: "\(path):\(from + 1)")
    }
  }

  /// Whether a line says `<|endoftext|>` and nothing else but blanks around it.
  private static func isDivider(_ line: Substring.UTF8View) -> Bool {
    let isBlank = { (byte: UInt8) in byte == 0x20 || byte == 0x09 || byte == 0x0D }
    guard let first = line.firstIndex(where: { !isBlank($0) }), let last = line.lastIndex(where: { !isBlank($0) }) else {
      return false
    }
    return line[first...last].elementsEqual("<|endoftext|>".utf8)
  }
}
