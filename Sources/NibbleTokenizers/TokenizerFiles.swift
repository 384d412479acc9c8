import NibbleCore

/// A model's small files by name, however they are kept.
struct TokenizerFiles {
  /// Files that a tokenizer is read from; others are ignored.
  static let names = [
    "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "special_tokens.json", "generation_config.json", "config.json", spiece,
  ]
  /// A SentencePiece model of families that use one in their own way.
  static let spiece = "spiece.model"
  /// Larger files are refused.
  static let maximumSize = 1 << 28

  let place: String
  private let files: [String: [UInt8]]

  init(_ files: [String: [UInt8]], place: String) throws {
    self.files = files.filter { Self.names.contains($0.key) }
    self.place = place
    for (name, bytes) in self.files where bytes.count > Self.maximumSize {
      throw NibbleError.badInput("\(path: "\(place)/\(name)"): \(bytes.count) bytes; \(Self.maximumSize) is the limit")
    }
  }

  subscript(name: String) -> [UInt8]? { files[name] }

  /// Where a file is, as messages say it.
  func place(of name: String) -> String { "\(place)/\(name)" }

  /// A configuration file, if it is there.
  func json(_ name: String) throws -> JSON? {
    guard let bytes = files[name] else { return nil }
    do throws(JSONError) {
      return try JSON.parse(bytes)
    } catch {
      throw NibbleError.badInput("\(path: place(of: name)): \(error.reason) at byte \(error.offset)")
    }
  }
}

extension Tokenizer {
  /// Names of the files that a tokenizer is read from.
  public static var fileNames: [String] { TokenizerFiles.names }

  /// Opens a model folder, one of the local Hugging Face cache by its name, or one file that holds a tokenizer, with what lies
  /// beside it.
  ///
  /// Of several forms the first is taken, as transformers does: tokenizer.json, tokenizer.model (of T5, spiece.model), vocab.json with
  /// merges.txt, vocab.txt.
  ///
  /// - Throws: `.badInput`
  public static func open(_ path: String) throws -> Tokenizer {
    guard !path.isEmpty else { throw NibbleError.usage("the name of a tokenizer is empty") }
    switch PathKind(path) {
    case .folder: return try Tokenizer(files: read(path, TokenizerFiles.names), place: path)
    case .file:
      let cut = path.lastIndex(of: "/")
      let folder = cut.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
      let name = cut.map { String(path[path.index(after: $0)...]) } ?? path
      // Beside it only what configures it, not another form of it.
      var beside = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"]
      switch form(of: name) {
      case "tokenizer.model", TokenizerFiles.spiece: beside += ["special_tokens.json", "added_tokens.json"]
      case "vocab.json", "merges.txt": beside += ["vocab.json", "merges.txt", "added_tokens.json"]
      default: beside += ["added_tokens.json"]
      }
      var files = try read(folder, beside.filter { $0 != name })
      files[form(of: name)] = try readFile(path)
      return try Tokenizer(files: files, place: folder)
    case .other: throw NibbleError.badInput("\(path: path): neither a regular file nor a folder")
    case .nothing:
      if let snapshot = try HubCache.snapshot(path) { return try open(snapshot) }
      throw NibbleError.badInput("\(path: path): no such file or folder")
    }
  }

  /// The well-known name for a file that has another: `llama.model`, `bert-vocab.txt`.
  private static func form(of name: String) -> String {
    if TokenizerFiles.names.contains(name), name != TokenizerFiles.spiece { return name }
    if name.hasSuffix(".json") { return "tokenizer.json" }
    if name.hasSuffix(".txt") { return "vocab.txt" }
    return "tokenizer.model"
  }

  private static func read(_ folder: String, _ names: [String]) throws -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for name in names where PathKind(folder + "/" + name) == .file { files[name] = try readFile(folder + "/" + name) }
    return files
  }

  private static func readFile(_ path: String) throws -> [UInt8] {
    let file = try InputFile(path)
    guard file.size <= TokenizerFiles.maximumSize else {
      throw NibbleError.badInput("\(path: path): \(file.size) bytes; \(TokenizerFiles.maximumSize) is the limit for a tokenizer")
    }
    return try file.bytes(at: 0, count: file.size)
  }

  /// The file of pieces or ranks. Those of other families than T5 that call theirs spiece.model use it with rules of their own.
  private static func model(_ files: TokenizerFiles, _ config: TokenizerConfig) -> (name: String, bytes: [UInt8])? {
    let isT5 = config.tokenizerClass.map { $0 == "T5Tokenizer" } ?? ["t5", "mt5"].contains(config.modelType)
    let names = ["tokenizer.model"] + (isT5 ? [TokenizerFiles.spiece] : [])
    return names.lazy.compactMap { name in files[name].map { (name, $0) } }.first
  }

  /// Reads a tokenizer from a model's files by name; other names are ignored.
  ///
  /// - Parameter place: what messages call the place the files are in
  /// - Throws: `.badInput`
  public init(files: [String: [UInt8]], place: String) throws {
    let files = try TokenizerFiles(files, place: place)
    let config = try TokenizerConfig(files)
    if let bytes = files["tokenizer.json"] {
      let place = files.place(of: "tokenizer.json")
      let parts = try TokenizerJSON(bytes, place: place).parts(config)
      self.init(parts, special: config.special(parts), source: .tokenizerJSON, place: place)
    } else if let (name, bytes) = Self.model(files, config) {
      let place = files.place(of: name)
      if TiktokenRanks.isRanks(bytes) {
        let parts = try TiktokenRanks.parts(bytes, try files.json("special_tokens.json"), files)
        self.init(parts, special: config.special(parts), source: .tiktoken, place: place)
      } else {
        let file = try SentencePieceFile(bytes, place: place)
        let parts = try file.parts(bytes, config, place: place)
        self.init(parts, special: config.special(parts, of: file), source: .sentencePiece, place: place)
      }
    } else if let vocab = files["vocab.json"], let merges = files["merges.txt"] {
      let parts = try VocabMerges.parts(vocab: vocab, merges: merges, config, files)
      self.init(parts, special: config.special(parts), source: .vocabMerges, place: files.place(of: "vocab.json"))
    } else if let bytes = files["vocab.txt"] {
      let parts = try VocabText.parts(bytes, config, place: files.place(of: "vocab.txt"))
      self.init(parts, special: config.special(parts), source: .vocabText, place: files.place(of: "vocab.txt"))
    } else {
      throw NibbleError.badInput(
        "\(path: place): no tokenizer; it would be a tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt")
    }
  }
}
