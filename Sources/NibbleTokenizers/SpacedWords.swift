/// A text's words as a SentencePiece model takes them one by one: each with the spaces before it but the last, which
/// the library puts there itself.
struct SpacedWords {
  private let text: UnsafeBufferPointer<UInt8>
  private var at = 0

  init(_ text: UnsafeBufferPointer<UInt8>) { self.text = text }

  mutating func next() -> UnsafeBufferPointer<UInt8>? {
    guard at < text.count else { return nil }
    var end = at
    while end < text.count, let length = Self.space(text, end) { end += length }
    while end < text.count, Self.space(text, end) == nil { end += 1 }
    // A last space cannot be a text of its own: the library makes nothing of an empty text.
    if let length = Self.space(text, end), end + length == text.count { end = text.count }
    defer { at = end + (Self.space(text, end) ?? 0) }
    return UnsafeBufferPointer(rebasing: text[at..<end])
  }

  static func hasSpace(_ word: UnsafeBufferPointer<UInt8>) -> Bool { word.indices.contains { space(word, $0) != nil } }

  /// The length of the space at a place: a space, or the mark it becomes.
  private static func space(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Int? {
    guard at < text.count else { return nil }
    if text[at] == UInt8(ascii: " ") { return 1 }
    return text[at] == 0xE2 && at + 2 < text.count && text[at + 1] == 0x96 && text[at + 2] == 0x81 ? 3 : nil
  }
}

extension SentencePieceFile {
  /// Whether a text can be encoded word by word: nothing is normalized, the library itself puts a space in front, and
  /// no piece goes on over a space, so that no merge does.
  var wordsAreApart: Bool {
    let space = SentencePieceText.space
    guard isBytePairs, addsDummyPrefix, !removesExtraSpaces, escapesSpaces, !hasCharacterMap, !treatsSpaceAsSuffix,
      pieces.contains(where: { $0.text == space && $0.kind == .normal })
    else { return false }
    return pieces.allSatisfy { piece in
      switch piece.kind {
      case .normal, .unused:
        var rest = piece.text[...]
        while rest.starts(with: space) { rest.removeFirst(space.count) }
        return !rest.indices.contains { rest[$0...].starts(with: space) }
      // These are found in the text before anything is merged.
      case .userDefined: return !piece.text.indices.contains { piece.text[$0...].starts(with: space) }
      case .control, .unknown, .byte: return true
      }
    }
  }
}
