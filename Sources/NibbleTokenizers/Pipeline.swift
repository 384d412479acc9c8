import NibbleCore

/// Text to ids, step by step: added tokens, normalizer, pre-tokenizer, model.
struct Pipeline: Sendable {
  enum Model: Sendable {
    case bytePairs(BytePairModel)
    case wordPiece(WordPieceModel)
    case unigram(UnigramModel)
    case wordLevel(Vocabulary, unknown: String)

    var tokens: Vocabulary {
      switch self {
      case .bytePairs(let model): model.tokens
      case .wordPiece(let model): model.tokens
      case .unigram(let model): model.tokens
      case .wordLevel(let tokens, _): tokens
      }
    }
  }

  var added: AddedTokens
  var normalizer: Normalizer?
  var preTokenizer: PreTokenizer?
  var model: Model
  private let shelf = ScratchShelf()

  init(added: AddedTokens, normalizer: Normalizer?, preTokenizer: PreTokenizer?, model: Model) {
    self.added = added
    self.normalizer = normalizer
    self.preTokenizer = preTokenizer
    self.model = model
  }

  /// The ids of `text` without any around it.
  func encode(_ text: [UInt8], specialAsText: Bool) throws -> [UInt32] {
    var ids: [UInt32] = []
    ids.reserveCapacity(text.count / 3)
    try shelf.use { scratch in
      for part in added.split(text, isNormalized: false, specialAsText: specialAsText) {
        switch part {
        case .token(let id): ids.append(UInt32(id))
        case .text(let range):
          let isWhole = range.count == text.count
          try encode(isWhole ? text : Array(text[range]), isFirst: range.lowerBound == 0, specialAsText, scratch, &ids)
        }
      }
    }
    return ids
  }

  private func encode(
    _ text: [UInt8], isFirst: Bool, _ specialAsText: Bool, _ scratch: EncoderScratch, _ ids: inout [UInt32]
  ) throws {
    var normal = Normalizer.Text(bytes: text)
    try normalizer?.apply(&normal)
    for part in added.split(normal.bytes, isNormalized: true, specialAsText: specialAsText) {
      switch part {
      case .token(let id): ids.append(UInt32(id))
      case .text(let range):
        let bytes = range.count == normal.bytes.count ? normal.bytes : Array(normal.bytes[range])
        try encodeWords(bytes, isFirst: isFirst && normal.keepsStart && range.lowerBound == 0, scratch, &ids)
      }
    }
  }

  private func encodeWords(_ text: [UInt8], isFirst: Bool, _ scratch: EncoderScratch, _ ids: inout [UInt32]) throws {
    var pieces = Pieces(text, isFirst: isFirst)
    try preTokenizer?.apply(&pieces)
    try Interrupt.check()
    try pieces.bytes.withUnsafeBufferPointer { bytes in
      for piece in pieces.list where piece.start < piece.end {
        let word = UnsafeBufferPointer(rebasing: bytes[piece.start..<piece.end])
        switch model {
        case .bytePairs(let model): try model.encode(word, scratch, to: &ids)
        case .wordPiece(let model): try model.encode(word, to: &ids)
        case .unigram(let model): try model.encode(word, to: &ids)
        case .wordLevel(let tokens, let unknown):
          guard let id = tokens.id(of: word) ?? tokens.id(of: unknown) else {
            throw NibbleError.badInput("the unknown token \(subject: unknown) is not in the vocabulary")
          }
          ids.append(id)
        }
      }
    }
  }
}
