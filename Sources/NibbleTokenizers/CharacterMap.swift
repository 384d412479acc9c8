import NibbleCore

/// SentencePiece's table of replacements: a trie of texts, each with what stands for it.
///
/// The trie is a double array ("Darts"), and a file can hold any numbers. They are checked once, so that neither this
/// code nor libsentencepiece, which does not look, ever follows one out of the array.
struct CharacterMap: Sendable {
  private let units: [UInt32]
  private let replacements: [UInt8]

  /// Checks and takes a `precompiled_charsmap`.
  init(_ bytes: [UInt8], place: String) throws {
    func word(_ at: Int) -> UInt32 {
      UInt32(bytes[at]) | UInt32(bytes[at + 1]) << 8 | UInt32(bytes[at + 2]) << 16 | UInt32(bytes[at + 3]) << 24
    }
    func broken(_ what: MessageText) -> NibbleError { .badInput("\(path: place): the table of character replacements \(what)") }
    guard bytes.count > 4 else { throw broken("has \(bytes.count) bytes") }
    let length = Int(word(0))
    guard length >= 4, length % 4 == 0, length < bytes.count - 4 else {
      throw broken("of \(bytes.count) bytes has a trie of \(length)")
    }
    let count = length / 4
    units = (0..<count).map { word(4 + 4 * $0) }
    replacements = Array(bytes[(4 + length)...])
    guard replacements.last == 0 else { throw broken("does not end its last text") }
    guard units[0] >> 31 == 0 else { throw broken("does not start with a step") }
    for (index, unit) in units.enumerated() {
      if unit >> 31 == 1 {
        guard Int(unit & 0x7FFF_FFFF) < replacements.count else { throw broken("names a text that is not there") }
      } else {
        // A step goes to this place, exclusive-ored with one byte: anywhere in one block of 256.
        let block = (index ^ Self.offset(unit)) & ~0xFF
        guard block < count, block + 255 < count else { throw broken("has a step to nowhere") }
        // Where a text ends, its value is in the block's first unit.
        if unit >> 8 & 1 == 1 {
          let leaf = units[index ^ Self.offset(unit)]
          guard Int(leaf & 0x7FFF_FFFF) < replacements.count else { throw broken("names a text that is not there") }
        }
      }
    }
  }

  private static func offset(_ unit: UInt32) -> Int { Int(unit >> 10) << Int((unit & 1 << 9) >> 6) }

  /// What stands for the shortest start of `text` that is in the table.
  private func replacement(for text: some Sequence<UInt8>) -> ArraySlice<UInt8>? {
    var at = Self.offset(units[0])
    for byte in text {
      at ^= Int(byte)
      let unit = units[at]
      guard unit & (1 << 31 | 0xFF) == UInt32(byte) else { return nil }
      at ^= Self.offset(unit)
      if unit >> 8 & 1 == 1 {
        let start = Int(units[at] & 0x7FFF_FFFF)
        return replacements[start...].prefix { $0 != 0 }
      }
    }
    return nil
  }

  /// `text` with replacements made, as Hugging Face's library makes them: a short grapheme at a time, else a character.
  func apply(_ text: [UInt8]) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(text.count)
    for grapheme in String(decoding: text, as: UTF8.self) {
      let bytes = Array(grapheme.utf8)
      if bytes.count < 6, let new = replacement(for: bytes) {
        result.append(contentsOf: new)
        continue
      }
      for scalar in grapheme.unicodeScalars {
        let part = UTF8.encode(scalar) ?? .init()
        if let new = replacement(for: part) {
          result.append(contentsOf: new)
        } else {
          result.append(contentsOf: part)
        }
      }
    }
    return result
  }
}
