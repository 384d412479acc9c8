import NibbleCore

/// BERT's tokenizer in one file: `vocab.txt`, a token a line.
enum VocabText {
  private static let classes: Set<String> = [
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer",
    "LayoutLMTokenizer", "SqueezeBertTokenizer", "DPRQuestionEncoderTokenizer", "RetriBertTokenizer",
  ]

  static func parts(_ bytes: [UInt8], _ config: TokenizerConfig, place: String) throws -> TokenizerParts {
    if let name = config.tokenizerClass, !classes.contains(name) {
      throw NibbleError.badInput("\(path: place): a \(subject: name) of vocab.txt is not supported; a tokenizer.json is")
    }
    var vocabulary = try readVocabulary(bytes, place: place)
    var added = try config.addedTokens(place: place)
    for token in added { try vocabulary.add(token.text, id: token.id, place: place) }
    let roles = [
      ("unk_token", "[UNK]"), ("sep_token", "[SEP]"), ("pad_token", "[PAD]"), ("cls_token", "[CLS]"), ("mask_token", "[MASK]"),
    ]
    let special = roles.map { config.tokenText($0) ?? $1 }
    for text in special where !added.contains(where: { $0.text.elementsEqual(text.utf8) }) {
      if let id = vocabulary.id(of: text) { added.append(AddedToken(text: Array(text.utf8), id: Int(id))) }
    }
    let lowercases = config.flag("do_lower_case") ?? true
    let normalizer = Normalizer.bert(
      cleansText: true, spacesChinese: config.flag("tokenize_chinese_chars") ?? true,
      stripsAccents: config.flag("strip_accents") ?? lowercases, lowercases: lowercases)
    let pipeline = try Pipeline(
      added: AddedTokens(added, place: place) { text in
        var text = Normalizer.Text(bytes: text)
        try normalizer.apply(&text)
        return text.bytes
      },
      normalizer: normalizer, preTokenizer: .bert,
      model: .wordPiece(WordPieceModel(tokens: vocabulary, unknown: special[0])))
    var processor = PostProcessor()
    if let begin = vocabulary.id(of: special[3]), let end = vocabulary.id(of: special[1]) {
      processor = .bert(begin: Int(begin), end: Int(end))
    }
    return TokenizerParts(
      engine: .pipeline(pipeline), postProcessor: processor,
      decodeSteps: [.wordPiece(prefix: Array("##".utf8), cleansUp: true)], vocabulary: vocabulary,
      specialIDs: Set(added.filter(\.isSpecial).map(\.id)))
  }

  private static func readVocabulary(_ bytes: [UInt8], place: String) throws -> Vocabulary {
    var lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map { line in
      line.last == UInt8(ascii: "\r") ? line.dropLast() : line
    }
    while lines.last?.isEmpty == true { lines.removeLast() }
    guard !lines.isEmpty else { throw NibbleError.badInput("\(path: place): no tokens") }
    guard lines.count <= Vocabulary.maximumID else { throw NibbleError.badInput("\(path: place): \(lines.count) tokens") }
    var vocabulary = Vocabulary(capacity: lines.count)
    // Of a token that stands there twice, the last place counts.
    for (id, line) in lines.enumerated().reversed() where !line.isEmpty {
      guard String(validating: line, as: UTF8.self) != nil else {
        throw NibbleError.badInput("\(path: place): line \(id + 1) is not UTF-8")
      }
      if vocabulary.id(of: line) == nil { try vocabulary.add(Array(line), id: id, place: place) }
    }
    return vocabulary
  }
}
