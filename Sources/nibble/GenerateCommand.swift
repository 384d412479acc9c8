import ArgumentParser
import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant
import NibbleTemplates
import NibbleTokenizers

struct GenerateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "generate",
    abstract: "Continue a text, with any of the adapters attached.",
    discussion: """
      Adapters share one base: --adapter sst=DIR --adapter e2e=DIR --use e2e. Several at once: --use sst:0.5,e2e:0.5. \
      --prompts FILE.jsonl continues many texts in one pass over the weights: rows {"prompt": …, "use": …}, each with its own \
      adapters. --interactive reads prompts from standard input; /adapter NAME switches, /adapter none goes back to the base. \
      --chat treats the prompt as a user's message and renders it with the model's chat template; --messages FILE.json continues \
      a whole conversation. With a template, --interactive holds a conversation, and /reset begins another. \
      The model's generation_config.json says which tokens end a text, and its penalties, suppressed tokens, bad words and least \
      lengths apply, as in transformers; --repetition-penalty and --no-repeat-ngram-size come before it. Whether tokens are drawn \
      or searched for by beams is set by options only.
      """)

  @OptionGroup var model: ModelOptions
  @Option(name: [.long, .customShort("p")], help: "The text to continue.") var prompt: String?
  @Option(help: ArgumentHelp("Rows of prompts.", valueName: "FILE.jsonl")) var prompts: String?
  @Flag(help: "Read prompts from standard input.") var interactive = false
  @Flag(help: "Treat prompts as user messages and render them with the model's chat template.") var chat = false
  @Option(help: ArgumentHelp("The system message of a chat.", valueName: "TEXT")) var system: String?
  @Option(help: ArgumentHelp("A conversation to continue: messages, or an object with messages and tools.", valueName: "FILE.json"))
  var messages: String?
  @Option(help: ArgumentHelp("Adapters in use: NAME[:WEIGHT],… or none.", valueName: "NAMES")) var use: [String] = []
  @Option(help: "New tokens at most.") var maxNewTokens = 128
  @Option(parsing: .unconditional, help: "0 takes the best token always.") var temperature = 0.0
  @Option(help: "Choose among this many best tokens; 0 for all.") var topK = 0
  @Option(help: "Choose among the best tokens with this much probability together.") var topP = 1.0
  @Option(help: "Choose among tokens at least this likely relative to the best.") var minP = 0.0
  @Option(help: "Make tokens that are there already less likely; 1 for no penalty (default: as the model says).")
  var repetitionPenalty: Double?
  @Option(help: "No run of this many tokens comes twice; 0 for any (default: as the model says).")
  var noRepeatNgramSize: Int?
  @Option(help: "Beams of a beam search; 1 for none.") var numBeams = 1
  @Option(parsing: .unconditional, help: "Power of the length that beams' scores are divided by.") var lengthPenalty = 1.0
  @Option(help: "A text that ends the output; may be repeated.") var stop: [String] = []
  @Flag(help: "Go on behind the token that ends a text.") var ignoreEos = false
  @Option(help: "Seed for sampling.") var seed: UInt64 = 0
  @Option(help: "The tokenizer, if it is not the model's own.") var tokenizer: String?
  @OptionGroup var common: CommonOptions

  func validate() throws {
    guard [prompt != nil, prompts != nil, messages != nil, interactive].filter({ $0 }).count == 1 else {
      throw ValidationError("one of --prompt, --prompts, --messages and --interactive is needed")
    }
    if system != nil, messages != nil { throw ValidationError("--messages has its own system message; --system is for --chat") }
    if system != nil, !chat, !interactive { throw ValidationError("--system is for a conversation: --chat or --interactive") }
    if maxNewTokens < 0 || maxNewTokens > 1 << 26 { throw ValidationError("--max-new-tokens \(maxNewTokens) makes no sense") }
    if !(1...1024).contains(numBeams) { throw ValidationError("--num-beams must be from 1 to 1024") }
    if numBeams > 1, temperature != 0 { throw ValidationError("--num-beams looks for the best text; it takes no --temperature") }
    if !lengthPenalty.isFinite { throw ValidationError("--length-penalty must be finite") }
    if interactive, common.json { throw ValidationError("--interactive prints text, no JSON") }
  }

  private var sampling: Sampling {
    var sampling = Sampling()
    sampling.temperature = temperature
    sampling.topK = topK
    sampling.topP = topP
    sampling.minP = minP
    sampling.repetitionPenalty = repetitionPenalty ?? sampling.repetitionPenalty
    sampling.noRepeatNgram = noRepeatNgramSize ?? sampling.noRepeatNgram
    sampling.seed = seed
    return sampling
  }

  /// What the flags say, and where they do not, the model.
  private func sampling(following config: GenerationConfig) -> Sampling {
    var sampling = self.sampling
    if repetitionPenalty == nil { sampling.repetitionPenalty = config.repetitionPenalty }
    if noRepeatNgramSize == nil { sampling.noRepeatNgram = config.noRepeatNgram }
    sampling.rules = config.rules
    return sampling
  }

  /// What the model's configuration asks for and does not get.
  private func warnings(_ config: GenerationConfig) -> [Warning] {
    func isLeftOut(_ key: String) -> Bool {
      let flag = "--" + key.replacing("_", with: "-")
      if ["top_k", "top_p", "min_p"].contains(key), temperature == 0, !Arguments.given(["--temperature"]).isEmpty { return false }
      if key == "length_penalty", numBeams == 1, !Arguments.given(["--num-beams"]).isEmpty { return false }
      return Arguments.given([flag]).isEmpty
    }
    var warnings: [Warning] = []
    let flags = config.choices.filter { isLeftOut($0.key) }.map { "--\($0.key.replacing("_", with: "-")) \($0.value)" }
    if !flags.isEmpty {
      warnings.append(
        Warning(
          .unused,
          "\(config.place) asks for \(flags.joined(separator: " ")); only flags choose how tokens are searched or drawn"))
    }
    if !config.notImplemented.isEmpty {
      let keys = config.notImplemented.map { "\($0.key) = \(quoted($0.value))" }.joined(separator: ", ")
      warnings.append(
        Warning(.compatibility, "\(config.place): \(keys): not implemented, the text may be another than transformers'"))
    }
    return warnings
  }

  func run() throws {
    try sampling.validate()
    let open = try OpenModel(model, common)
    let tokens = try ModelTokenizer(open.model, path: tokenizer)
    let config = try GenerationConfig(open.model)
    common.warn(warnings(config))
    let talks = try chat || messages != nil || interactive ? ModelChat(open.model, tokens, path: tokenizer) : nil
    if talks == nil, chat || messages != nil || system != nil { throw noTemplate(open.model) }
    let ends = config.endIDs.union(talks?.answerEnd.map { [$0] } ?? [])
    let writer = TextGenerator(
      generator: Generator(
        open.model, sampling: sampling(following: config), maximumNew: maxNewTokens, endIDs: ignoreEos ? [] : ends),
      tokens: tokens, stops: stop, beams: numBeams > 1 ? BeamSearch(width: numBeams, lengthPenalty: lengthPenalty) : nil)
    if interactive { return try converse(open, writer, talks) }
    let isStreaming = prompts == nil && !common.json && numBeams == 1
    let requests: [(prompt: [Int], adapters: [ActiveAdapter])]
    if let prompts {
      requests = try rows(prompts, open, tokens, talks)
    } else if let messages {
      let given = try Conversation(SmallText.json(messages), place: messages)
      requests = [(try talks?.prompt(given) ?? [], try open.use(use))]
    } else {
      requests = [(try ids(of: prompt ?? "", tokens, talks), try open.use(use))]
    }
    let results = try writer.run(requests) { _, text in if isStreaming { try show(text) } }
    try report(results, isStreaming: isStreaming)
    let unknown = results.unknown(tokens.tokenizer)
    if unknown > 0 { common.warn([Warning(.data, "the tokenizer has no text for \(unknown) of the new tokens")]) }
  }

  private func noTemplate(_ model: Model) -> NibbleError {
    NibbleError.badInput(
      "\(tokenizer ?? model.path): no chat template, which --chat, --system and --messages need: neither chat_template.jinja nor "
        + "chat_template in tokenizer_config.json")
  }

  /// Ids of a prompt: of a text to continue, or of a user's message.
  private func ids(of text: String, _ tokens: ModelTokenizer, _ talks: ModelChat?) throws -> [Int] {
    guard let talks else { return try tokens.prompt(text) }
    return try talks.prompt(Conversation(begun + [Conversation.message("user", text)]))
  }

  /// What a conversation begins with.
  private var begun: [JSON] { system.map { [Conversation.message("system", $0)] } ?? [] }

  /// Text as it comes.
  private func show(_ text: String) throws {
    try StandardOutput.write(text)
    try StandardOutput.flush()
  }

  private func rows(
    _ path: String, _ open: OpenModel, _ tokens: ModelTokenizer, _ talks: ModelChat?
  ) throws -> [(prompt: [Int], adapters: [ActiveAdapter])] {
    var rows: [([Int], [ActiveAdapter])] = []
    var known = talks
    try JSONLines.forEach(path) { row, place in
      do {
        let prompt: [Int]
        if row["messages"] != nil {
          if known == nil { known = try ModelChat(open.model, tokens, path: tokenizer) }
          guard let talks = known else { throw noTemplate(open.model) }
          // The row's own keys are none of the template's.
          prompt = try talks.prompt(Conversation(row.removing("use"), place: "the conversation"))
        } else {
          guard let text = row["prompt"]?.string else { throw NibbleError.badInput("a row without a 'prompt' or 'messages'") }
          prompt = try ids(of: text, tokens, chat ? talks : nil)
        }
        let names = row["use"].flatMap { $0 == JSON.null ? nil : $0 }
        if let names, names.string == nil { throw NibbleError.badInput("its 'use' is \(quoted(names.text())), expected a text") }
        rows.append((prompt, try open.use(names?.string.map { [$0] } ?? use)))
      } catch let error as NibbleError { throw NibbleError(error.kind, "\(path: place): \(error.text)") }
    }
    guard !rows.isEmpty else { throw NibbleError.badInput("\(path: path): no prompts in it") }
    return rows
  }

  private func report(_ results: TextGenerator.Results, isStreaming: Bool) throws {
    if common.json {
      let texts = results.texts.map { one -> JSON in
        [
          "text": JSON(one.text), "ids": JSON(one.ids), "prompt_tokens": JSON(one.promptTokens),
          "new_tokens": JSON(one.ids.count),
          "reason": JSON(one.reason.rawValue), "adapters": JSON(one.adapters), "score": one.score.map { JSON($0) } ?? .null,
        ]
      }
      var members = prompts == nil ? texts[0].members ?? [] : [(key: "results", value: JSON.array(texts))]
      members += [
        ("prompt_seconds", JSON(results.timing.promptSeconds)), ("decode_seconds", JSON(results.timing.decodeSeconds)),
        ("peak_memory", JSON(ResourceUse.now.peakBytes)), ("anonymous_memory", JSON(ResourceUse.anonymousBytes)),
      ]
      return try StandardOutput.print(JSON.object(members))
    }
    for one in results.texts {
      if !isStreaming { try StandardOutput.write(one.text) }
      try StandardOutput.write("\n")
    }
    try StandardOutput.flush()
    guard common.verbose else { return }
    let new = results.texts.reduce(0) { $0 + $1.ids.count }
    let prompt = results.texts.reduce(0) { $0 + $1.promptTokens }
    func rate(_ count: Int, _ seconds: Double) -> String { decimal(Double(count) / max(seconds, 1e-9), 1) }
    write(
      "prompt \(prompt) tokens, \(rate(prompt, results.timing.promptSeconds))/s; new \(new) tokens, "
        + "\(rate(new, results.timing.decodeSeconds))/s; peak memory \(byteText(ResourceUse.now.peakBytes))\n"
        + "kernels \(KernelChoice.current.summary)\n", to: 2)
  }

  // MARK: Conversation

  private func converse(_ open: OpenModel, _ writer: TextGenerator, _ talks: ModelChat?) throws {
    var history = Conversation(begun)
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
        case ("/reset", _) where talks != nil: history = Conversation(begun)
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
}

