import NibbleCore
import NibbleTokenizers

/// A model's tokenizer as GGUF has it, key by key as llama.cpp's converter writes it.
struct TokenKeys {
  /// What a token is to llama.cpp.
  enum Kind: Int32 {
    case normal = 1, unknown, control, userDefined, unused, byte
  }

  /// One row of the tables.
  struct Token {
    var text: String
    var kind: Kind
    var score: Float = 0
  }

  let text: TokenizerText
  let config: HuggingFaceNumbers
  let architecture: String
  /// The name of the pre-tokenizer that was asked for, where the tokenizer shows none.
  private let preTokenizer: String?

  init(_ text: TokenizerText, _ config: HuggingFaceNumbers, architecture: String, preTokenizer: String?) {
    (self.text, self.config, self.architecture, self.preTokenizer) = (text, config, architecture, preTokenizer)
  }

  /// - Throws: `.badInput` for a tokenizer that is damaged or larger than the model, `.usage` for one llama.cpp has not
  func write(_ out: inout GgufMetadata) throws {
    switch architecture {
    case "bert" where config.modelType == "xlm-roberta": try writeUnigram(&out)
    case "bert" where config.modelType == "roberta":
      try writeBytePairs(&out)
      try writeTypeCount(&out)
    case "bert": try writeWordPieces(&out)
    case "t5": try writeT5Pieces(&out)
    case "gemma", "gemma2":
      guard try writeSentencePieces(&out) || writeFallbackPairs(&out) else { throw refused("byte pairs with bytes to fall back on") }
      if architecture == "gemma" { try writeCodeGemma(&out) }
      out["tokenizer.ggml.add_space_prefix"] = .bool(false)
    case "gemma3":
      if try writeSentencePieces(&out) { out["tokenizer.ggml.add_space_prefix"] = .bool(false) } else { try writeBytePairs(&out) }
    case "phi3":
      if text.configuration?["tokenizer_class"]?.string == "GPT2Tokenizer" { try writeBytePairs(&out) } else { try writePhi3(&out) }
    case "modern-bert":
      for role in ["bos", "eos", "sep"] { out["tokenizer.ggml.add_\(role)_token"] = .bool(true) }
      try writeBytePairs(&out)
    case "chatglm", "glm4", "glm4moe": try writeGLM(&out)
    case "gpt2", "olmo2", "phi2", "starcoder2", "gptneox", "falcon", "olmoe", "qwen2moe", "qwen3moe", "gpt-oss", "deepseek2", "llama4": try writeBytePairs(&out)
    case _ where ["qwen2", "qwen3", "granitemoehybrid"].contains(config.modelType):
      if try !writeSentencePieces(&out) { try writeBytePairs(&out) }
    default: try writeLlama(&out)
    }
  }

  func refused(_ wanted: String) -> NibbleError {
    .usage("\(path: text.place): llama.cpp has no tokenizer for \(quoted(architecture)) but \(wanted), which this model's is not")
  }

  private func writeLlama(_ out: inout GgufMetadata) throws {
    if let adds = text.configuration?["add_prefix_space"]?.bool { out["tokenizer.ggml.add_space_prefix"] = .bool(adds) }
    if try !writeSentencePieces(&out), try !writeFallbackPairs(&out) { try writeBytePairs(&out) }
    let size = try config.whole(["vocab_size"])
    if size == 32016 {
      // CodeLlama's end of a turn, at its published place; marks for filling in have no key.
      var special = try SpecialTokenKeys(text, config.config, roles: ["eot"])
      special.set("eot", id: 32010)
      try special.write(&out)
    }
    if size == 49152 { out["tokenizer.ggml.add_bos_token"] = .bool(false) }
  }

  // MARK: - The tables

  func tables(_ tokens: [Token], model: String, pre: String, scored: Bool, _ out: inout GgufMetadata) {
    out["tokenizer.ggml.model"] = .text(model)
    out["tokenizer.ggml.pre"] = .text(pre)
    out["tokenizer.ggml.tokens"] = .texts(tokens.map(\.text))
    if scored { out["tokenizer.ggml.scores"] = .f32s(tokens.map(\.score)) }
    out["tokenizer.ggml.token_type"] = .i32s(tokens.map(\.kind.rawValue))
  }

  func writeTypeCount(_ out: inout GgufMetadata) throws {
    out["tokenizer.ggml.token_type_count"] = .u32(try config.u32(["type_vocab_size"]) ?? 1)
  }

  static func padding(_ id: Int) -> Token { Token(text: "[PAD\(id)]", kind: .unused, score: -10000) }

