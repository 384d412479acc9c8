/// GPT-2's spelling of bytes as characters, in which byte-level tokens are written down: `Ġthe` for ` the`.
enum ByteAlphabet {
  /// The UTF-8 of the character for each byte.
  static let characters: [[UInt8]] = scalars.map { Array(String(Character($0)).utf8) }

  private static let scalars: [Unicode.Scalar] = {
    var next: UInt32 = 0x100
    return (UInt32(0)..<256).map { byte in
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: return Unicode.Scalar(byte) ?? " "
      default:
        defer { next += 1 }
        return Unicode.Scalar(next) ?? " "
      }
    }
  }()

  /// The byte for each character below U+0144.
  private static let bytes: [UInt8?] = {
    var table = [UInt8?](repeating: nil, count: 0x144)
    for (byte, scalar) in scalars.enumerated() { table[Int(scalar.value)] = UInt8(byte) }
    return table
  }()

  /// The bytes that `text` spells; nil if it has a character outside the alphabet.
  static func bytes(spelledBy text: [UInt8]) -> [UInt8]? {
    var result: [UInt8] = []
    result.reserveCapacity(text.count)
    var at = 0
    while at < text.count {
      // All of the alphabet is one or two bytes in UTF-8.
      let length = utf8Length(text[at])
      guard length <= 2, at + length <= text.count else { return nil }
      let value = length == 1 ? Int(text[at]) : Int(text[at] & 0x1F) << 6 | Int(text[at + 1] & 0x3F)
      guard value < bytes.count, let byte = bytes[value] else { return nil }
      result.append(byte)
      at += length
    }
    return result
  }

  /// `bytes` in the alphabet's spelling.
  static func spelling(of bytes: [UInt8]) -> [UInt8] { bytes.flatMap { characters[Int($0)] } }
}