extension GenerateCommand {
  /// Ids of the conversation with another message of the user's, its oldest turns left out where it is too long for the context.
  private func nextTurn(_ line: String, _ next: inout Conversation, _ talks: ModelChat, _ model: Model) throws -> [Int] {
    next.messages.append(Conversation.message("user", line))
    let context = try model.contextLength
    let room = context - min(maxNewTokens, context)
    let dropped = try next.dropOldestTurns { try talks.prompt($0).count <= room }
    if dropped > 0 {
      common.warn([
        Warning(.data, "the conversation exceeds the context of \(context) tokens; its oldest \(dropped) messages are left out")
      ])
    }
    return try talks.prompt(next)
  }
}

/// From prompts to text.
struct TextGenerator {
  var generator: Generator
  let tokens: ModelTokenizer
  let stops: [String]
  let beams: BeamSearch?

  struct Text {
    var text = ""
    var ids: [Int] = []
    var promptTokens = 0
    var reason = Generator.Result.Reason.length
    var adapters: [String] = []
    /// Of a beam search: what its sequences competed with.
    var score: Double?
  }

  struct Results {
    var texts: [Text]
    var timing: Generator.Timing

    /// New tokens the tokenizer has no text for: rows a model's vocabulary was padded with.
    func unknown(_ tokenizer: Tokenizer) -> Int {
      texts.reduce(0) { $0 + $1.ids.count { tokenizer.token($0) == nil } }
    }
  }

