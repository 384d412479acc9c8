import NibbleCore

/// How tokens become text: one step of several.
enum DecodeStep: Sendable {
  /// Characters back to bytes, all tokens together to text. `spelled` is false where tokens are bytes already.
  case byteLevel(spelled: Bool)
  case replace(TextPattern, with: [UInt8])
  /// `<0x41>` to a byte; bytes that follow each other to characters, or to U+FFFD each if they are none.
  case byteFallback
  /// All tokens to one.
  case fuse
  case strip([UInt8], start: Int, stop: Int)
  case metaspace([UInt8], dropsFirst: Bool)
  case wordPiece(prefix: [UInt8], cleansUp: Bool)
  /// The mark of a word's end to a space, but for the last token's.
  case bytePairs(suffix: [UInt8])
  /// A space between tokens: what is done where no decoder is named.
  case join
  /// SentencePiece: see `SentencePieceText`.
  case sentencePiece(SentencePieceText)

  /// Whether the step makes one token of all.
  var fuses: Bool {
    switch self {
    case .byteLevel, .fuse: true
    default: false
    }
  }
}

/// A token on its way to text.
struct DecodedToken {
  var bytes: [UInt8]
  /// Kept for those steps that ask what kind of token it was.
  var id: Int
}

/// A decode step at work on a stream of tokens: what can be said for certain is passed on, the rest waits.
struct DecodeStage {
  /// Bytes a token may grow to: rules of a file can double it again and again.
  private static let limit = 1 << 20

  private let step: DecodeStep
  /// Whether tokens are parts of one, which an earlier step fused.
  private let isFused: Bool
  private var count = 0
  private var held: [UInt8] = []
  private var hasHeld = false

  init(_ step: DecodeStep, isFused: Bool) {
    self.step = step
    self.isFused = isFused
  }

  mutating func feed(_ token: DecodedToken, to output: (DecodedToken) throws -> Void) throws {
    defer { count += 1 }
    var token = token
    switch step {
    case .byteLevel(let spelled):
      held.append(contentsOf: spelled ? ByteAlphabet.bytes(spelledBy: token.bytes) ?? token.bytes : token.bytes)
      let whole = held.count - incompleteSuffix(of: held)
      token.bytes = Array(String(decoding: held[..<whole], as: UTF8.self).utf8)
      held.removeSubrange(..<whole)
    case .replace(let pattern, let content):
      token.bytes = try pattern.replacing(in: token.bytes, with: content, limit: Self.limit)
    case .byteFallback:
      if let byte = Self.byte(of: token.bytes) {
        held.append(byte)
        return
      }
      try flushBytes(to: output)
    case .fuse: break
    case .strip(let character, let start, let stop): token.bytes = strip(token.bytes, character, start, stop)
    case .metaspace(let mark, let dropsFirst):
      token.bytes = replaced(token.bytes, mark, with: count == 0 && dropsFirst ? [] : [UInt8(ascii: " ")])
    case .wordPiece(let prefix, let cleansUp):
      if count > 0 {
        if token.bytes.starts(with: prefix) {
          token.bytes.removeFirst(prefix.count)
        } else {
          token.bytes.insert(UInt8(ascii: " "), at: 0)
        }
      }
      if cleansUp { token.bytes = WordPieceCleanup.apply(token.bytes) }
    case .bytePairs(let suffix):
      // Whether this is the last is known when the next one comes.
      if hasHeld { try output(DecodedToken(bytes: replaced(held, suffix, with: [UInt8(ascii: " ")]), id: -1)) }
      held = token.bytes
      hasHeld = true
      return
    case .join: if count > 0 { token.bytes.insert(UInt8(ascii: " "), at: 0) }
    case .sentencePiece(let text):
      token.bytes = text.bytes(of: token.id, &held, isFirst: !hasHeld)
      if !token.bytes.isEmpty || text.startsWord(token.id) { hasHeld = true }
    }
    try output(token)
  }

