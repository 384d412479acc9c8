import NibbleCalibration
import NibbleCore
import NibbleModels
import NibbleTemplates
import NibbleTokenizers

/// Where texts begin that a model writes itself: at the start of a document, and where the user speaks in its chat template.
enum ChatOpening {
  /// Stands for the user's words, which no template writes by itself.
  private static let words = "\u{E000}words\u{E001}"

  /// - Returns: two beginnings where the model has a chat template, else one
  static func beginnings(_ model: Model, _ tokens: ModelTokenizer) throws -> [CalibrationText.Beginning] {
    let special = tokens.tokenizer.special
    let free = ["<|endoftext|>", "<|begin_of_text|>", "<s>"].lazy.compactMap { tokens.tokenizer.id(of: $0) }.first
      ?? special.bos ?? special.eos ?? tokens.end
    var beginnings = free.map { [CalibrationText.Beginning([$0])] } ?? []
    if let (opening, reply) = try texts(model) {
      func ids(_ text: String) throws -> [Int] { try tokens.tokenizer.encode(text, addSpecialTokens: false).ids }
      let before = try ids(opening)
      if before.count > 1 { beginnings.append(.init(before, reply: try ids(reply))) }
    }
    return beginnings
  }

  /// What the model's template puts before the first word of the user's, and between the last one and an answer.
  private static func texts(_ model: Model) throws -> (opening: String, reply: String)? {
    guard let templates = try ChatTemplates(files: ModelChat.files(of: model, path: nil), place: model.path) else { return nil }
    let conversation = Conversation([Conversation.message("user", words)])
    let written = try templates.render(conversation, addsPrompt: true).text
    return written.range(of: words).map { (String(written[..<$0.lowerBound]), String(written[$0.upperBound...])) }
  }
}
