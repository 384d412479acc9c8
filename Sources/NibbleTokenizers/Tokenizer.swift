import NibbleCore

/// A model's tokenizer, from the model's own files.
///
/// A value that any number of threads may use at once.
public struct Tokenizer: Sendable {
  enum Engine: Sendable {
    case pipeline(Pipeline)
    case sentencePiece(SentencePieceModel)
  }

  /// Longer texts are refused, so that places in a text fit 32 bits.
  static let maximumText = 1 << 30

  let engine: Engine
  let postProcessor: PostProcessor
  let decodeSteps: [DecodeStep]
  /// Every token as its file spells it.
  let vocabulary: Vocabulary
  private let specialIDs: Set<Int>
  private let respelled: [Int: [UInt8]]
  /// Where it was read from, for messages.
  let place: String
  /// The tokens that models give a meaning to.
  public let special: SpecialTokens
  /// Which of a model's files it was read from.
  public let source: Source

  /// The kinds of files that hold a tokenizer.
  public enum Source: String, Sendable {
    /// `tokenizer.json`
    case tokenizerJSON = "tokenizer.json"
    /// SentencePiece's `tokenizer.model`
    case sentencePiece = "sentencepiece"
    /// tiktoken ranks, as Llama 3's `tokenizer.model`
    case tiktoken
    /// `vocab.json` with `merges.txt`
    case vocabMerges = "vocab.json+merges.txt"
    /// `vocab.txt`
    case vocabText = "vocab.txt"
  }

  init(_ parts: TokenizerParts, special: SpecialTokens, source: Source, place: String) {
    engine = parts.engine
    postProcessor = parts.postProcessor
    decodeSteps = parts.decodeSteps
    vocabulary = parts.vocabulary
    specialIDs = parts.specialIDs
    respelled = if case .pipeline(let pipeline) = parts.engine { pipeline.added.respelled } else { [:] }
    self.special = special
    self.source = source
    self.place = place
  }

  /// Greatest id + 1.
  public var vocabularySize: Int { vocabulary.size }

  /// The id of a token as its file spells it (`Ġthe`, `▁the`, `##ing`), nil if there is none.
  public func id(of token: String) -> Int? { vocabulary.id(of: token).map { Int($0) } }

  /// The token with this id as its file spells it, nil if there is none.
  public func token(_ id: Int) -> String? { vocabulary[id].map { String(decoding: $0, as: UTF8.self) } }

  /// Whether the token is a mark and no text.
  public func isSpecial(_ id: Int) -> Bool { specialIDs.contains(id) }

  /// Encodes a text, or a text and a second one that belongs to it.
  ///
  /// - Parameters:
  ///   - addSpecialTokens: whether to put around them what the model expects: a beginning, separators.
  ///   - specialAsText: whether a special token's spelling in the text is text. It is parsed otherwise, but by plain
  ///     SentencePiece models, which never do.
  /// - Throws: `.badInput` for a text longer than a gigabyte, or one the vocabulary cannot say.
  public func encode(
    _ text: String, pair: String? = nil, addSpecialTokens: Bool = true, specialAsText: Bool = false
  ) throws -> Encoding {
    postProcessor.apply(
      try ids(text, specialAsText), try pair.map { try ids($0, specialAsText) }, addsSpecial: addSpecialTokens)
  }

  /// Puts around tokens of one text or two what the model expects: a beginning, separators.
  public func addingSpecialTokens(to ids: [Int], pair: [Int]? = nil) -> Encoding {
    postProcessor.apply(ids, pair, addsSpecial: true)
  }

  private func ids(_ text: String, _ specialAsText: Bool) throws -> [UInt32] {
    let bytes = Array(text.utf8)
    guard bytes.count <= Self.maximumText else { throw NibbleError.badInput("a text of \(bytes.count) bytes is too long") }
    do {
      return switch engine {
      case .pipeline(let pipeline): try pipeline.encode(bytes, specialAsText: specialAsText)
      case .sentencePiece(let model): try model.encode(bytes)
      }
    } catch let error as NibbleError where error.kind == .badInput {
      throw NibbleError.badInput("\(path: place): \(error.text)")
    }
  }

  /// Decodes tokens. What is no text in UTF-8 becomes U+FFFD.
  ///
  /// - Throws: `.badInput` for an id that is no token's.
  public func decode(_ ids: [Int], skipSpecialTokens: Bool = false) throws -> String {
    var decoder = streamingDecoder(skipSpecialTokens: skipSpecialTokens)
    var text = ""
    for id in ids { text += try decoder.feed(id) }
    return try text + decoder.finish()
  }

  /// Decodes tokens that come one after another.
  public func streamingDecoder(skipSpecialTokens: Bool = false) -> StreamingDecoder {
    StreamingDecoder(self, skipsSpecialTokens: skipSpecialTokens)
  }

  func bytesForDecoding(_ id: Int) -> [UInt8]? { respelled[id] ?? vocabulary[id] }

  func noSuchID(_ id: Int) -> NibbleError {
    .badInput(
      (0..<vocabularySize).contains(id)
        ? "\(path: place): no token has the id \(id)" : "\(path: place): id \(id) is none of 0 to \(vocabularySize - 1)")
  }
}

/// What the readers of the various files make.
struct TokenizerParts {
  var engine: Tokenizer.Engine
  var postProcessor = PostProcessor()
  var decodeSteps: [DecodeStep]
  var vocabulary: Vocabulary
  var specialIDs: Set<Int> = []
}

/// Tokens that models give a meaning to; nil where there is none.
public struct SpecialTokens: Sendable, Equatable {
  /// What a text begins with.
  public var bos: Int?
  /// What it ends with.
  public var eos: Int?
  /// What fills it up.
  public var pad: Int?
  /// What stands for the unknown.
  public var unknown: Int?
  /// What hides a token that is to be found.
  public var mask: Int?
  /// Every token that the configurations name for a part it plays.
  public var named: Set<Int> = []
  /// Tokens that end what a model says: `eos`, and those the generation configuration adds.
  public var stops: [Int] = []

  /// None of them.
  public init() {}
}
