import NibbleCore
import NibbleModels
import NibbleTemplates
import NibbleTokenizers

/// Where texts begin that a model writes itself: at the start of a document, and where the user speaks in its chat template.
enum ChatOpening {
  /// Stands for the user's words, which no template writes by itself.
  private static let words = "\u{E000}words\u{E001}"

  /// - Returns: two beginnings where the model has a chat template, else one
  static func beginnings(_ model: Model, _ tokens: ModelTokenizer) throws -> [[Int]] {
    let special = tokens.tokenizer.special
    let free = ["<|endoftext|>", "<|begin_of_text|>", "<s>"].lazy.compactMap { tokens.tokenizer.id(of: $0) }.first
      ?? special.bos ?? special.eos ?? tokens.end
    var beginnings = free.map { [[$0]] } ?? []
    if let opening = try text(model) {
      let ids = try tokens.tokenizer.encode(opening, addSpecialTokens: false).ids
      if ids.count > 1 { beginnings.append(ids) }
    }
    return beginnings
  }

  /// What the model's template puts before the first word of the user's.
  private static func text(_ model: Model) throws -> String? {
    guard let templates = try ChatTemplates(files: ModelChat.files(of: model, path: nil), place: model.path) else { return nil }
    let conversation = Conversation([Conversation.message("user", words)])
    let written = try templates.render(conversation, addsPrompt: false).text
    return written.range(of: words).map { String(written[..<$0.lowerBound]) }
  }
}
