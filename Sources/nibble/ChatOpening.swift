import NibbleCore
import NibbleModels
import NibbleTokenizers
import NibbleTraining

/// Where texts begin that a model writes itself: at the start of a document, and where the user speaks in its chat template.
enum ChatOpening {
  /// - Returns: two beginnings where the model has a chat template, else one
  static func beginnings(_ model: Model, _ tokens: ModelTokenizer) throws -> [[Int]] {
    let special = tokens.tokenizer.special
    let free = ["<|endoftext|>", "<|begin_of_text|>", "<s>"].lazy.compactMap { tokens.tokenizer.id(of: $0) }.first
      ?? special.bos ?? special.eos ?? tokens.end
    var beginnings = free.map { [[$0]] } ?? []
    if let opening = try text(model) {
      let ids = try tokens.prompt(opening)
      if ids.count > 1 { beginnings.append(ids) }
    }
    return beginnings
  }

  /// The template conversations are written out with, by the marks in the model's own.
  static func template(_ model: Model) throws -> ChatTemplate? {
    guard let text = try source(model) else { return nil }
    let known: [(String, ChatTemplate)] = [
      ("<|im_start|>", .chatml), ("<|start_header_id|>", .llama3), ("[INST]", .mistral), ("<|user|>", .zephyr),
    ]
    return known.first { text.contains($0.0) }?.1
  }

  private static func source(_ model: Model) throws -> String? {
    let name = "tokenizer_config.json"
    guard let bytes = try model.checkpoint.contents(ofSmallFiles: [name], limit: 1 << 24)[name] else { return nil }
    do { return try JSON.parse(bytes)["chat_template"]?.string } catch {
      throw NibbleError.badInput("\(model.path): \(name): \(error.reason) at byte \(error.offset)")
    }
  }

  /// What the chat template puts before the first word of the user's, as far as its text shows it.
  private static func text(_ model: Model) throws -> String? {
    guard let template = try source(model) else { return nil }
    let known: [(mark: String, user: String)] = [
      ("<|im_start|>", "<|im_start|>user\n"), ("<|start_header_id|>", "<|start_header_id|>user<|end_header_id|>\n\n"),
      ("<|user|>", "<|user|>\n"), ("[INST]", "[INST] "),
    ]
    guard let (mark, user) = known.first(where: { template.contains($0.mark) }) else { return nil }
    // A system message of the template's own stands there as one literal.
    let system = literals(template).first { $0.hasPrefix(mark + "system") && $0.utf8.count > mark.utf8.count + 16 } ?? ""
    return system + user
  }

  /// Texts in quotes.
  private static func literals(_ template: String) -> [String] {
    var found: [String] = []
    var rest = template[...]
    while let open = rest.firstIndex(where: { $0 == "'" || $0 == "\"" }) {
      let quote = rest[open]
      var text = ""
      var at = rest.index(after: open)
      while at < rest.endIndex, rest[at] != quote {
        if rest[at] == "\\", rest.index(after: at) < rest.endIndex {
          at = rest.index(after: at)
          text.append(rest[at] == "n" ? "\n" : rest[at])
        } else {
          text.append(rest[at])
        }
        at = rest.index(after: at)
      }
      found.append(text)
      rest = at < rest.endIndex ? rest[rest.index(after: at)...] : rest[rest.endIndex...]
    }
    return found
  }
}
