import NibbleCore

/// What is done to a text before it is split: one step, or several.
indirect enum Normalizer: Sendable {
  case form(UnicodeForm)
  case lowercase
  case strip(left: Bool, right: Bool)
  case stripAccents
  case replace(TextPattern, with: [UInt8])
  case prepend([UInt8])
  case bert(cleansText: Bool, spacesChinese: Bool, stripsAccents: Bool, lowercases: Bool)
  case byteLevel
  case precompiled(CharacterMap)
  case sequence([Normalizer])

  /// A text on its way, and whether its first character is still the original's first.
  struct Text {
    var bytes: [UInt8]
    var keepsStart = true
    /// Bytes it may grow to: rules of a file can double a text again and again.
    let limit: Int

    init(bytes: [UInt8]) {
      self.bytes = bytes
      limit = (1 << 20) + 64 * bytes.count
    }
  }

  func apply(_ text: inout Text) throws {
    switch self {
    case .form(let form): text.bytes = try form.apply(text.bytes)
    case .lowercase: text.bytes = lowercased(text.bytes)
    case .strip(let left, let right): strip(&text, left, right)
    case .stripAccents: filter(&text) { !CharacterClass.isMark($0) }
    case .replace(let pattern, let content): try replace(&text, pattern, content)
    case .prepend(let bytes): if !text.bytes.isEmpty { text.bytes = bytes + text.bytes }
    case .bert(let cleans, let spaces, let strips, let lowercases):
      if cleans {
        filter(&text) { !CharacterClass.isControl($0) && $0.value != 0 }
        text.bytes = mapped(text.bytes) { CharacterClass.isSpace($0) ? [" "] : [$0] }
      }
      if spaces { text.bytes = mapped(text.bytes) { CharacterClass.isChinese($0) ? [" ", $0, " "] : [$0] } }
      if strips {
        text.bytes = try UnicodeForm.nfd.apply(text.bytes)
        filter(&text) { !CharacterClass.isNonspacingMark($0) }
      }
      if lowercases { text.bytes = lowercased(text.bytes) }
    case .byteLevel: text.bytes = text.bytes.flatMap { ByteAlphabet.characters[Int($0)] }
    case .precompiled(let map): text.bytes = map.apply(text.bytes)
    case .sequence(let steps): for step in steps { try step.apply(&text) }
    }
  }

  private func lowercased(_ bytes: [UInt8]) -> [UInt8] {
    if bytes.allSatisfy({ $0 < 0x80 }) { return bytes.map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 } }
    var result: [UInt8] = []
    result.reserveCapacity(bytes.count)
    // Character by character: what stands around a sigma does not matter here.
    for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
      if scalar.value < 0x80 {
        let byte = UInt8(scalar.value)
        result.append((0x41...0x5A).contains(byte) ? byte | 0x20 : byte)
      } else {
        result.append(contentsOf: scalar.properties.lowercaseMapping.utf8)
      }
    }
    return result
  }

  private func mapped(_ bytes: [UInt8], _ change: (Unicode.Scalar) -> [Unicode.Scalar]) -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(bytes.count)
    for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars {
      for new in change(scalar) { result.append(contentsOf: UTF8.encode(new) ?? .init()) }
    }
    return result
  }

  private func filter(_ text: inout Text, _ keep: (Unicode.Scalar) -> Bool) {
    let scalars = String(decoding: text.bytes, as: UTF8.self).unicodeScalars
    guard let first = scalars.first else { return }
    if !keep(first) { text.keepsStart = false }
    var result: [UInt8] = []
    result.reserveCapacity(text.bytes.count)
    for scalar in scalars where keep(scalar) { result.append(contentsOf: UTF8.encode(scalar) ?? .init()) }
    text.bytes = result
  }

  private func strip(_ text: inout Text, _ left: Bool, _ right: Bool) {
    let scalars = String(decoding: text.bytes, as: UTF8.self).unicodeScalars
    var kept = scalars[...]
    if left { kept = kept.drop(while: CharacterClass.isSpace) }
    if kept.startIndex != scalars.startIndex { text.keepsStart = false }
    if right { while let last = kept.last, CharacterClass.isSpace(last) { kept.removeLast() } }
    text.bytes = Array(String(kept).utf8)
  }

  private func replace(_ text: inout Text, _ pattern: TextPattern, _ content: [UInt8]) throws {
    var takesStart = false
    let result = try pattern.replacing(in: text.bytes, with: content, limit: text.limit) { start, end in
      if start == 0, end > 0, content.isEmpty { takesStart = true }
    }
    if takesStart { text.keepsStart = false }
    text.bytes = result
  }
}
