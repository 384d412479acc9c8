import ArgumentParser
import NibbleCore
import NibbleEvaluation

/// Flags of tasks that ask a model row by row.
struct AskingOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "How rows are asked: \(ChoiceStyle.all.map(\.name).joined(separator: ", ")) (choices; default: seen from the first row's keys).",
      valueName: "NAME"))
  var questionStyle: ChoiceStyle?
  @Option(help: ArgumentHelp("Show this many solved questions or prompts before each (choices, nlg, labels, qa, classification by words).", valueName: "K")) var fewShot = 0
  @Option(help: ArgumentHelp("The file of solved ones, rows as in the data: the first are shown, of a question's own subject where it has one.", valueName: "FILE"))
  var exemplars: String?
  @Option(
    help: ArgumentHelp(
      "How rows become prompts (nlg, labels, qa, classification by words): a text in which {key} is the row's text under that key.", valueName: "TEXT"))
  var promptFormat: String?
  @Flag(help: "Treat prompts as user messages and format them with the model's chat template (nlg, labels, qa).") var chat = false
  @Option(help: ArgumentHelp("Every label there is, one a line (labels; classification by words).", valueName: "FILE")) var labelList: String?
  @Option(
    help: ArgumentHelp(
      "The folder of WordNet 3.0's files, for METEOR's synonyms (nlg; default: \(WordNet.debianFolder), if it is there).", valueName: "DIR"))
  var wordnet: String?
  @Option(help: ArgumentHelp("METEOR's table of paraphrases, unpacked (nlg; default: METEOR without paraphrases).", valueName: "FILE"))
  var paraphrases: String?
  @Option(help: "Maximum number of new tokens of an answer (default: nlg and labels 64, qa 32).") var maxNewTokens: Int?
  @Option(help: "Number of beams of a beam search; 1 for none (default: nlg 10, labels and qa 1).") var numBeams: Int?
  @Option(parsing: .unconditional, help: "Beam search divides scores by length to this power (default: nlg 0.9, labels and qa 1).") var lengthPenalty: Double?
  @Option(help: "Never repeat a run of N tokens; 0 allows it (default: nlg 4, labels and qa 0).") var noRepeatNgramSize: Int?
  @Option(help: "An answer stops before this text; may be repeated (default: a new line).") var stop: [String] = []
  @Option(help: "How likely a token of a text is hidden (mlm). The same tokens are hidden each time.") var mlmProbability = 0.15
  @Option(help: "Tokens that two windows of a context have in common (qa by a head).") var docStride = 128
  @Option(help: "Maximum number of tokens of an answer (qa by a head).") var maxAnswerLength = 30
  @Option(help: "Which states make a text's vector: mean, first or last (embed; default: what the model's folder says, else mean).")
  var pooling: Embeddings.Pooling?
  @Option(help: ArgumentHelp("Ask only so many of the rows; of each subject, where rows have subjects.", valueName: "N")) var limit: Int?
  @Option(help: ArgumentHelp("Write for each row its text, the right answer and what the model says, as JSON Lines.", valueName: "FILE"))
  var predictions: String?
  @Flag(help: "Go on where an evaluation with the same --predictions was interrupted.") var resume = false

  func validate() throws {
    guard (0...1000).contains(fewShot) else { throw ValidationError("--few-shot must be from 0 to 1000") }
    if let limit, limit < 1 { throw ValidationError("--limit must be 1 or more") }
    guard mlmProbability > 0, mlmProbability <= 1 else { throw ValidationError("--mlm-probability must be above 0 and at most 1") }
    guard docStride >= 0 else { throw ValidationError("--doc-stride must be 0 or more") }
    guard maxAnswerLength > 0 else { throw ValidationError("--max-answer-length must be 1 or more") }
    if let maxNewTokens, !(1...1 << 20).contains(maxNewTokens) { throw ValidationError("--max-new-tokens must be from 1 to \(1 << 20)") }
    if let numBeams, !(1...1024).contains(numBeams) { throw ValidationError("--num-beams must be from 1 to 1024") }
    if let lengthPenalty, !lengthPenalty.isFinite { throw ValidationError("--length-penalty must be finite") }
    if let noRepeatNgramSize, noRepeatNgramSize < 0 { throw ValidationError("--no-repeat-ngram-size must be 0 or more") }
  }

  /// A task's search, but for what flags say.
  func search(_ own: AnswerSearch) -> AnswerSearch {
    var search = own
    search.maximumNew = maxNewTokens ?? own.maximumNew
    search.beams = numBeams ?? own.beams
    search.lengthPenalty = lengthPenalty ?? own.lengthPenalty
    search.noRepeatNgram = noRepeatNgramSize ?? own.noRepeatNgram
    if !stop.isEmpty { search.stops = stop }
    return search
  }

  /// The file of what `--few-shot` shows.
  func solved() throws -> String {
    guard let exemplars else { throw NibbleError.usage("--few-shot needs solved rows: --exemplars FILE") }
    return exemplars
  }

  /// The labels that `--label-list` names.
  func labels() throws -> [String] {
    guard let labelList else { throw NibbleError.usage("the labels there are have to be named: --label-list FILE, one a line") }
    let lines = try SmallText.read(labelList).split(whereSeparator: \.isNewline).map(String.init)
    let labels = lines.filter { !$0.allSatisfy(\.isWhitespace) }
    do { _ = try LabelList(labels) } catch let error as NibbleError { throw NibbleError(error.kind, "\(path: labelList): \(error.text)") }
    return labels
  }
}

extension ChoiceStyle: ExpressibleByArgument {
  public init?(argument: String) {
    guard let style = Self.named(argument) else { return nil }
    self = style
  }

  public static var allValueStrings: [String] { all.map(\.name) }
  public var defaultValueDescription: String { name }
}
