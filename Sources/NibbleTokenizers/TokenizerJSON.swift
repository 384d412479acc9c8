import NibbleCore

/// A `tokenizer.json`, as Hugging Face's library writes it.
///
/// The vocabulary and the merges, which are nearly all of it, are read as they come; the rest is kept as JSON for
/// `TokenizerJSON+Components`.
struct TokenizerJSON {
  let place: String
  /// Everything but the model.
  private(set) var rest: [String: JSON] = [:]
  /// Everything of the model but its vocabulary and merges.
  private(set) var model: [String: JSON] = [:]
  private(set) var vocabulary: [(token: String, id: Int)] = []
  /// The scores of a Unigram vocabulary, which is a list.
  private(set) var scores: [Double]?
  private(set) var merges: MergeRules?

  init(_ bytes: [UInt8], place: String) throws {
    self.place = place
    do {
      try bytes.withUnsafeBytes { buffer in
        var reader = JSONReader(buffer)
        var model: [String: JSON] = [:]
        var rest: [String: JSON] = [:]
        try reader.object { reader, key throws(JSONError) in
          guard key == "model" else { return rest[key] = try JSON(reading: &reader) }
          try reader.object { reader, key throws(JSONError) in
            switch key {
            case "vocab": try readVocabulary(&reader)
            case "merges": try readMerges(&reader)
            default: model[key] = try JSON(reading: &reader)
            }
          }
        }
        try reader.end()
        self.model = model
        self.rest = rest
      }
    } catch let error as JSONError {
      throw NibbleError.badInput("\(path: place): \(error.reason) at byte \(error.offset)")
    }
  }

  private mutating func readVocabulary(_ reader: inout JSONReader) throws(JSONError) {
    guard reader.peek() == UInt8(ascii: "[") else {
      var entries: [(token: String, id: Int)] = []
      try reader.object { reader, key throws(JSONError) in entries.append((key, try reader.count())) }
      vocabulary = entries
      return
    }
    var entries: [(token: String, id: Int)] = []
    var scores: [Double] = []
    try reader.array { reader throws(JSONError) in
      let start = reader.offset
      let entry = try JSON(reading: &reader).array ?? []
      guard entry.count == 2, let token = entry[0].string, let score = entry[1].double, score.isFinite else {
        throw reader.error("a token that is not a text and a score", at: start)
      }
      entries.append((token, entries.count))
      scores.append(score)
    }
    vocabulary = entries
    self.scores = scores
  }

  private mutating func readMerges(_ reader: inout JSONReader) throws(JSONError) {
    var rules = MergeRules()
    try reader.array { reader throws(JSONError) in
      let start = reader.peek().map { _ in reader.offset } ?? 0
      if reader.peek() == UInt8(ascii: "\"") {
        let rule = try reader.string()
        guard rules.append(rule.utf8) else { throw reader.error("a merge that is not two tokens", at: start) }
      } else {
        var pair: [[UInt8]] = []
        try reader.array { reader throws(JSONError) in pair.append(Array(try reader.string().utf8)) }
        guard pair.count == 2 else { throw reader.error("a merge that is not two tokens", at: start) }
        rules.append(pair[0], pair[1])
      }
    }
    merges = rules
  }

  /// The file's tokenizer, with the tokens a configuration adds to it.
  func parts(_ config: TokenizerConfig) throws -> TokenizerParts {
    guard !vocabulary.isEmpty else { throw NibbleError.badInput("\(path: place): no vocabulary") }
    var tokens = Vocabulary(capacity: vocabulary.count)
    for (token, id) in vocabulary { try tokens.add(token, id: id, place: place) }
    let components = TokenizerJSONComponents(place: place)
    let normalizer = try components.normalizer(rest["normalizer"])
    var preTokenizer = try components.preTokenizer(rest["pre_tokenizer"])

    var all = tokens
    var added = try components.addedTokens(rest["added_tokens"])
    for token in added { try all.add(token.text, id: token.id, place: place) }
    for token in try config.addedTokens(place: place) where !added.contains(where: { $0.id == token.id }) {
      // A configuration may name a token otherwise; the tokenizer's own file has the last word.
      if let known = all.id(of: token.text), Int(known) != token.id { continue }
      if all[token.id] != nil, all.id(of: token.text) == nil { continue }
      try all.add(token.text, id: token.id, place: place)
      added.append(token)
    }
    let model = try model(tokens, all, &preTokenizer, normalizer)
    let pipeline = try Pipeline(
      added: AddedTokens(added, place: place) { text in
        var text = Normalizer.Text(bytes: text)
        try normalizer?.apply(&text)
        return text.bytes
      },
      normalizer: normalizer, preTokenizer: preTokenizer, model: model)
    return TokenizerParts(
      engine: .pipeline(pipeline), postProcessor: try components.postProcessor(rest["post_processor"]),
      decodeSteps: try components.decoder(rest["decoder"]), vocabulary: all,
      specialIDs: Set(added.filter(\.isSpecial).map(\.id)))
  }

