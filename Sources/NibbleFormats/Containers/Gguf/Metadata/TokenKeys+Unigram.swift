import NibbleCore
import NibbleTokenizers

/// Unigram vocabularies of SentencePiece, which a model of scores decodes.
extension TokenKeys {
  /// T5's pieces: of SentencePiece's own file, as the converter has them, or else of tokenizer.json, where marks have names.
  func writeT5Pieces(_ out: inout GgufMetadata) throws {
    guard let name = ["tokenizer.model", "spiece.model"].first(where: { text[$0] != nil }), let bytes = text[name] else { return try writeUnigram(&out) }
    let table = try SentencePieceTable(bytes, place: text.place + "/" + name)
    guard table.isUnigram else { throw refused("Unigram pieces") }
    let tokens = try sentencePieces(table)
    guard table.pieces.count <= tokens.count else { _ = try size(table.pieces.count); return }
    tables(tokens, model: "t5", pre: "default", scored: true, &out)
    out["tokenizer.ggml.add_space_prefix"] = .bool(table.addsDummyPrefix)
    out["tokenizer.ggml.remove_extra_whitespaces"] = .bool(table.removesExtraSpaces)
    if !table.characterMap.isEmpty { out["tokenizer.ggml.precompiled_charsmap"] = .bytes(table.characterMap) }
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
  }

  /// XLM-RoBERTa's pieces, and T5's of tokenizer.json.
  func writeUnigram(_ out: inout GgufMetadata) throws {
    let wanted = try config.whole(["vocab_size"]) ?? 0
    guard (0...1 << 24).contains(wanted) else { throw NibbleError.badInput("\(path: text.place): vocab_size is \(wanted)") }
    var tokens: [Token]
    let (addsPrefix, removesSpaces, map): (Bool, Bool, [UInt8])
    if let bytes = text["sentencepiece.bpe.model"] {
      let table = try SentencePieceTable(bytes, place: text.place + "/sentencepiece.bpe.model")
      guard table.isUnigram, table.pieces.count > 4 else { throw refused("Unigram pieces") }
      tokens = (0..<max(wanted, table.pieces.count)).map(Self.padding)
      for (id, piece) in table.pieces.enumerated() { tokens[id] = Self.token(piece) }
      // Ids are those of fairseq: four marks, then the pieces without SentencePiece's three.
      let marks = [("<s>", Kind.control), ("<pad>", .control), ("</s>", .control), ("<unk>", .unknown)]
      tokens = marks.map { Token(text: $0, kind: $1) } + tokens[3..<tokens.count - 1]
      (addsPrefix, removesSpaces, map) = (table.addsDummyPrefix, table.removesExtraSpaces, table.characterMap)
    } else {
      let tokenizer = try tokenizer()
      guard tokenizer.algorithm == .unigram else { throw refused("Unigram pieces") }
      let added = Dictionary(tokenizer.addedTokens.map { ($0.id, $0) }) { first, _ in first }
      let name = text.configuration?["unk_token"]
      let unknown = (name?.string ?? name?["content"]?.string).flatMap { tokenizer.id(of: $0) } ?? text.model["unk_id"]?.int ?? 3
      tokens = (0..<max(wanted, text.scores.count)).map { id in
        guard id < text.scores.count, let own = tokenizer.token(id) else { return Self.padding(id) }
        let mark = added[id]
        let kind: Kind = id == unknown ? .unknown : mark.map { $0.isSpecial ? .control : .userDefined } ?? .normal
        return Token(text: own, kind: kind, score: Float(text.scores[id]))
      }
      addsPrefix = text.configuration?["add_prefix_space"]?.bool ?? true
      removesSpaces = architecture == "t5" ? Self.cutsSpaces(text.rest["normalizer"]) : text.configuration?["clean_up_tokenization_spaces"]?.bool ?? false
      map = Self.characterMap(text.rest["normalizer"]) ?? []
    }
    tables(tokens, model: "t5", pre: "default", scored: true, &out)
    out["tokenizer.ggml.add_space_prefix"] = .bool(addsPrefix)
    if architecture != "t5" { try writeTypeCount(&out) }
    out["tokenizer.ggml.remove_extra_whitespaces"] = .bool(removesSpaces)
    if architecture != "t5" || !map.isEmpty { out["tokenizer.ggml.precompiled_charsmap"] = .bytes(map) }
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
  }

  /// Whether a normalizer leaves one space of several.
  private static func cutsSpaces(_ normalizer: JSON?) -> Bool {
    normalizer?["pattern"]?["Regex"]?.string == " {2,}" || normalizer?["normalizers"]?.array?.contains { cutsSpaces($0) } ?? false
  }

  private static func characterMap(_ normalizer: JSON?) -> [UInt8]? {
    if let text = normalizer?["precompiled_charsmap"]?.string { return bytes(ofBase64: text) }
    return normalizer?["normalizers"]?.array?.lazy.compactMap { characterMap($0) }.first
  }
}
