import NibbleCore

/// The parts of a `tokenizer.json` beside its model. What is not known is refused by name.
struct TokenizerJSONComponents {
  let place: String

  private func refused(_ part: String, _ type: JSON?) -> NibbleError {
    .badInput("\(path: place): the \(part) \(subject: type?.string ?? "without a type") is not supported")
  }

  private func bad(_ part: String, _ key: String) -> NibbleError {
    .badInput("\(path: place): \(part) has no usable \(subject: key)")
  }

  private func text(_ json: JSON, _ key: String, _ part: String) throws -> [UInt8] {
    guard let text = json[key]?.string, text.utf8.count <= 4096 else { throw bad(part, key) }
    return Array(text.utf8)
  }

  private func flag(_ json: JSON, _ key: String, _ usual: Bool) throws -> Bool {
    guard let value = json[key], value != .null else { return usual }
    guard let flag = value.bool else { throw bad("a component", key) }
    return flag
  }

  private func list(_ json: JSON, _ key: String, _ part: String) throws -> [JSON] {
    guard let list = json[key]?.array, list.count <= 64 else { throw bad(part, key) }
    return list
  }

  /// `{"String": …}` or `{"Regex": …}`.
  private func pattern(_ json: JSON?, _ part: String) throws -> TextPattern {
    if let text = json?["Regex"]?.string { return .regex(try RegexDialect.compile(text, .oniguruma, place: place)) }
    guard let text = json?["String"]?.string ?? json?.string, !text.isEmpty, text.utf8.count <= AddedTokens.maximumLength
    else { throw bad(part, "pattern") }
    return .literal(Array(text.utf8))
  }

  func addedTokens(_ json: JSON?) throws -> [AddedToken] {
    try (json?.array ?? []).map { entry in
      guard let id = entry["id"]?.int, let text = entry["content"]?.string else { throw bad("an added token", "id or content") }
      return AddedToken(
        text: Array(text.utf8), id: id, isSpecial: try flag(entry, "special", false),
        isSingleWord: try flag(entry, "single_word", false), stripsLeft: try flag(entry, "lstrip", false),
        stripsRight: try flag(entry, "rstrip", false), isNormalized: try flag(entry, "normalized", true))
    }
  }

  func normalizer(_ json: JSON?) throws -> Normalizer? {
    guard let json, json != .null else { return nil }
    switch json["type"]?.string {
    case "NFC": return .form(.nfc)
    case "NFD": return .form(.nfd)
    case "NFKC": return .form(.nfkc)
    case "NFKD": return .form(.nfkd)
    case "Lowercase": return .lowercase
    case "Strip": return .strip(left: try flag(json, "strip_left", true), right: try flag(json, "strip_right", true))
    case "StripAccents": return .stripAccents
    case "Replace": return .replace(try pattern(json["pattern"], "Replace"), with: try text(json, "content", "Replace"))
    case "Prepend": return .prepend(try text(json, "prepend", "Prepend"))
    case "ByteLevel": return .byteLevel
    case "BertNormalizer":
      let lowercases = try flag(json, "lowercase", true)
      return .bert(
        cleansText: try flag(json, "clean_text", true), spacesChinese: try flag(json, "handle_chinese_chars", true),
        stripsAccents: try flag(json, "strip_accents", lowercases), lowercases: lowercases)
    case "Precompiled":
      guard let text = json["precompiled_charsmap"]?.string, let bytes = Base64.decode(text.utf8) else {
        throw bad("Precompiled", "precompiled_charsmap")
      }
      return .precompiled(try CharacterMap(bytes, place: place))
    case "Sequence":
      return .sequence(try list(json, "normalizers", "a sequence").compactMap { try normalizer($0) })
    default: throw refused("normalizer", json["type"])
    }
  }

  func preTokenizer(_ json: JSON?) throws -> PreTokenizer? {
    guard let json, json != .null else { return nil }
    switch json["type"]?.string {
    case "ByteLevel":
      let pattern =
        try flag(json, "use_regex", true) ? try RegexDialect.compile(KnownPattern.gpt2, .oniguruma, place: place) : nil
      return .byteLevel(addsSpace: try flag(json, "add_prefix_space", true), pattern: pattern, spells: true)
    case "Whitespace": return .whitespace
    case "WhitespaceSplit": return .whitespaceSplit
    case "BertPreTokenizer": return .bert
    case "Punctuation": return .punctuation(try behavior(json, usual: .isolated))
    case "Digits": return .digits(eachAlone: try flag(json, "individual_digits", false))
    case "CharDelimiterSplit": return .delimiter(try text(json, "delimiter", "CharDelimiterSplit"))
    case "Metaspace":
      let (mark, prepending) = try metaspace(json)
      return .metaspace(replacement: mark, prepending, splits: try flag(json, "split", true))
    case "Split":
      return .split(
        try pattern(json["pattern"], "Split"), try behavior(json, usual: nil), inverted: try flag(json, "invert", false))
    case "Sequence":
      return .sequence(try list(json, "pretokenizers", "a sequence").compactMap { try preTokenizer($0) })
    default: throw refused("pre-tokenizer", json["type"])
    }
  }

