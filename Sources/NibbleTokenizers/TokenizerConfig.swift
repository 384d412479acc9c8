import NibbleCore

/// What a model's configurations say about its tokenizer.
struct TokenizerConfig {
  /// `tokenizer_config.json`, or an empty object.
  let json: JSON
  private let tokensMap: JSON?
  private let generation: JSON?
  private let model: JSON?
  private let addedTokens: JSON?

  init(_ files: TokenizerFiles) throws {
    json = try files.json("tokenizer_config.json") ?? .object([])
    tokensMap = try files.json("special_tokens_map.json")
    generation = try files.json("generation_config.json")
    model = try files.json("config.json")
    addedTokens = try files.json("added_tokens.json")
  }

  /// `LlamaTokenizer`, whether the configuration says that or `LlamaTokenizerFast`.
  var tokenizerClass: String? {
    json["tokenizer_class"]?.string.map { $0.hasSuffix("Fast") ? String($0.dropLast(4)) : $0 }
  }

  var modelType: String? { model?["model_type"]?.string }

  func flag(_ name: String) -> Bool? { json[name]?.bool }

  /// The text of a special token: given as a text, or as an object with its content.
  func tokenText(_ role: String) -> String? {
    for source in [json, tokensMap ?? .null] {
      if let value = source[role], let text = value.string ?? value["content"]?.string { return text }
    }
    return nil
  }

  /// Tokens added to a vocabulary: `added_tokens_decoder`, or `added_tokens.json` of older models.
  func addedTokens(place: String) throws -> [AddedToken] {
    if let members = json["added_tokens_decoder"]?.members {
      return try members.map { key, value in
        guard let id = Int(key), let text = value["content"]?.string else {
          throw NibbleError.badInput("\(path: place): added_tokens_decoder says nothing of use for \(subject: key)")
        }
        return AddedToken(
          text: Array(text.utf8), id: id, isSpecial: value["special"]?.bool ?? false,
          isSingleWord: value["single_word"]?.bool ?? false, stripsLeft: value["lstrip"]?.bool ?? false,
          stripsRight: value["rstrip"]?.bool ?? false, isNormalized: value["normalized"]?.bool ?? true)
      }
    }
    return try (addedTokens?.members ?? []).map { key, value in
      guard let id = value.int else {
        throw NibbleError.badInput("\(path: place): added_tokens.json gives no id for \(subject: key)")
      }
      return AddedToken(text: Array(key.utf8), id: id, isSpecial: false)
    }
  }

  private static var roles: [(path: WritableKeyPath<SpecialTokens, Int?>, name: String, usual: [String])] {
    [
      (\.bos, "bos_token", ["<|begin_of_text|>", "<s>", "<bos>", "[CLS]", "<|startoftext|>", "<|endoftext|>"]),
      (\.eos, "eos_token", ["<|end_of_text|>", "</s>", "<eos>", "[SEP]", "<|im_end|>", "<|endoftext|>"]),
      (\.pad, "pad_token", ["<pad>", "[PAD]", "<|finetune_right_pad_id|>"]),
      (\.unknown, "unk_token", ["<unk>", "[UNK]"]),
      (\.mask, "mask_token", ["<mask>", "[MASK]"]),
    ]
  }

  /// The texts of all tokens that have a part to play: of one each, and of lists.
  private var named: [String] {
    let single = Self.roles.map(\.name) + ["sep_token", "cls_token"]
    let lists = ["additional_special_tokens", "extra_special_tokens"].flatMap { key in
      [json, tokensMap ?? .null].flatMap { ($0[key]?.array ?? []) + ($0[key]?.members?.map(\.value) ?? []) }
    }
    return single.compactMap(tokenText) + lists.compactMap { $0.string ?? $0["content"]?.string }
  }

  /// Which tokens have a meaning: what the configurations say; where they are silent, what the tokens' names say.
  func special(_ parts: TokenizerParts, of file: SentencePieceFile? = nil) -> SpecialTokens {
    var special = SpecialTokens()
    func known(_ id: Int?) -> Int? { id.flatMap { parts.vocabulary[$0] == nil ? nil : $0 } }
    if let file {
      (special.bos, special.eos) = (known(file.bos), known(file.eos))
      (special.pad, special.unknown) = (known(file.pad), known(file.unknown))
    }
    let isSilent = json["bos_token"] == nil && json["eos_token"] == nil && tokensMap == nil && file == nil
    for (path, role, usual) in Self.roles {
      if let text = tokenText(role) {
        special[keyPath: path] = parts.vocabulary.id(of: text).map { Int($0) }
      } else if isSilent {
        let found = usual.lazy.compactMap { parts.vocabulary.id(of: $0).map { Int($0) } }
        special[keyPath: path] = found.first { parts.specialIDs.contains($0) }
      }
    }
    var stops: [Int] = []
    for id in [special.eos] + stopIDs.map(known) where id != nil {
      if let id, !stops.contains(id) { stops.append(id) }
    }
    special.stops = stops
    special.named = Set(named.compactMap { parts.vocabulary.id(of: $0).map { Int($0) } })
    return special
  }

  /// `eos_token_id` of the generation configuration or, where there is no such file, of the model's: one or several.
  private var stopIDs: [Int?] {
    let value = (generation ?? model)?["eos_token_id"]
    return value?.array?.prefix(1000).map(\.int) ?? [value?.int]
  }
}
