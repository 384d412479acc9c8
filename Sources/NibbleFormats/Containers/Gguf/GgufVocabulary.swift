import NibbleCore

/// What the numbers of `tokenizer.ggml.token_type` stand for: SentencePiece's kinds of pieces.
enum GgufTokenType: Int {
  case undefined = 0, normal, unknown, control, userDefined, unused, byte

  /// Whether it is looked for in texts before they are cut into tokens.
  var isAdded: Bool { self == .control || self == .userDefined || self == .unknown }
}

/// Tokens that have a meaning, by their ids.
struct GgufSpecialIDs {
  let bos, eos, unknown, separator, pad, mask, eot, eom: Int?

  /// Keys of a file; where they are missing what llama.cpp assumes of models of that kind.
  init(_ file: GgufFile) {
    let model = file.text("tokenizer.ggml.model")
    func id(_ key: String, _ usual: [String: Int] = [:]) -> Int? {
      file.whole("tokenizer.ggml.\(key)_token_id") ?? model.flatMap { usual[$0] }
    }
    bos = id("bos", ["llama": 1]) ?? id("cls", ["bert": 101])
    eos = id("eos", ["llama": 2, "t5": 1])
    unknown = id("unknown", ["llama": 0, "bert": 100, "t5": 2])
    separator = id("seperator") ?? id("separator", ["bert": 102])
    pad = id("padding", ["bert": 0, "t5": 0])
    mask = id("mask", ["bert": 103])
    (eot, eom) = (id("eot"), id("eom"))
  }

  /// Keys and ids.
  var all: [(key: String, id: Int)] {
    [
      ("bos", bos), ("eos", eos), ("unknown", unknown), ("seperator", separator), ("padding", pad), ("mask", mask), ("eot", eot), ("eom", eom),
    ].compactMap { key, id in id.map { (key, $0) } }
  }
}

/// The vocabulary of a GGUF file, read when a tokenizer is made of it.
struct GgufVocabulary {
  let texts: GgufFile.Texts
  let types: [GgufTokenType]
  /// Empty where the file has none.
  let scores: [Float]

  init(_ file: GgufFile) throws {
    texts = try file.texts("tokenizer.ggml.tokens")
    if file.list(Self.typesKey) != nil {
      types = try file.wholes(Self.typesKey).prefix(texts.count).map { GgufTokenType(rawValue: $0) ?? .undefined }
    } else {
      var types = [GgufTokenType](repeating: .normal, count: texts.count)
      for (_, id) in GgufSpecialIDs(file).all where types.indices.contains(id) { types[id] = .control }
      self.types = types
    }
    scores = file.list(Self.scoresKey) == nil ? [] : Array(try file.floats(Self.scoresKey).prefix(texts.count))
    if let bad = scores.firstIndex(where: { !$0.isFinite }) {
      throw NibbleError.badInput("\(path: file.path): entry \(bad) of \(key: Self.scoresKey) is not finite")
    }
  }

  private static let typesKey = "tokenizer.ggml.token_type"
  private static let scoresKey = "tokenizer.ggml.scores"

  var count: Int { texts.count }
  func text(_ id: Int) -> String { String(decoding: texts[id], as: UTF8.self) }

  /// Whether a token stands for nothing: an entry that fills the vocabulary up to the rows of the embedding.
  /// Word pieces have a mark before it.
  func isFiller(_ id: Int) -> Bool {
    types[id] == .unused && ["[PAD\(id)]", "\u{2581}[PAD\(id)]"].contains(text(id)) || texts[id].isEmpty
  }

  /// Checks, without reading texts, that what the metadata says of a vocabulary fits together.
  ///
  /// - Parameter rows: of the embedding, where there is one
  static func check(_ file: GgufFile, rows: Int?) throws {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: file.path): \(reason)") }
    let key = "tokenizer.ggml.tokens"
    guard let tokens = file.list(key), tokens.kind == .text, tokens.count > 0 else {
      throw fail("\(key: key) is \(file.metadata[key]?.text ?? "missing"), expected a list of texts")
    }
    if let rows, tokens.count > rows {
      throw fail("\(key: key) has \(tokens.count) entries, the embedding \(rows) rows")
    }
    for (key, kinds) in [(typesKey, [GgufKind.i32, .u32]), (scoresKey, [.f32, .i32])] where file.metadata[key] != nil {
      guard let list = file.list(key), kinds.contains(list.kind), list.count >= tokens.count else {
        throw fail("\(key: key) is \(file.metadata[key]?.text ?? ""), expected a number for each of \(tokens.count) tokens")
      }
    }
    if file.metadata["tokenizer.ggml.merges"] != nil, file.list("tokenizer.ggml.merges")?.kind != .text {
      throw fail("\(key: "tokenizer.ggml.merges") is no list of texts")
    }
    for (name, id) in GgufSpecialIDs(file).all where file.metadata["tokenizer.ggml.\(name)_token_id"] != nil {
      guard (0..<tokens.count).contains(id) else {
        throw fail("\(key: "tokenizer.ggml.\(name)_token_id") is \(id), and there are \(tokens.count) tokens")
      }
    }
  }
}
