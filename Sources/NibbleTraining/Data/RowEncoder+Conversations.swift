import NibbleCore
import NibbleTemplates
import NibbleTokenizers

/// Rows that are conversations.
extension RowEncoder {
  /// Whether a row needs a template.
  public static func isConversation(_ row: JSON) -> Bool { RowMessages.are(in: row) }

  /// Tokens and labels of a conversation.
  ///
  /// - Throws: `.badInput` naming the place
  func conversation(_ row: RowFields) throws -> (ids: [Int], labels: [Int]) {
    let messages = try RowMessages(row.json, row.fail)
    guard let template else { return try written(messages, row) }
    var ids: [Int] = [], labels: [Int] = []
    let said = try messages.messages.map { message in
      guard let role = message["role"]?.string, let content = message["content"]?.string else {
        throw row.fail("a message lacks a role or a content")
      }
      return (role, content)
    }
    let pieces = try template.pieces(said).get(orFail: row.fail)
    let answers = try learned(pieces.indices.filter { pieces[$0].isAnswer }, messages, row.fail)
    for (index, piece) in pieces.enumerated() {
      let own = try encode(piece.text, marks: ids.isEmpty && piece.begins)
      ids += own
      let isLearned = trainsOnPrompt || answers.contains(index)
      labels += isLearned ? own : [Int](repeating: TrainingRow.ignored, count: own.count)
    }
    return (ids, labels)
  }

  /// Those of a conversation's answers that are learned.
  private func learned<Answer>(_ answers: [Answer], _ messages: RowMessages, _ fail: (MessageText) -> NibbleError) throws -> [Answer] {
    let own = messages.messages.count { $0["role"]?.string == "assistant" }
    guard messages.read == 0 || answers.count == own else {
      throw fail("the template marks \(answers.count) answers in a conversation of \(own), so those of the prompt cannot be identified")
    }
    let rest = answers.dropFirst(messages.read)
    guard messages.read == 0 || !rest.isEmpty else { throw fail("the completion has no message of the assistant") }
    return learnedTurns == .all ? Array(rest) : Array(rest.suffix(1))
  }

  /// A conversation by the model's own template.
  private func written(_ messages: RowMessages, _ row: RowFields) throws -> (ids: [Int], labels: [Int]) {
    guard let templates else {
      let known = ChatTemplate.allCases.map(\.rawValue).joined(separator: ", ")
      throw row.fail("messages need a template, and the model has none: \(.template, known)")
    }
    let tokenizer = try texts()
    // A template sees no other keys of a row.
    let known = (row.json.members ?? []).filter { ["tools", "documents"].contains($0.key) }
    var conversation = try Conversation(.object(known + [("messages", .array(messages.messages))]), place: row.place)
    conversation.variables = row.json["chat_template_kwargs"]?.members ?? []
    do {
      let written = try WrittenConversation(conversation, templates)
      let ids = try tokenizer.encode(written.text, addSpecialTokens: false).ids
      if trainsOnPrompt { return (ids, ids) }
      guard !written.answers.isEmpty else { throw NibbleError.badInput("the conversation has no message of the assistant") }
      guard let spans = tokenizer.byteSpans(of: ids, in: written.text) else {
        throw NibbleError.badInput("the tokenizer changes the text, so the answers' tokens cannot be identified; name another \(.template)")
      }
      let mask = try written.mask(spans, learned(written.answers, messages, row.fail))
      return (ids, zip(ids, mask).map { $1 ? $0 : TrainingRow.ignored })
    } catch let error as NibbleError where error.kind == .badInput { throw row.fail("\(error.text)") }
  }
}
