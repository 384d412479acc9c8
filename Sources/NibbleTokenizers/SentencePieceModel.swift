import CNibbleSentencePiece
import NibbleCore

/// A SentencePiece model, run by its own library.
final class SentencePieceModel: @unchecked Sendable {
  // The library's processor is read only once loaded.
  private let model: OpaquePointer
  private let wordsAreApart: Bool
  private let shelf = ScratchShelf()

  /// - Parameter file: what was read of `bytes`
  init(_ bytes: [UInt8], _ file: SentencePieceFile, place: String) throws {
    var reason = [CChar](repeating: 0, count: 300)
    guard let model = nibble_sentencepiece_open(bytes, bytes.count, &reason, reason.count) else {
      throw NibbleError.badInput("\(place): \(Self.text(reason))")
    }
    self.model = model
    wordsAreApart = Self.wordsAreApart(file)
  }

  deinit { nibble_sentencepiece_close(model) }

  /// Whether a text can be encoded word by word: nothing is normalized, the library itself puts a space in front, and
  /// no piece goes on over a space, so that no merge does.
  private static func wordsAreApart(_ file: SentencePieceFile) -> Bool {
    guard file.isBytePairs, file.addsDummyPrefix, !file.removesExtraSpaces, file.escapesSpaces, !file.hasCharacterMap,
      !file.treatsSpaceAsSuffix
    else { return false }
    let space = SentencePieceText.space
    return file.pieces.allSatisfy { piece in
      switch piece.kind {
      case .normal:
        var rest = piece.text[...]
        while rest.starts(with: space) { rest.removeFirst(space.count) }
        return !Self.contains(rest, space)
      // These are found in the text before anything is merged.
      case .userDefined, .unused: return false
      default: return true
      }
    }
  }

  private static func contains(_ text: ArraySlice<UInt8>, _ part: [UInt8]) -> Bool {
    text.indices.contains { text[$0...].starts(with: part) }
  }

  /// The ids of `text`, without a beginning or an end.
  func encode(_ text: [UInt8]) throws -> [UInt32] {
    guard wordsAreApart else { return try text.withUnsafeBufferPointer { try encodeWhole($0) } }
    var ids: [UInt32] = []
    ids.reserveCapacity(text.count / 3)
    try shelf.use { scratch in
      try text.withUnsafeBufferPointer { text in
        // Each word with the spaces before it, but for the last of them, which the library adds.
        var start = 0
        while start < text.count {
          var end = start
          while end < text.count, isSpace(text, end) { end += spaceLength(text, end) }
          while end < text.count, !isSpace(text, end) { end += 1 }
          // A last space cannot go alone: the library makes nothing of an empty text.
          if end < text.count, end + spaceLength(text, end) == text.count { end = text.count }
          let word = UnsafeBufferPointer(rebasing: text[start..<end])
          let isShort = word.count <= WordCache.maximumWord && !word.isEmpty
          let key = isShort ? hash(of: word) : 0
          if !(isShort && scratch.cache.append(word, hash: key, to: &ids)) {
            let before = ids.count
            ids.append(contentsOf: try encodeWhole(word))
            if isShort { scratch.cache.set(word, hash: key, to: ids[before...]) }
          }
          start = end
          if start < text.count { start += spaceLength(text, start) }
        }
      }
    }
    return ids
  }

  private func isSpace(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Bool {
    text[at] == UInt8(ascii: " ") || text[at] == 0xE2 && at + 2 < text.count && text[at + 1] == 0x96 && text[at + 2] == 0x81
  }

  private func spaceLength(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Int { text[at] == UInt8(ascii: " ") ? 1 : 3 }

  private func encodeWhole(_ text: UnsafeBufferPointer<UInt8>) throws -> [UInt32] {
    var reason = [CChar](repeating: 0, count: 300)
    var ids: UnsafeMutablePointer<Int32>?
    var count = 0
    guard nibble_sentencepiece_encode(model, text.baseAddress, text.count, &ids, &count, &reason, reason.count) == 0 else {
      throw NibbleError(.failed, Self.text(reason))
    }
    defer { nibble_sentencepiece_free(ids) }
    return UnsafeBufferPointer(start: ids, count: count).map { UInt32(bitPattern: $0) }
  }

  /// Decodes ids by the library, all at once.
  func decode(_ ids: [Int32]) throws -> String {
    var reason = [CChar](repeating: 0, count: 300)
    var text: UnsafeMutablePointer<UInt8>?
    var count = 0
    guard nibble_sentencepiece_decode(model, ids, ids.count, &text, &count, &reason, reason.count) == 0 else {
      throw NibbleError.badInput(Self.text(reason))
    }
    defer { nibble_sentencepiece_free(text) }
    return String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self)
  }

  private static func text(_ reason: [CChar]) -> String {
    String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