  /// Continues `prompts`.
  ///
  /// - Parameter onText: told each piece of text once it is certain, with its prompt's number
  func run(
    _ prompts: [(prompt: [Int], adapters: [ActiveAdapter])], onText: (Int, String) throws -> Void
  ) throws -> Results {
    let requests = prompts.map { Generator.Request($0.prompt, adapters: $0.adapters) }
    var timing = Generator.Timing()
    if let beams { return try search(beams, requests, &timing) }
    var decoders = requests.map { _ in tokens.tokenizer.streamingDecoder(skipSpecialTokens: true) }
    // What the prompt says is not said again, but decides how the first new token reads: with a space before it, or without.
    for (row, request) in requests.enumerated() { for id in request.prompt { _ = try decoders[row].feed(id) } }
    var watchers = requests.map { _ in StopStrings(stops) }
    var texts = requests.map { Text(promptTokens: $0.prompt.count, adapters: $0.adapters.map(\.adapter.name)) }
    func take(_ row: Int, _ piece: String) throws {
      guard !piece.isEmpty else { return }
      texts[row].text += piece
      try onText(row, piece)
    }
    let results = try generator.run(requests, timing: &timing) { row, id in
      if tokens.tokenizer.token(id) != nil { try take(row, watchers[row].feed(try decoders[row].feed(id))) }
      return watchers[row].isFound
    }
    for row in results.indices {
      try take(row, watchers[row].feed(try decoders[row].finish()))
      try take(row, watchers[row].finish())
      texts[row].ids = results[row].ids
      texts[row].reason = watchers[row].isFound ? .stop : results[row].reason
    }
    return Results(texts: texts, timing: timing)
  }

  private func search(
    _ beams: BeamSearch, _ requests: [Generator.Request], _ timing: inout Generator.Timing
  ) throws -> Results {
    let texts = try requests.map { request in
      let (result, score) = try beams.run(request, generator, timing: &timing)
      var watcher = StopStrings(stops)
      var text = Text(
        ids: result.ids, promptTokens: request.prompt.count, reason: result.reason,
        adapters: request.adapters.map(\.adapter.name), score: score)
      var decoder = tokens.tokenizer.streamingDecoder(skipSpecialTokens: true)
      for id in request.prompt { _ = try decoder.feed(id) }
      text.text =
        try watcher.feed(
          result.ids.filter { tokens.tokenizer.token($0) != nil }.map { try decoder.feed($0) }.joined() + decoder.finish())
        + watcher.finish()
      if watcher.isFound { text.reason = .stop }
      return text
    }
    return Results(texts: texts, timing: timing)
  }
}
