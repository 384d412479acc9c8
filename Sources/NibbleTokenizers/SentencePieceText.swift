/// How the pieces of a SentencePiece model read, as its library decodes them.
struct SentencePieceText: Sendable {
  enum Kind: UInt8, Sendable {
    case normal = 1, unknown, control, userDefined, unused, byte
  }

  let kinds: [Kind]
  let pieces: Vocabulary
  /// What an unknown piece reads as.
  let unknown: [UInt8]
  /// Whether a space at the start is one that encoding put there.
  let dropsFirstSpace: Bool
  /// Whether spaces at the start are no part of the text at all.
  let dropsAllFirstSpaces: Bool

  static let space: [UInt8] = Array("▁".utf8)

  /// The text of a piece; bytes that may still become a character are put into `held`.
  func bytes(of id: Int, _ held: inout [UInt8], isFirst: Bool) -> [UInt8] {
    guard kinds.indices.contains(id) else { return [] }
    if kinds[id] == .byte {
      held.append(DecodeStage.byte(of: pieces[id] ?? []) ?? 0)
      return complete(&held)
    }
    var result = held.flatMap { _ in replacementCharacter }
    held = []
    switch kinds[id] {
    case .control: break
    case .unknown: result += unknown
    default:
      var piece = (pieces[id] ?? [])[...]
      if isFirst, result.isEmpty, dropsFirstSpace || dropsAllFirstSpaces, piece.starts(with: Self.space) {
        piece.removeFirst(Self.space.count)
      }
      result += replaced(Array(piece), Self.space, with: [UInt8(ascii: " ")])
    }
    return result
  }

  /// Whether the piece ends the start of the text even if it reads as nothing.
  func startsWord(_ id: Int) -> Bool {
    guard !dropsAllFirstSpaces, kinds.indices.contains(id), kinds[id] != .control, kinds[id] != .byte else { return false }
    return (pieces[id] ?? []).starts(with: Self.space)
  }

  /// Takes whole characters from the front of `held`, U+FFFD for each byte that can start none.
  private func complete(_ held: inout [UInt8]) -> [UInt8] {
    var result: [UInt8] = []
    while let lead = held.first {
      let length = utf8Length(lead)
      if held.count >= length, String(validating: held[..<length], as: UTF8.self) != nil {
        result += held[..<length]
        held.removeFirst(length)
      } else if incompleteSuffix(of: held) == held.count {
        break
      } else {
        result += replacementCharacter
        held.removeFirst()
      }
    }
    return result
  }
}
