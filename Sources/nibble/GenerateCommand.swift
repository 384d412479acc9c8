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
    abstract: "Generate text with a model and any number of adapters.",
    discussion: """
      Without --prompt, --prompts, --messages or --interactive, the prompt is read from standard input; --prompt - says so.

      --prompts FILE.jsonl generates for many prompts at once. Each row is {"prompt": …} or {"messages": […]}, and may name its \
      adapters: "use": "NAME". --chat formats prompts with the model's chat template, --messages FILE.json continues a whole \
      conversation, and --interactive holds one in the terminal. Lines from a pipe are prompts too; the exit code is then that of the \
      first line that failed.

      With several adapters, --use selects one (--use e2e) or a weighted sum (--use sst:0.5,e2e:0.5).

      The model's generation_config.json sets end tokens, penalties, suppressed tokens and minimum lengths, as in transformers; \
      --repetition-penalty and --no-repeat-ngram-size override it. Sampling and beam search are set by options only.
      """)

  @OptionGroup var model: ModelOptions
  @Option(name: [.long, .customShort("p")], help: ArgumentHelp("The prompt; '-' reads it from standard input.", valueName: "TEXT"))
  var prompt: String?
  @Option(help: ArgumentHelp("Generate for each row of a JSON Lines file.", valueName: "FILE.jsonl")) var prompts: String?
  @Flag(help: "Hold a conversation: read prompts line by line. /help lists the commands.") var interactive = false
  @Flag(help: "Treat prompts as user messages and format them with the model's chat template.") var chat = false
  @Option(help: ArgumentHelp("System message for --chat and --interactive.", valueName: "TEXT")) var system: String?
  @Option(help: ArgumentHelp("A conversation to continue: a list of messages, or an object with messages and tools.", valueName: "FILE.json"))
  var messages: String?
  @Option(help: ArgumentHelp("The adapters to use: NAME[:WEIGHT],… or none.", valueName: "NAMES")) var use: [String] = []
  @Option(help: "Maximum number of new tokens. Generation also stops where the context is full.") var maxNewTokens = 128
  @Option(help: ArgumentHelp("Keep only the last N tokens of a longer prompt (default: refuse prompts that fill the context).", valueName: "N"))
  var maxPromptTokens: Int?
  @Option(parsing: .unconditional, help: "Sampling temperature; 0 always takes the most likely token.") var temperature = 0.0
  @Option(help: "Sample from the K most likely tokens; 0 for all.") var topK = 0
  @Option(help: "Sample from the most likely tokens whose probabilities add up to P.") var topP = 1.0
  @Option(help: "Sample from tokens at least P times as likely as the most likely one.") var minP = 0.0
  @Option(help: "Penalty on tokens already in the text; 1 for none (default: from generation_config.json).")
  var repetitionPenalty: Double?
  @Option(help: "Never repeat a run of N tokens; 0 allows it (default: from generation_config.json).")
  var noRepeatNgramSize: Int?
  @Option(help: "Number of beams of a beam search; 1 for none.") var numBeams = 1
  @Option(parsing: .unconditional, help: "Beam search divides scores by length to this power.") var lengthPenalty = 1.0
  @Option(help: "Stop before this text; may be repeated.") var stop: [String] = []
  @Flag(help: "Continue past end tokens.") var ignoreEos = false
  @Option(help: "Random seed for sampling.") var seed: UInt64 = 0
  @Option(help: "Use the tokenizer at this path instead of the model's own.") var tokenizer: String?
  @OptionGroup var common: CommonOptions

  func validate() throws {
    let sources = [("--prompt", prompt != nil), ("--prompts", prompts != nil), ("--messages", messages != nil), ("--interactive", interactive)]
    let given = sources.filter(\.1).map(\.0)
    if given.count > 1 { throw ValidationError("\(given.joined(separator: " and ")) cannot be used together") }
    if system != nil, messages != nil { throw ValidationError("--messages has its own system message; --system is for --chat") }
    if system != nil, !chat, !interactive { throw ValidationError("--system needs --chat or --interactive") }
    if !(0...1 << 26).contains(maxNewTokens) { throw ValidationError("--max-new-tokens \(maxNewTokens) is not from 0 to \(1 << 26)") }
    if let maxPromptTokens, maxPromptTokens < 1 { throw ValidationError("--max-prompt-tokens must be 1 or more") }
    if !(1...1024).contains(numBeams) { throw ValidationError("--num-beams must be from 1 to 1024") }
    if numBeams > 1, temperature != 0 { throw ValidationError("--num-beams and --temperature cannot be used together") }
    if !lengthPenalty.isFinite { throw ValidationError("--length-penalty must be finite") }
    if interactive, common.json { throw ValidationError("--interactive and --json cannot be used together") }
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

  /// The options, and the model's configuration where they are not given.
  private func sampling(following config: GenerationConfig) -> Sampling {
    var sampling = self.sampling
    if repetitionPenalty == nil { sampling.repetitionPenalty = config.repetitionPenalty }
    if noRepeatNgramSize == nil { sampling.noRepeatNgram = config.noRepeatNgram }
    sampling.rules = config.rules
    return sampling
  }

  /// Names what the model's configuration asks for and does not get.
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
          "\(config.place) asks for \(flags.joined(separator: " ")); sampling and beam search are set by options only"))
    }
    if !config.notImplemented.isEmpty {
      let keys = config.notImplemented.map { "\($0.key) = \(quoted($0.value))" }.joined(separator: ", ")
      warnings.append(
        Warning(.compatibility, "\(config.place): \(keys): not implemented, so the text may differ from transformers'"))
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
    var generator = Generator(open.model, sampling: sampling(following: config), maximumNew: maxNewTokens, endIDs: ignoreEos ? [] : ends)
    generator.start = config.start
    let writer = TextGenerator(
      generator: generator,
      tokens: tokens, stops: stop, beams: numBeams > 1 ? BeamSearch(width: numBeams, lengthPenalty: lengthPenalty) : nil)
    if interactive { return try converse(open, writer, talks) }
    let isStreaming = prompts == nil && !common.json && numBeams == 1
    let requests = try prompts(open, tokens, talks)
    let results = try writer.run(requests.map { ($0.ids, $0.adapters) }) { _, text in if isStreaming { try show(text) } }
    try report(results, requests, isStreaming: isStreaming)
    let unknown = results.unknown(tokens.tokenizer)
    if unknown > 0 { common.warn([Warning(.data, "the tokenizer has no text for \(unknown) of the new tokens")]) }
  }

  /// Prints text as it comes.
  func show(_ text: String) throws {
    try StandardOutput.write(text)
    try StandardOutput.flush()
  }
}
