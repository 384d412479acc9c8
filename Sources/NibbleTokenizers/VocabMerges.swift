import NibbleCore

/// A byte-level tokenizer in two files: `vocab.json` and `merges.txt`.
enum VocabMerges {
  private enum Family {
    case gpt2, roberta, qwen2
  }

  private static let families: [String: Family] = [
    "GPT2Tokenizer": .gpt2, "CodeGenTokenizer": .gpt2, "GPTNeoXTokenizer": .gpt2, "RobertaTokenizer": .roberta,
    "BartTokenizer": .roberta, "LongformerTokenizer": .roberta, "LEDTokenizer": .roberta, "MvpTokenizer": .roberta,
    "Qwen2Tokenizer": .qwen2,
  ]

  /// The configuration's family; without one, RoBERTa's tokens in the vocabulary tell.
  private static func family(_ config: TokenizerConfig, _ vocabulary: Vocabulary, place: String) throws -> Family {
    if let name = config.tokenizerClass {
      guard let family = families[name] else {
        throw NibbleError.badInput(
          "\(path: place): a \(subject: name) of vocab.json and merges.txt is not supported; a tokenizer.json is")
      }
      return family
    }
    let isRoberta = ["<s>", "</s>", "<mask>"].allSatisfy { vocabulary.id(of: $0) != nil }
    return isRoberta ? .roberta : .gpt2
  }

  static func parts(
    vocab: [UInt8], merges: [UInt8], _ config: TokenizerConfig, _ files: TokenizerFiles
  ) throws -> TokenizerParts {
    let place = files.place(of: "vocab.json")
    var vocabulary = try readVocabulary(vocab, place: place)
    let family = try family(config, vocabulary, place: place)
    let rules = try MergeRules(text: merges, place: files.place(of: "merges.txt"))
    let table = try rules.table(vocabulary, place: files.place(of: "merges.txt"))
    var model = BytePairModel(
      tokens: try vocabulary.mapped(place: place, ByteAlphabet.bytes(spelledBy:)), ranks: .pairs(table))
    model.isOfBytes = true

    var added = try config.addedTokens(place: files.place(of: "tokenizer_config.json"))
    for token in added { try vocabulary.add(token.text, id: token.id, place: place) }
    for text in specialTexts(family, config) where !added.contains(where: { $0.text.elementsEqual(text.utf8) }) {
      guard let id = vocabulary.id(of: text) else { continue }
      // A mask stands for a word with the space before it.
      added.append(AddedToken(text: Array(text.utf8), id: Int(id), stripsLeft: family == .roberta && text == "<mask>"))
    }
    let pattern = try RegexDialect.compile(family == .qwen2 ? KnownPattern.qwen2 : KnownPattern.gpt2, .oniguruma, place: place)
    let addsSpace = config.flag("add_prefix_space") ?? false
    let pipeline = try Pipeline(
      added: AddedTokens(added, place: place) { $0 }, normalizer: family == .qwen2 ? .form(.nfc) : nil,
      preTokenizer: .byteLevel(addsSpace: addsSpace, pattern: pattern, spells: false), model: .bytePairs(model))
    return TokenizerParts(
      engine: .pipeline(pipeline), postProcessor: processor(family, config, vocabulary),
      decodeSteps: [.byteLevel(spelled: true)], vocabulary: vocabulary,
      specialIDs: Set(added.filter(\.isSpecial).map(\.id)))
  }

  private static func specialTexts(_ family: Family, _ config: TokenizerConfig) -> [String] {
    let roles = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
    let named = roles.compactMap(config.tokenText)
    return named
      + (family == .roberta ? ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] : ["<|endoftext|>"]).filter { !named.contains($0) }
  }

  private static func processor(_ family: Family, _ config: TokenizerConfig, _ vocabulary: Vocabulary) -> PostProcessor {
    func id(_ role: String, _ usual: String) -> Int? { vocabulary.id(of: config.tokenText(role) ?? usual).map { Int($0) } }
    switch family {
    case .roberta:
      guard let begin = id("cls_token", "<s>"), let end = id("sep_token", "</s>") else { return PostProcessor() }
      return .roberta(begin: begin, end: end)
    case .gpt2, .qwen2:
      guard config.flag("add_bos_token") == true, let begin = id("bos_token", "<|endoftext|>") else { return PostProcessor() }
      return PostProcessor(
        single: [.special([begin], type: 0), .first(type: 0)],
        pair: [.special([begin], type: 0), .first(type: 0), .special([begin], type: 1), .second(type: 1)])
    }
  }

  private static func readVocabulary(_ bytes: [UInt8], place: String) throws -> Vocabulary {
    var vocabulary = Vocabulary(capacity: bytes.count / 16)
    do {
      try bytes.withUnsafeBytes { buffer in
        var reader = JSONReader(buffer)
        var entries: [(String, Int)] = []
        try reader.object { reader, key throws(JSONError) in entries.append((key, try reader.count())) }
        try reader.end()
        for (token, id) in entries { try vocabulary.add(token, id: id, place: place) }
      }
    } catch let error as JSONError {
      throw NibbleError.badInput("\(path: place): \(error.reason) at byte \(error.offset)")
    }
    return vocabulary
  }
}

extension PostProcessor {
  /// `<s> A </s>`, and `<s> A </s></s> B </s>`: all of one type.
  static func roberta(begin: Int, end: Int) -> PostProcessor {
    let single: [Part] = [.special([begin], type: 0), .first(type: 0), .special([end], type: 0)]
    return PostProcessor(
      single: single, pair: single + [.special([end], type: 0), .second(type: 0), .special([end], type: 0)])
  }

  /// `[CLS] A [SEP]`, and `[CLS] A [SEP] B [SEP]`.
  static func bert(begin: Int, end: Int) -> PostProcessor {
    let single: [Part] = [.special([begin], type: 0), .first(type: 0), .special([end], type: 0)]
    return PostProcessor(single: single, pair: single + [.second(type: 1), .special([end], type: 1)])
  }
}