  /// Rows of the embedding: as many tokens are written.
  func size(_ tokens: Int) throws -> Int {
    let size = try config.whole(["vocab_size"]) ?? tokens
    guard tokens <= size, size <= 1 << 24 else {
      throw NibbleError.badInput(
        "\(path: text.place): the tokenizer has ids up to \(tokens - 1), the model a vocabulary of \(size): they do not belong together")
    }
    return size
  }

  /// Marks that tokenizers do not say are marks.
  private static func looksSpecial(_ token: String) -> Bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(token) || token.begins(with: "<|") && token.ends(with: "|>")
      || token.begins(with: "<｜") && token.ends(with: "｜>") || token.begins(with: "<unused") && token.ends(with: ">")
  }

  func tokenizer() throws -> Tokenizer {
    let files = text.files
    guard Tokenizer.fileNames.prefix(5).contains(where: { files[$0] != nil }) else {
      throw NibbleError.badInput("\(path: text.place): no tokenizer, which a GGUF file needs")
    }
    return try Tokenizer(files: files, place: text.place)
  }

  /// Tokens of a tokenizer of words and pairs, as long as the vocabulary; those without a token are called by their numbers.
  func tokens(_ tokenizer: Tokenizer) throws -> [Token] {
    let added = Dictionary(tokenizer.addedTokens.map { ($0.id, $0) }) { first, _ in first }
    return try (0..<size(tokenizer.vocabularySize)).map { id in
      guard let own = tokenizer.token(id) else { return Self.padding(id) }
      guard let mark = added[id] else { return Token(text: own, kind: .normal) }
      if mark.isSpecial || Self.looksSpecial(own) { return Token(text: own, kind: .control) }
      return Token(text: own.replacing(scalar: "▁", with: " "), kind: .userDefined)
    }
  }

  private func pre(_ tokenizer: Tokenizer) throws -> String {
    if let preTokenizer { return preTokenizer }
    let (name, digest) = try LlamaCppPreTokenizer.name(tokenizer)
    guard let name else {
      throw NibbleError.usage(
        "\(path: text.place): llama.cpp knows no pre-tokenizer like this tokenizer's (\(digest.prefix(12))…); \(.ggufPre, "NAME") names one all the same"
      )
    }
    return name
  }

  // MARK: - Kinds of tokenizers

  private func writeBytePairs(_ out: inout GgufMetadata) throws {
    let tokenizer = try tokenizer()
    guard tokenizer.algorithm == .bytePairs else { throw refused("byte pairs") }
    tables(try tokens(tokenizer), model: "gpt2", pre: try pre(tokenizer), scored: false, &out)
    try SpecialTokenKeys(text, config.config, merges: true).write(&out)
  }

  /// GLM-4's byte pairs, whose text ends with a mark that files do not always name.
  private func writeGLM(_ out: inout GgufMetadata) throws {
    let tokenizer = try tokenizer()
    guard tokenizer.algorithm == .bytePairs else { throw refused("byte pairs") }
    tables(try tokens(tokenizer), model: "gpt2", pre: try pre(tokenizer), scored: false, &out)
    var special = try SpecialTokenKeys(text, config.config, merges: true)
    let marks = architecture == "glm4moe"
      ? [("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")]
      : [("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")]
    for (role, token) in marks {
      if role == "bos", architecture == "chatglm" { continue }
      if let id = tokenizer.id(of: token) { special.set(role, id: id) }
    }
    try special.write(&out)
  }

  private func writeWordPieces(_ out: inout GgufMetadata) throws {
    let tokenizer = try tokenizer()
    guard tokenizer.algorithm == .wordPiece else { throw refused("word pieces") }
    // Words begin with a mark there, and what continues one has none.
    let tokens = try tokens(tokenizer).map { token in
      var token = token
      if token.kind != .control { token.text = token.text.begins(with: "##") ? token.text.behind("##") : "▁" + token.text }
      return token
    }
    try writeTypeCount(&out)
    tables(tokens, model: "bert", pre: try pre(tokenizer), scored: false, &out)
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
  }

  /// Phi-3's pieces: what was added counts for a mark only where it is said to be one.
  private func writePhi3(_ out: inout GgufMetadata) throws {
    guard var tokens = try sentencePieces() else {
      if try !writeFallbackPairs(&out) { try writeBytePairs(&out) }
      return
    }
    let decoder: [(Int?, JSON)] = (text.configuration?["added_tokens_decoder"]?.members ?? []).map { (Int($0.key), $0.value) }
    let added: [(Int?, JSON)] = (text.rest["added_tokens"]?.array ?? []).map { ($0["id"]?.int, $0) }
    for (id, value) in decoder + added {
      guard let id, tokens.indices.contains(id), let content = value["content"]?.string else { continue }
      tokens[id] = Token(text: content, kind: value["special"]?.bool == true ? .control : .userDefined, score: -1000)
    }
    tables(tokens, model: "llama", pre: "default", scored: true, &out)
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
  }

  /// What SentencePiece's own file and `added_tokens.json` have; nil where there is no such file.
  func sentencePieces() throws -> [Token]? {
    guard let bytes = text["tokenizer.model"], !Tokenizer.isTiktoken(bytes) else { return nil }
    return try sentencePieces(SentencePieceTable(bytes, place: text.place + "/tokenizer.model"))
  }

  func sentencePieces(_ table: SentencePieceTable) throws -> [Token] {
    let size = try config.whole(["vocab_size"]) ?? table.pieces.count
    guard (1...1 << 24).contains(size) else { throw NibbleError.badInput("\(path: text.place): vocab_size is \(size)") }
    var tokens = (0..<size).map(Self.padding)
    for (id, piece) in table.pieces.prefix(size).enumerated() { tokens[id] = Self.token(piece) }
    for (name, value) in try text.json("added_tokens.json")?.members ?? [] {
      guard let id = value.int, tokens.indices.contains(id) else { continue }
      tokens[id] = Token(text: name, kind: .userDefined, score: -1000)
    }
    return tokens
  }

  /// SentencePiece's own file.
  ///
  /// - Returns: false where there is none
  private func writeSentencePieces(_ out: inout GgufMetadata) throws -> Bool {
    guard var tokens = try sentencePieces() else { return false }
    for (key, value) in text.configuration?["added_tokens_decoder"]?.members ?? [] {
      guard let id = Int(key), tokens.indices.contains(id), let content = value["content"]?.string else { continue }
      let isMark = value["special"]?.bool == true || Self.looksSpecial(content)
      tokens[id] =
        isMark
        ? Token(text: content, kind: .control, score: -1000)
        : Token(text: content.replacing(scalar: "▁", with: " "), kind: .userDefined, score: -1000)
    }
    tables(tokens, model: "llama", pre: "default", scored: true, &out)
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
    return true
  }

  static func token(_ piece: (text: String, score: Float, kind: SentencePieceTable.Kind)) -> Token {
    // llama.cpp takes pieces that users defined for others.
    let kind: Kind = piece.kind == .userDefined ? .normal : Kind(rawValue: Int32(piece.kind.rawValue)) ?? .normal
    return Token(text: piece.text, kind: kind, score: piece.score)
  }

  /// Byte pairs of a tokenizer.json that was made from SentencePiece's file.
  ///
  /// llama.cpp merges what has the highest score first. The file has no scores, but it has the merges in their order.
  ///
  /// - Returns: false where it is none of that kind
  private func writeFallbackPairs(_ out: inout GgufMetadata) throws -> Bool {
    guard text.hasTokenizerJSON, text.model["byte_fallback"]?.bool == true, text.model["ignore_merges"]?.bool != true else { return false }
    let tokenizer = try tokenizer()
    guard tokenizer.algorithm == .bytePairs else { return false }
    let added = Dictionary(tokenizer.addedTokens.map { ($0.id, $0) }) { first, _ in first }
    var tokens = try (0..<size(tokenizer.vocabularySize)).map { id -> Token in
      guard let own = tokenizer.token(id) else { return Self.padding(id) }
      if let mark = added[id] { return Token(text: own, kind: mark.isSpecial ? .control : .userDefined, score: -1000) }
      return Token(text: own, kind: Self.isByte(own) ? .byte : .normal, score: -1000)
    }
    for (rank, merge) in text.merges.enumerated() {
      // Only the first merge that makes a token counts.
      guard let id = tokenizer.id(of: merge.replacing(scalar: " ", with: "")), tokens[id].score == -1000, tokens[id].kind == .normal else { continue }
      tokens[id].score = -Float(rank)
    }
    // A character by itself comes after all that is merged.
    for index in tokens.indices where tokens[index].score == -1000 && tokens[index].kind == .normal {
      tokens[index].score = -Float(text.merges.count + index)
    }
    tables(tokens, model: "llama", pre: "default", scored: true, &out)
    try SpecialTokenKeys(text, config.config, limit: tokens.count).write(&out)
    return true
  }

  private static func isByte(_ token: String) -> Bool {
    token.utf8.count == 6 && token.hasPrefix("<0x") && token.hasSuffix(">") && token.dropFirst(3).dropLast().allSatisfy(\.isHexDigit)
  }

  /// The end of a turn at its published place: llama.cpp has it in every file of the family.
  private func writeCodeGemma(_ out: inout GgufMetadata) throws {
    var special = try SpecialTokenKeys(text, config.config, roles: ["eot"])
    special.set("eot", id: 107)
    try special.write(&out, templates: false)
  }
}
