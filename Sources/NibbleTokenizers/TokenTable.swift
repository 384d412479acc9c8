import NibbleCore

extension Tokenizer {
  /// A token that is looked for in the text itself.
  package struct Added: Sendable {
    package let text: String
    package let id: Int
    /// Whether it is a mark and no text.
    package let isSpecial: Bool
  }

  /// Tokens that are looked for in texts before a model sees them.
  package var addedTokens: [Added] {
    guard case .pipeline(let pipeline) = engine else { return [] }
    return pipeline.added.all.map { Added(text: String(decoding: $0.text, as: UTF8.self), id: $0.id, isSpecial: $0.isSpecial) }
  }

  /// Whether a `tokenizer.model` holds tiktoken's ranks, not SentencePiece's pieces.
  package static func isTiktoken(_ model: [UInt8]) -> Bool { TiktokenRanks.isRanks(model) }

  /// What cuts texts into tokens.
  package enum Algorithm: Sendable {
    case bytePairs, wordPiece, unigram, wordLevel, sentencePiece
  }

  package var algorithm: Algorithm {
    switch engine {
    case .sentencePiece: .sentencePiece
    case .pipeline(let pipeline):
      switch pipeline.model {
      case .bytePairs: .bytePairs
      case .wordPiece: .wordPiece
      case .unigram: .unigram
      case .wordLevel: .wordLevel
      }
    }
  }
}

/// The pieces of a SentencePiece model and what it does to texts first.
package struct SentencePieceTable: Sendable {
  /// What a piece is: SentencePiece's own numbers.
  package enum Kind: UInt8, Sendable {
    case normal = 1, unknown, control, userDefined, unused, byte
  }

  package let pieces: [(text: String, score: Float, kind: Kind)]
  /// Whether it is a Unigram model, not byte pairs.
  package let isUnigram: Bool
  package let addsDummyPrefix: Bool
  package let removesExtraSpaces: Bool
  package let characterMap: [UInt8]

  /// Reads a `ModelProto`.
  ///
  /// - Throws: `.badInput`
  package init(_ bytes: [UInt8], place: String) throws {
    let file = try SentencePieceFile(bytes, place: place)
    pieces = file.pieces.map {
      (String(decoding: $0.text, as: UTF8.self), $0.score, Kind(rawValue: $0.kind.rawValue) ?? .normal)
    }
    isUnigram = !file.isBytePairs
    (addsDummyPrefix, removesExtraSpaces, characterMap) = (file.addsDummyPrefix, file.removesExtraSpaces, file.characterMap)
  }
}

/// Base 64, as tokenizer.json has the map of characters.
package func bytes(ofBase64 text: String) -> [UInt8]? {
  var bytes: [UInt8] = []
  return Base64.decode(Array(text.utf8), into: &bytes) ? bytes : nil
}
