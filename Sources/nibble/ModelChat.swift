import NibbleCore
import NibbleModels
import NibbleTemplates
import NibbleTokenizers

/// How a model is talked to: its chat templates, and the tokens of a conversation.
struct ModelChat {
  let templates: ChatTemplates
  private let tokenizer: Tokenizer

  /// - Parameter path: where the tokenizer is, if it is not the model's own
  /// - Returns: nil for a model without a template
  init?(_ model: Model, _ tokens: ModelTokenizer, path: String?) throws {
    guard let templates = try ChatTemplates(files: Self.files(of: model, path: path), place: path ?? model.path) else { return nil }
    (self.templates, tokenizer) = (templates, tokens.tokenizer)
  }

  /// The files that say how conversations with a model are written out.
  static func files(of model: Model, path: String?) throws -> [String: [UInt8]] {
    let place = path ?? model.path
    if path != nil { return try Chat.files(at: place) }
    let own = try model.checkpoint.contents(ofSmallFiles: ChatTemplates.fileNames + [ChatTemplates.folderName + "/"])
    // An adapter may bring files in place of the folder's.
    return PathKind(place) == .folder ? try Chat.files(at: place).merging(own) { $1 } : own
  }

  /// Ids of the conversation with the answer begun.
  func prompt(_ conversation: Conversation) throws -> [Int] {
    try tokenizer.encode(templates.render(conversation, addsPrompt: true).text, addSpecialTokens: false).ids
  }

  /// The special token that the template puts behind an answer: a model that writes it is done.
  var answerEnd: Int? {
    let mark = "nibble-answer"
    let probe = Conversation([Conversation.message("user", "a"), Conversation.message("assistant", mark)])
    // A template may refuse the probe, and then says nothing about the end.
    guard let text = try? templates.render(probe, addsPrompt: false).text else { return nil }
    let pieces = text.utf8.split(separator: mark.utf8)
    guard let rest = pieces.last.flatMap({ String($0) }), pieces.count > 1 else { return nil }
    let ids = (try? tokenizer.encode(rest, addSpecialTokens: false).ids) ?? []
    return ids.first.flatMap { tokenizer.isSpecial($0) ? $0 : nil }
  }
}
