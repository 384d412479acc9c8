import NibbleCore

extension SentencePieceFile {
  /// The tokenizer of a SentencePiece model: the library's, with a beginning and an end around it as the model is used.
  func parts(_ bytes: [UInt8], _ config: TokenizerConfig, place: String) throws -> TokenizerParts {
    var vocabulary = Vocabulary(capacity: pieces.count)
    for (id, piece) in pieces.enumerated() { try vocabulary.add(piece.text, id: id, place: place) }
    let text = SentencePieceText(
      kinds: pieces.map(\.kind), pieces: vocabulary, unknown: unknownSurface,
      dropsFirstSpace: addsDummyPrefix, dropsAllFirstSpaces: removesExtraSpaces)
    guard !hasDenormalizer else {
      throw NibbleError.badInput("\(path: place): a SentencePiece model with a denormalizer is not supported")
    }
    let model = try SentencePieceModel(bytes, self, place: place)
    let special = pieces.indices.filter { pieces[$0].kind == .control || pieces[$0].kind == .unknown }
    return TokenizerParts(
      engine: .sentencePiece(model), postProcessor: postProcessor(config), decodeSteps: [.sentencePiece(text)],
      vocabulary: vocabulary, specialIDs: Set(special))
  }

  /// The configuration decides; without one, a model that has a beginning is given it, and T5's, which have none, an end.
  private func postProcessor(_ config: TokenizerConfig) -> PostProcessor {
    let hasBegin = pieces.indices.contains(bos)
    let isT5 = config.tokenizerClass.map { $0 == "T5Tokenizer" } ?? !hasBegin
    let adds = (
      begin: hasBegin && config.flag("add_bos_token") ?? !isT5,
      end: pieces.indices.contains(eos) && config.flag("add_eos_token") ?? isT5
    )
    func around(_ part: PostProcessor.Part, type: Int) -> [PostProcessor.Part] {
      (adds.begin ? [.special([bos], type: type)] : []) + [part] + (adds.end ? [.special([eos], type: type)] : [])
    }
    return PostProcessor(
      single: around(.first(type: 0), type: 0), pair: around(.first(type: 0), type: 0) + around(.second(type: 1), type: 1))
  }
}
