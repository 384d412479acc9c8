/// A long text in parts that are tokenized one after another, so that the memory this takes depends on the parts, not on the text.
///
/// Parts begin where tokens do: after a single line break, else before a single space, else at any character. Except in the last case their tokens are
/// those of the whole text, unless a vocabulary has tokens across words or the tokenizer puts something before each text.
struct TextSegments: Sequence, IteratorProtocol {
  private var rest: Substring
  private let size: Int
  /// Bytes after `size` in which a place to cut is looked for.
  private var reach: Int { Swift.min(size, 1 << 16) }

  /// - Parameter size: bytes of a part, at least
  init(_ text: String, size: Int) { (rest, self.size) = (Substring(text), Swift.max(1, size)) }

  mutating func next() -> Substring? {
    guard !rest.isEmpty else { return nil }
    let bytes = rest.utf8
    guard bytes.count > size + reach else {
      defer { rest = "" }
      return rest
    }
    let end = cut(in: bytes, from: bytes.index(bytes.startIndex, offsetBy: size))
    defer { rest = rest[end...] }
    return rest[..<end]
  }

  private func cut(in bytes: Substring.UTF8View, from start: Substring.Index) -> Substring.Index {
    let range = bytes[start..<bytes.index(start, offsetBy: reach)]
    let (newline, space): (UInt8, UInt8) = (0x0A, 0x20)
    let isBlank: (Substring.Index) -> Bool = { bytes[$0] == newline || bytes[$0] == space || bytes[$0] == 0x0D || bytes[$0] == 0x09 }
    for index in range.indices where bytes[index] == newline && !isBlank(bytes.index(after: index)) && !isBlank(bytes.index(before: index)) { return bytes.index(after: index) }
    for index in range.indices where bytes[index] == space && !isBlank(bytes.index(after: index)) && !isBlank(bytes.index(before: index)) { return index }
    return range.indices.first { bytes[$0] & 0xC0 != 0x80 } ?? start
  }
}
