import NibbleCore
import NibbleModels
import NibbleTemplates

extension GenerateCommand {
  /// Reads prompts from standard input and writes the answers, until the input ends.
  func converse(_ open: OpenModel, _ writer: TextGenerator, _ talks: ModelChat?) throws {
    var history = Conversation(opening)
    var adapters = try use.isEmpty && open.set.names.count > 1 ? [] : open.use(use)
    var input = StandardInput()
    while let line = try input.line() {
      if line.hasPrefix("/") {
        let words = line.split(separator: " ", maxSplits: 1).map(String.init)
        switch (words[0], words.dropFirst().first) {
        case ("/quit", _), ("/exit", _): return
        case ("/adapter", nil):
          let active = adapters.map(\.adapter.name)
          write(
            "adapters: \(open.set.names.joined(separator: ", ")); in use: \(active.isEmpty ? "none" : active.joined(separator: ", "))\n",
            to: 2)
        case ("/adapter", let names?):
          do { adapters = try open.set.selection(try open.parse(names)) } catch let error as NibbleError {
            write("nibble: error: \(error.line)\n", to: 2)
          }
        case ("/reset", _) where talks != nil: history = Conversation(opening)
        default:
          write("commands: /adapter NAME[:WEIGHT],… or none; /adapter; \(talks == nil ? "" : "/reset; ")/quit\n", to: 2)
        }
        continue
      }
      do {
        var next = history
        let prompt = try talks.map { try nextTurn(line, &next, $0, open.model) } ?? writer.tokens.prompt(line)
        let results = try writer.run([(prompt, adapters)]) { _, text in try show(text) }
        // A turn that fails leaves nothing behind.
        history = next
        history.messages.append(Conversation.message("assistant", results.texts[0].text))
        try show("\n")
      } catch let error as NibbleError where [.usage, .badInput].contains(error.kind) {
        write("nibble: error: \(error.line)\n", to: 2)
      }
    }
  }

  /// Ids of the conversation with another message of the user's, its oldest turns left out where it is too long for the context.
  private func nextTurn(_ line: String, _ next: inout Conversation, _ talks: ModelChat, _ model: Model) throws -> [Int] {
    next.messages.append(Conversation.message("user", line))
    let context = try model.contextLength
    let room = context - min(maxNewTokens, context / 2)
    let dropped = try next.dropOldestTurns { try talks.prompt($0).count <= room }
    if dropped > 0 {
      common.warn([
        Warning(.data, "the conversation exceeds the context of \(context) tokens; its oldest \(dropped) messages are left out")
      ])
    }
    return try talks.prompt(next)
  }
}
