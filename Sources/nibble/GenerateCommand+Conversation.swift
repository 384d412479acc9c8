import ArgumentParser
import NibbleCore
import NibbleModels
import NibbleTemplates

extension GenerateCommand {
  /// Reads prompts line by line and prints the answers, until the input ends. At a terminal, Ctrl-C stops an answer.
  ///
  /// - Throws: the exit code of the first line that failed, where nobody sits at a terminal
  func converse(_ open: OpenModel, _ writer: TextGenerator, _ talks: ModelChat?) throws {
    let editor = LineEditor()
    var history = Conversation(opening)
    var adapters = try use.isEmpty && open.set.names.count > 1 ? [] : open.use(use)
    if editor.isTerminal, !common.quiet { write(greeting(open, isChat: talks != nil), to: 2) }
    var failure: NibbleError?
    while let line = try editor.line() {
      if line.allSatisfy(\.isWhitespace) { continue }
      do {
        if line.hasPrefix("/") {
          guard try command(line, &history, &adapters, open, isChat: talks != nil) else { break }
          continue
        }
        var next = history
        let prompt = try talks.map { try nextTurn(line, &next, $0, open.model) } ?? writer.tokens.prompt(line)
        let answer = try answer(prompt, adapters, writer, canStop: editor.isTerminal)
        // A turn that fails leaves nothing behind.
        history = next
        history.messages.append(Conversation.message("assistant", answer))
      } catch let error as NibbleError where [.usage, .badInput].contains(error.kind) {
        write("nibble: error: \(error.line)\n", to: 2)
        if failure == nil { failure = error }
      }
    }
    if let failure, !editor.isTerminal { throw ExitCode(failure.kind.rawValue) }
  }

  /// Prints an answer as it is generated.
  ///
  /// - Parameter canStop: whether Ctrl-C stops the answer and not the program
  /// - Returns: the answer, or as much of it as there was when it was stopped
  private func answer(_ prompt: [Int], _ adapters: [ActiveAdapter], _ writer: TextGenerator, canStop: Bool) throws -> String {
    var said = ""
    do {
      let results = try writer.run([(prompt, adapters)]) { _, text in
        said += text
        try show(text)
      }
      if numBeams > 1 { try show(results.texts[0].text) }
      try show("\n")
      warnOfFullContexts(results)
      if common.verbose { write(Self.speed(results.timing) + "\n", to: 2) }
      return results.texts[0].text
    } catch let error as NibbleError where canStop && error.kind == .interrupted {
      Interrupt.forgetCtrlC()
      try show("\n")
      write("(stopped)\n", to: 2)
      return said
    }
  }

  /// Does what a line that begins with a slash asks for.
  ///
  /// - Returns: false to end
  private func command(
    _ line: String, _ history: inout Conversation, _ adapters: inout [ActiveAdapter], _ open: OpenModel, isChat: Bool
  ) throws -> Bool {
    let words = line.split(separator: " ", maxSplits: 1).map(String.init)
    switch (words[0], words.dropFirst().first) {
    case ("/quit", _), ("/exit", _): return false
    case ("/adapter", nil):
      let active = adapters.map(\.adapter.name)
      write("adapters: \(open.set.names.joined(separator: ", ")); in use: \(active.isEmpty ? "none" : active.joined(separator: ", "))\n", to: 2)
    case ("/adapter", let names?):
      adapters = try open.set.selection(try open.parse(names))
    case ("/reset", _) where isChat: history.messages.removeAll { $0["role"]?.string != "system" }
    case ("/system", let text) where isChat: history = Conversation(text.map { [Conversation.message("system", $0)] } ?? [])
    case ("/help", _):
      write(Self.commands(isChat: isChat).map { $0.0 + String(repeating: " ", count: 26 - $0.0.count) + $0.1 + "\n" }.joined(), to: 2)
    default:
      let names = Self.commands(isChat: isChat).map { $0.0.prefix { $0 != " " } }
      throw NibbleError.usage("unknown command \(words[0]); commands: \(names.joined(separator: ", "))")
    }
    return true
  }

  private static func commands(isChat: Bool) -> [(String, String)] {
    let all = [
      ("/reset", "start a new conversation"), ("/system TEXT", "start a new conversation with this system message"),
      ("/adapter NAME[:WEIGHT],…", "use these adapters, or none; without a name, list them"), ("/help", "list the commands"),
      ("/exit", "end; Ctrl-D does the same"),
    ]
    return all.filter { isChat || !["/reset", "/system TEXT"].contains($0.0) }
  }

  private func greeting(_ open: OpenModel, isChat: Bool) -> String {
    let kind = isChat ? "Type a message." : open.model.answersPrompts ? "The model answers each line by itself." : "No chat template: the model continues the text you type."
    return "\(oneLine(open.model.path)). \(kind)\n/help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.\n"
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
