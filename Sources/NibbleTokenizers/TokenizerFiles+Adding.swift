import NibbleCore

extension Tokenizer {
  /// The files of a tokenizer with special tokens added, as transformers saves them.
  ///
  /// - Parameters:
  ///   - tokens: texts that are to be one token each; those the tokenizer has already are left out
  ///   - files: of the tokenizer, by name
  /// - Returns: the files that change, and the new ids
  /// - Throws: `.usage` for a tokenizer without tokenizer.json
  public static func adding(
    _ tokens: [String], to files: [String: [UInt8]], place: String
  ) throws -> (files: [String: [UInt8]], ids: [(token: String, id: Int)]) {
    let tokenizer = try Tokenizer(files: files, place: place)
    let own = try TokenizerFiles(files, place: place)
    guard let json = try own.json("tokenizer.json"), tokenizer.source == .tokenizerJSON else {
      throw NibbleError.usage("\(path: place): tokens are added to a tokenizer.json, and there is none")
    }
    let new = tokens.filter { tokenizer.id(of: $0) == nil }.enumerated().map { (token: $1, id: tokenizer.vocabularySize + $0) }
    func entry(_ token: String) -> [(key: String, value: JSON)] {
      [
        ("content", JSON(token)), ("single_word", false), ("lstrip", false), ("rstrip", false), ("normalized", false), ("special", true),
      ]
    }
    let entries = new.map { JSON.object([("id", JSON($0.id))] + entry($0.token)) }
    var changed = ["tokenizer.json": json.setting("added_tokens", to: .array((json["added_tokens"]?.array ?? []) + entries)).fileBytes]
    if let config = try own.json("tokenizer_config.json"), let known = config["added_tokens_decoder"]?.members {
      let all = known + new.map { (key: String($0.id), value: JSON.object(entry($0.token))) }
      changed["tokenizer_config.json"] = config.setting("added_tokens_decoder", to: .object(all)).fileBytes
    }
    let known = try own.json("added_tokens.json")?.members ?? []
    changed["added_tokens.json"] = JSON.object(known + new.map { (key: $0.token, value: JSON($0.id)) }).fileBytes
    return (changed, new)
  }
}
