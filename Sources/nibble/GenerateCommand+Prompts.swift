import NibbleCore
import NibbleModels
import NibbleTemplates

extension GenerateCommand {
  /// A prompt and the adapters it is for.
  struct Prompt {
    /// What the user wrote, for headings.
    var text: String
    var ids: [Int]
    var adapters: [ActiveAdapter]
  }

  /// What the options ask to continue.
  ///
  /// - Parameter talks: the model's chat template, where the options need one
  func prompts(_ open: OpenModel, _ tokens: ModelTokenizer, _ talks: ModelChat?) throws -> [Prompt] {
    if let prompts { return try rows(prompts, open, tokens, talks) }
    if let messages {
      let given = try Conversation(SmallText.json(messages), place: messages)
      return [Prompt(text: "", ids: try cut(talks?.prompt(given) ?? [], tokens), adapters: try open.use(use))]
    }
    let adapters = try open.use(use)
    let text = try prompt.flatMap { $0 == "-" ? nil : $0 } ?? StandardInput.prompt(isAskedFor: prompt != nil)
    return [Prompt(text: text, ids: try cut(ids(of: text, tokens, talks), tokens), adapters: adapters)]
  }

  private func rows(_ path: String, _ open: OpenModel, _ tokens: ModelTokenizer, _ talks: ModelChat?) throws -> [Prompt] {
    var rows: [Prompt] = []
    var known = talks
    try JSONLines.forEach(path) { row, place in
      do {
        let ids: [Int], text: String
        if row["messages"] != nil {
          if known == nil { known = try ModelChat(open.model, tokens, path: tokenizer) }
          guard let talks = known else { throw noTemplate(open.model) }
          // The template does not see the row's own keys.
          let conversation = try Conversation(row.removing("use"), place: "the conversation")
          ids = try talks.prompt(conversation)
          text = conversation.messages.last?["content"]?.string ?? ""
        } else {
          guard let prompt = row["prompt"]?.string else { throw NibbleError.badInput("a row without a 'prompt' or 'messages'") }
          ids = try self.ids(of: prompt, tokens, chat ? talks : nil)
          text = prompt
        }
        let names = row["use"].flatMap { $0 == JSON.null ? nil : $0 }
        if let names, names.string == nil { throw NibbleError.badInput("its 'use' is \(quoted(names.text())), expected a string") }
        rows.append(Prompt(text: text, ids: cut(ids, tokens), adapters: try open.use(names?.string.map { [$0] } ?? use)))
      } catch let error as NibbleError { throw NibbleError(error.kind, "\(path: place): \(error.text)") }
    }
    guard !rows.isEmpty else { throw NibbleError.badInput("\(path: path): no prompts in it") }
    return rows
  }

  /// The end of a prompt that `--max-prompt-tokens` cuts. A special token at its start stays.
  private func cut(_ ids: [Int], _ tokens: ModelTokenizer) -> [Int] {
    guard let maxPromptTokens, ids.count > maxPromptTokens else { return ids }
    common.warn([Warning(.data, "the prompt has \(ids.count) tokens; only its last \(maxPromptTokens) are used")])
    guard maxPromptTokens > 1, let first = ids.first, tokens.tokenizer.isSpecial(first) else { return ids.suffix(maxPromptTokens) }
    return [first] + ids.suffix(maxPromptTokens - 1)
  }

  /// Ids of a prompt: of a text to continue, or of a user's message.
  private func ids(of text: String, _ tokens: ModelTokenizer, _ talks: ModelChat?) throws -> [Int] {
    guard let talks else { return try tokens.prompt(text) }
    return try talks.prompt(Conversation(opening + [Conversation.message("user", text)]))
  }

  /// The messages a conversation starts with.
  var opening: [JSON] { system.map { [Conversation.message("system", $0)] } ?? [] }

  func noTemplate(_ model: Model) -> NibbleError {
    NibbleError.badInput(
      "\(path: tokenizer ?? model.path): no chat template, which --chat, --system and --messages need: neither chat_template.jinja nor "
        + "chat_template in tokenizer_config.json")
  }
}
