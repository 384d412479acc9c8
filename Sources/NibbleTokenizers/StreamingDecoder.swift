import NibbleCore

/// Decodes tokens one after another.
///
/// What `feed` and `finish` return, put together, is what `decode` returns for all the tokens; no part ends within
/// a character.
public struct StreamingDecoder {
  private let tokenizer: Tokenizer
  private let skipsSpecialTokens: Bool
  private var stages: [DecodeStage]
  /// Where what comes after a step that fuses tokens needs them whole: everything, until the end.
  private let waits: Bool
  private var waiting: [UInt8] = []

  init(_ tokenizer: Tokenizer, skipsSpecialTokens: Bool) {
    self.tokenizer = tokenizer
    self.skipsSpecialTokens = skipsSpecialTokens
    let steps = tokenizer.decodeSteps
    let fusing = steps.firstIndex { $0.fuses } ?? steps.count
    waits = steps.dropFirst(fusing + 1).contains { step in
      switch step {
      case .fuse, .strip(_, start: _, stop: 0): false
      default: true
      }
    }
    // Then these stages see one whole token each, and the first fuses by waiting.
    let count = waits ? fusing + 1 : steps.count
    stages = steps.prefix(count).enumerated().map { DecodeStage($1, isFused: $0 > fusing) }
  }

  /// Takes the next token and returns the text that is certain now, often empty.
  ///
  /// - Throws: `.badInput` for an id that is no token's.
  public mutating func feed(_ id: Int) throws -> String {
    guard let bytes = tokenizer.bytesForDecoding(id) else { throw tokenizer.noSuchID(id) }
    if skipsSpecialTokens, tokenizer.isSpecial(id) { return "" }
    var text: [UInt8] = []
    try Self.feed(&stages, from: 0, DecodedToken(bytes: bytes, id: id), to: &text)
    if !waits { return String(decoding: text, as: UTF8.self) }
    waiting.append(contentsOf: text)
    return ""
  }

  /// Ends the text: returns what was held back.
  public mutating func finish() throws -> String {
    var text: [UInt8] = []
    for index in stages.indices {
      var tokens: [DecodedToken] = []
      try stages[index].finish { tokens.append($0) }
      for token in tokens { try Self.feed(&stages, from: index + 1, token, to: &text) }
    }
    if waits {
      let whole = DecodedToken(bytes: waiting + text, id: -1)
      waiting = []
      text = []
      var rest = tokenizer.decodeSteps.dropFirst(stages.count).map { DecodeStage($0, isFused: false) }
      try Self.feed(&rest, from: 0, whole, to: &text)
      for index in rest.indices {
        var tokens: [DecodedToken] = []
        try rest[index].finish { tokens.append($0) }
        for token in tokens { try Self.feed(&rest, from: index + 1, token, to: &text) }
      }
    }
    return String(decoding: text, as: UTF8.self)
  }

  private static func feed(
    _ stages: inout [DecodeStage], from index: Int, _ token: DecodedToken, to text: inout [UInt8]
  ) throws {
    guard index < stages.count else {
      text.append(contentsOf: token.bytes)
      return
    }
    var tokens: [DecodedToken] = []
    try stages[index].feed(token) { tokens.append($0) }
    for token in tokens { try feed(&stages, from: index + 1, token, to: &text) }
  }
}