  /// The name of the model; files of older versions leave it out.
  private var modelType: String {
    if let type = model["type"]?.string { return type }
    if merges != nil { return "BPE" }
    if scores != nil { return "Unigram" }
    return model["max_input_chars_per_word"] == nil ? "WordLevel" : "WordPiece"
  }

  private func model(
    _ tokens: Vocabulary, _ all: Vocabulary, _ preTokenizer: inout PreTokenizer?, _ normalizer: Normalizer?
  ) throws -> Pipeline.Model {
    func text(_ key: String) -> String? { model[key]?.string }
    switch modelType {
    case "BPE": return .bytePairs(try bytePairs(tokens, &preTokenizer, normalizer))
    case "WordPiece":
      let longest = model["max_input_chars_per_word"]?.int ?? 100
      guard (1...1000).contains(longest) else {
        throw NibbleError.badInput("\(path: place): max_input_chars_per_word is \(longest), not from 1 to 1000")
      }
      return .wordPiece(
        WordPieceModel(
          tokens: tokens, unknown: text("unk_token") ?? "[UNK]",
          prefix: Array((text("continuing_subword_prefix") ?? "##").utf8), maximumCharacters: longest))
    case "Unigram":
      guard let scores else { throw NibbleError.badInput("\(path: place): a Unigram vocabulary without scores") }
      let unknown = model["unk_id"]?.int
      if let unknown, tokens[unknown] == nil { throw NibbleError.badInput("\(path: place): unk_id \(unknown) is no token's") }
      return .unigram(
        try UnigramModel(
          tokens: tokens, scores: scores, unknown: unknown, byteFallback: model["byte_fallback"]?.bool ?? false, place: place))
    case "WordLevel": return .wordLevel(tokens, unknown: text("unk_token") ?? "<unk>")
    case let type: throw NibbleError.badInput("\(path: place): the model \(quoted(type)) is not supported")
    }
  }

  private func bytePairs(
    _ tokens: Vocabulary, _ preTokenizer: inout PreTokenizer?, _ normalizer: Normalizer?
  ) throws -> BytePairModel {
    if let dropout = model["dropout"]?.double, dropout != 0 {
      throw NibbleError.badInput("\(path: place): a dropout of \(dropout) makes tokens a matter of chance")
    }
    let prefix = Array((model["continuing_subword_prefix"]?.string ?? "").utf8)
    let suffix = Array((model["end_of_word_suffix"]?.string ?? "").utf8)
    guard prefix.count <= AddedTokens.maximumLength, suffix.count <= AddedTokens.maximumLength else {
      throw NibbleError.badInput("\(path: place): a prefix or suffix of \(max(prefix.count, suffix.count)) bytes")
    }
    let table = try (merges ?? MergeRules()).table(tokens, prefix: prefix, place: place)
    let fallsBack = model["byte_fallback"]?.bool ?? false
    // Where words are spelled in the byte alphabet at the very end, the model can as well take the bytes.
    let isOfBytes = prefix.isEmpty && suffix.isEmpty && !fallsBack && preTokenizer?.endsInBytes == true
    if isOfBytes { preTokenizer = preTokenizer?.takingBytes }
    var result = BytePairModel(
      tokens: isOfBytes ? try tokens.mapped(place: place, ByteAlphabet.bytes(spelledBy:)) : tokens, ranks: .pairs(table))
    result.isOfBytes = isOfBytes
    result.ignoresMerges = model["ignore_merges"]?.bool ?? false
    result.unknown = model["unk_token"]?.string.map { ($0, tokens.id(of: $0)) }
    result.fusesUnknown = model["fuse_unk"]?.bool ?? false
    result.byteTokens = fallsBack ? byteTokenIDs(tokens) : nil
    result.prefix = prefix
    result.suffix = suffix
    return result
  }
}

extension PreTokenizer {
  /// Whether the last step, and no other, spells bytes as characters.
  fileprivate var endsInBytes: Bool {
    switch self {
    case .byteLevel: true
    case .sequence(let steps): steps.last?.endsInBytes == true && !steps.dropLast().contains { $0.spellsBytes }
    default: false
    }
  }

  private var spellsBytes: Bool {
    switch self {
    case .byteLevel: true
    case .sequence(let steps): steps.contains { $0.spellsBytes }
    default: false
    }
  }

  /// The same without spelling.
  fileprivate var takingBytes: PreTokenizer {
    switch self {
    case .byteLevel(let addsSpace, let pattern, _): .byteLevel(addsSpace: addsSpace, pattern: pattern, spells: false)
    case .sequence(let steps): .sequence(steps.dropLast() + (steps.last.map { [$0.takingBytes] } ?? []))
    default: self
    }
  }
}