  mutating func finish(to output: (DecodedToken) throws -> Void) throws {
    switch step {
    case .byteLevel:
      if !held.isEmpty { try output(DecodedToken(bytes: Array(String(decoding: held, as: UTF8.self).utf8), id: -1)) }
    case .byteFallback: try flushBytes(to: output)
    case .bytePairs(let suffix):
      if hasHeld { try output(DecodedToken(bytes: replaced(held, suffix, with: []), id: -1)) }
    case .sentencePiece: try output(DecodedToken(bytes: held.flatMap { _ in replacementCharacter }, id: -1))
    default: break
    }
    held = []
  }

  private mutating func flushBytes(to output: (DecodedToken) throws -> Void) throws {
    if held.isEmpty { return }
    if String(validating: held, as: UTF8.self) != nil {
      try output(DecodedToken(bytes: held, id: -1))
    } else {
      for _ in held { try output(DecodedToken(bytes: replacementCharacter, id: -1)) }
    }
    held = []
  }

  private mutating func strip(_ bytes: [UInt8], _ character: [UInt8], _ start: Int, _ stop: Int) -> [UInt8] {
    var text = bytes[...]
    // In a fused token `held` counts what was taken from its start; one that has ended is marked by `hasHeld`.
    if !isFused {
      held = []
      hasHeld = false
    }
    while !hasHeld, !text.isEmpty, held.count < start {
      guard text.starts(with: character) else {
        hasHeld = true
        break
      }
      text.removeFirst(character.count)
      held.append(0)
    }
    var taken = 0
    while taken < stop, text.count >= character.count, text.suffix(character.count).elementsEqual(character) {
      text.removeLast(character.count)
      taken += 1
    }
    return Array(text)
  }

  /// The byte that a token such as `<0x41>` stands for.
  static func byte(of token: [UInt8]) -> UInt8? {
    guard token.count == 6, token.starts(with: "<0x".utf8), token[5] == UInt8(ascii: ">") else { return nil }
    return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
  }
}

let replacementCharacter: [UInt8] = [0xEF, 0xBF, 0xBD]

/// `bytes` with every `mark` replaced.
func replaced(_ bytes: [UInt8], _ mark: [UInt8], with content: [UInt8]) -> [UInt8] {
  guard let first = mark.first else { return bytes }
  var result: [UInt8] = []
  var at = 0
  while at < bytes.count {
    if bytes[at] == first, bytes[at...].starts(with: mark) {
      result.append(contentsOf: content)
      at += mark.count
    } else {
      result.append(bytes[at])
      at += 1
    }
  }
  return result
}

/// How many bytes at the end of `bytes` are the start of a character whose rest may still come.
func incompleteSuffix(of bytes: [UInt8]) -> Int {
  for length in 1...3 where length <= bytes.count {
    let lead = bytes[bytes.count - length]
    if lead & 0xC0 == 0x80 { continue }
    guard (0xC2...0xF4).contains(lead), utf8Length(lead) > length else { return 0 }
    if length > 1 {
      let second = bytes[bytes.count - length + 1]
      let allowed: ClosedRange<UInt8> =
        switch lead {
        case 0xE0: 0xA0...0xBF
        case 0xED: 0x80...0x9F
        case 0xF0: 0x90...0xBF
        case 0xF4: 0x80...0x8F
        default: 0x80...0xBF
        }
      guard allowed.contains(second) else { return 0 }
    }
    return length
  }
  return 0
}

/// The spaces that WordPiece's decoder takes out again, in its order.
enum WordPieceCleanup {
  private static let rules: [(String, String)] = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
  ]

  static func apply(_ token: [UInt8]) -> [UInt8] {
    guard token.contains(UInt8(ascii: " ")) else { return token }
    return rules.reduce(token) { replaced($0, Array($1.0.utf8), with: Array($1.1.utf8)) }
  }
}
