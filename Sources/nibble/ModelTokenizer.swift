import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTokenizers

/// A model's tokenizer: its own, from the checkpoint's small files, or another.
struct ModelTokenizer {
  let tokenizer: Tokenizer
  /// The token a text to learn from ends with, if there is one.
  let end: Int?
  /// The id sequences begin with, if the tokenizer puts one there.
  let mark: Int?

  init(_ model: Model, path: String?) throws {
    let vocabulary = try model.tokens(for: "a tokenizer").vocabulary
    tokenizer =
      try path.map { try Tokenizer.open($0) }
      ?? Tokenizer(
        files: model.checkpoint.contents(ofSmallFiles: Tokenizer.fileNames), place: model.path)
    guard tokenizer.vocabularySize <= vocabulary else {
      throw NibbleError.badInput(
        "\(path ?? model.path): the tokenizer has ids up to \(tokenizer.vocabularySize - 1), the model a vocabulary of "
          + "\(vocabulary): they do not belong together")
    }
    end = try tokenizer.special.eos ?? model.endIDs.min()
    let empty = try tokenizer.encode("").ids
    mark = empty.count <= 2 ? empty.first : nil
  }

  /// Ids of a prompt, special tokens put where the model expects them.
  func prompt(_ text: String) throws -> [Int] { try tokenizer.encode(text).ids }

  /// Ids of a text without marks.
  func ids(_ text: String) throws -> [Int] { try tokenizer.encode(text, addSpecialTokens: false).ids }
}

extension Model {
  /// `eos_token_id` of the generation configuration, else of the model's: one id or several.
  var endIDs: Set<Int> {
    get throws {
      let name = "generation_config.json"
      var found: JSON?
      if let bytes = try checkpoint.contents(ofSmallFiles: [name], limit: 1 << 20)[name] {
        do { found = try JSON.parse(bytes)["eos_token_id"] } catch {
          throw NibbleError.badInput("\(path: path): \(name): \(error.reason) at byte \(error.offset)")
        }
      }
      let value = found ?? config.json["eos_token_id"]
      return Set(value?.array?.compactMap(\.int) ?? value?.int.map { [$0] } ?? [])
    }
  }
}