  private func behavior(_ json: JSON, usual: SplitBehavior?) throws -> SplitBehavior {
    guard let name = json["behavior"]?.string else {
      if let usual { return usual }
      throw bad("Split", "behavior")
    }
    guard let behavior = SplitBehavior(rawValue: name) else { throw refused("behavior", json["behavior"]) }
    return behavior
  }

  /// The mark of a Metaspace, and when it is put in front; older files say the latter by `add_prefix_space`.
  private func metaspace(_ json: JSON) throws -> ([UInt8], PreTokenizer.Prepending) {
    let mark = try text(json, "replacement", "Metaspace")
    guard (1...4).contains(mark.count) else { throw bad("Metaspace", "replacement") }
    if let scheme = json["prepend_scheme"], scheme != .null {
      guard let name = scheme.string, let prepending = PreTokenizer.Prepending(rawValue: name) else {
        throw bad("Metaspace", "prepend_scheme")
      }
      return (mark, prepending)
    }
    return (mark, try flag(json, "add_prefix_space", true) ? .always : .never)
  }

  func decoder(_ json: JSON?) throws -> [DecodeStep] {
    guard let json, json != .null else { return [.join] }
    switch json["type"]?.string {
    case "ByteLevel": return [.byteLevel(spelled: true)]
    case "Replace": return [.replace(try pattern(json["pattern"], "Replace"), with: try text(json, "content", "Replace"))]
    case "ByteFallback": return [.byteFallback]
    case "Fuse": return [.fuse]
    case "Strip":
      let character = try text(json, "content", "Strip")
      guard (1...4).contains(character.count), let start = json["start"]?.int, let stop = json["stop"]?.int,
        (0...1000).contains(start), (0...1000).contains(stop)
      else { throw bad("Strip", "content, start or stop") }
      return [.strip(character, start: start, stop: stop)]
    case "Metaspace":
      let (mark, prepending) = try metaspace(json)
      return [.metaspace(mark, dropsFirst: prepending != .never)]
    case "WordPiece":
      return [.wordPiece(prefix: Array((json["prefix"]?.string ?? "##").utf8), cleansUp: try flag(json, "cleanup", true))]
    case "BPEDecoder": return [.bytePairs(suffix: Array((json["suffix"]?.string ?? "</w>").utf8))]
    case "Sequence": return try list(json, "decoders", "a sequence").flatMap { try decoder($0) }
    default: throw refused("decoder", json["type"])
    }
  }

  func postProcessor(_ json: JSON?) throws -> PostProcessor {
    guard let json, json != .null else { return PostProcessor() }
    func token(_ key: String, _ part: String) throws -> Int {
      guard let pair = json[key]?.array, pair.count == 2, let id = pair[1].int, id >= 0, id < Vocabulary.maximumID else {
        throw bad(part, key)
      }
      return id
    }
    switch json["type"]?.string {
    // It moves offsets, which we do not give.
    case "ByteLevel": return PostProcessor()
    case "BertProcessing": return .bert(begin: try token("cls", "BertProcessing"), end: try token("sep", "BertProcessing"))
    case "RobertaProcessing":
      return .roberta(begin: try token("cls", "RobertaProcessing"), end: try token("sep", "RobertaProcessing"))
    case "TemplateProcessing":
      return PostProcessor(single: try template(json, "single"), pair: try template(json, "pair"))
    case "Sequence":
      let all = try list(json, "processors", "a sequence").map { try postProcessor($0) }
      let usual = PostProcessor()
      let active = all.filter { $0.single != usual.single || $0.pair != usual.pair }
      guard active.count <= 1 else { throw refused("post-processor", "Sequence of several templates") }
      return active.first ?? usual
    default: throw refused("post-processor", json["type"])
    }
  }

  private func template(_ json: JSON, _ key: String) throws -> [PostProcessor.Part] {
    try list(json, key, "TemplateProcessing").map { piece in
      guard let (kind, value) = piece.members?.first, let name = value["id"]?.string, let type = value["type_id"]?.int,
        (0...1000).contains(type)
      else { throw bad("TemplateProcessing", key) }
      switch (kind, name) {
      case ("Sequence", "A"): return .first(type: type)
      case ("Sequence", "B"): return .second(type: type)
      case ("SpecialToken", _):
        guard let ids = json["special_tokens"]?[name]?["ids"]?.array?.map(\.int), ids.count <= 1000,
          ids.allSatisfy({ $0.map { (0..<Vocabulary.maximumID).contains($0) } ?? false })
        else { throw bad("TemplateProcessing", "special_tokens of \(name)") }
        return .special(ids.compactMap { $0 }, type: type)
      default: throw bad("TemplateProcessing", key)
      }
    }
  }
}
