import NibbleCore

/// Ranks as tiktoken keeps them: lines of a token in base 64 and its rank. Llama 3's `tokenizer.model`.
enum TiktokenRanks {
  /// Whether a `tokenizer.model` is of this kind: a SentencePiece model starts with a byte that is no letter.
  static func isRanks(_ bytes: [UInt8]) -> Bool { bytes.first.map { Base64.value(of: $0) != nil } ?? false }

  /// The tokenizer of ranks and, where it is there, a `special_tokens.json` with its pattern and special tokens.
  static func parts(_ bytes: [UInt8], _ special: JSON?, _ files: TokenizerFiles) throws -> TokenizerParts {
    let place = files.place(of: "tokenizer.model")
    let tokens = try ranks(bytes, place: place)
    var vocabulary = try tokens.mapped(place: place) { ByteAlphabet.spelling(of: $0) }
    let specialPlace = files.place(of: "special_tokens.json")
    var added: [AddedToken] = []
    for (text, id) in special?["special_tokens"]?.members ?? [] {
      guard let id = id.int else {
        throw NibbleError.badInput("\(path: specialPlace): the id of \(subject: text) is no whole number")
      }
      try vocabulary.add(text, id: id, place: specialPlace)
      added.append(AddedToken(text: Array(text.utf8), id: id))
    }
    let pattern = try RegexDialect.compile(
      special?["pat_str"]?.string ?? KnownPattern.llama3, .rust, place: special == nil ? place : specialPlace)
    var model = BytePairModel(tokens: tokens, ranks: .tokens)
    model.isOfBytes = true
    model.ignoresMerges = true
    let pipeline = try Pipeline(
      added: AddedTokens(added, place: specialPlace) { $0 }, normalizer: nil,
      preTokenizer: .split(.regex(pattern), .removed, inverted: true), model: .bytePairs(model))
    var processor = PostProcessor()
    if let begin = added.first(where: { $0.text.elementsEqual("<|begin_of_text|>".utf8) })?.id {
      processor.single = [.special([begin], type: 0), .first(type: 0)]
      processor.pair = processor.single + [.special([begin], type: 1), .second(type: 1)]
    }
    return TokenizerParts(
      engine: .pipeline(pipeline), postProcessor: processor, decodeSteps: [.byteLevel(spelled: true)],
      vocabulary: vocabulary, specialIDs: Set(added.map(\.id)))
  }

  private static func ranks(_ bytes: [UInt8], place: String) throws -> Vocabulary {
    var tokens = Vocabulary(capacity: bytes.count / 16)
    var line = 1
    var token: [UInt8] = []
    for text in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
      defer { line += 1 }
      let text = text.last == UInt8(ascii: "\r") ? text.dropLast() : text
      if text.isEmpty { continue }
      func bad(_ what: MessageText) -> NibbleError { .badInput("\(path: place): line \(line) \(what)") }
      guard let space = text.firstIndex(of: UInt8(ascii: " ")) else { throw bad("is no token and rank") }
      guard Base64.decode(text[..<space], into: &token), !token.isEmpty else { throw bad("has a token that is not in base 64") }
      let digits = text[(space + 1)...]
      guard !digits.isEmpty, digits.count <= 18, digits.allSatisfy({ (0x30...0x39).contains($0) }) else {
        throw bad("has a rank that is no whole number")
      }
      let rank = digits.reduce(0) { $0 * 10 + Int($1 - 0x30) }
      do { try tokens.add(token, id: rank, place: place) } catch let error as NibbleError { throw bad("— \(error.text)") }
    }
    guard tokens.count > 0 else { throw NibbleError.badInput("\(path: place): no ranks") }
    for byte in UInt8.min...UInt8.max where tokens.id(of: [byte]) == nil {
      throw NibbleError.badInput("\(path: place): byte \(byte) has no rank, so some texts have no tokens")
    }
    return tokens
  }
}
