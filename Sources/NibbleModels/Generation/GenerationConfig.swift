import NibbleCore
import NibbleFormats

/// What a model's `generation_config.json` asks for or, where there is none, the same keys of its `config.json`: transformers
/// reads one or the other.
///
/// Keys that change which token is best apply: penalties, favoured and forbidden tokens, minimum lengths. The search (greedy,
/// sampling, beams) and the maximum length are the caller's to choose; `choices` lists what the file asks for there.
public struct GenerationConfig: Sendable {
  /// A key and its value, as the file spells them.
  public typealias Setting = (key: String, value: String)

  /// The file, for messages.
  public let place: MessageText
  /// Tokens that end a sequence. A generation configuration that names none means none.
  public let endIDs: Set<Int>
  /// The token that a decoder beside an encoder begins with; nil for other models.
  public let start: Int?
  /// What may come next.
  public private(set) var rules = ScoreRules()
  /// `repetition_penalty`; 1 for none.
  public let repetitionPenalty: Double
  /// `no_repeat_ngram_size`; 0 for none.
  public let noRepeatNgram: Int
  /// What choosing tokens as the file asks takes, if that is not always the best: keys that `Sampling` and `BeamSearch` have.
  public private(set) var choices: [Setting] = []
  /// What would change the result and is not implemented.
  public private(set) var notImplemented: [Setting] = []

  /// - Throws: `.badInput` for a file that is no JSON object, and for values of other types than the keys have
  public init(_ model: Model) throws {
    let name = "generation_config.json"
    guard let bytes = try model.checkpoint.contents(ofSmallFiles: [name], limit: 1 << 20)[name] else {
      try self.init(model.config, vocabulary: try model.vocabularySize, start: model.answering?.start)
      return
    }
    let place: MessageText = "\(path: model.path): \(name)"
    let json: JSON
    do { json = try JSON.parse(bytes) } catch { throw NibbleError.badInput("\(place): \(error.reason) at byte \(error.offset)") }
    guard json.members != nil else { throw NibbleError.badInput("\(place): not a JSON object") }
    try self.init(ConfigReader(json, place: place), vocabulary: try model.vocabularySize, start: model.answering?.start)
  }

  /// - Parameter start: the token that a decoder beside an encoder begins with where the file names none; nil for other models
  package init(_ config: ConfigReader, vocabulary: Int, start: Int? = nil) throws {
    place = config.place
    self.start = try start.map { try config.int("decoder_start_token_id", 0...max(vocabulary - 1, 0), default: $0) }
    endIDs = Set(try config.ids("eos_token_id"))
    rules.suppressed = Set(try config.ids("suppress_tokens"))
    rules.suppressedFirst = Set(try config.ids("begin_suppress_tokens"))
    rules.badWords = try config.runs("bad_words_ids", below: vocabulary)
    rules.sequenceBias = try config.biases("sequence_bias", below: vocabulary)
    rules.minimumLength = try config.int("min_length", Limits.length, default: 0)
    rules.minimumNew = try config.int("min_new_tokens", Limits.length, default: 0)
    repetitionPenalty = try config.double("repetition_penalty", above: 0, default: 1)
    noRepeatNgram = try config.int("no_repeat_ngram_size", Limits.length, default: 0)
    if try config.bool("do_sample", default: false) {
      // transformers draws among the 50 best where nothing is said.
      choices = [("temperature", config["temperature"]?.text() ?? "1"), ("top_k", config["top_k"]?.text() ?? "50")]
      choices += Self.settings(config, [("top_p", [1]), ("min_p", [0])])
    }
    let beams = Self.settings(config, [("num_beams", [1])])
    if !beams.isEmpty { choices += beams + Self.settings(config, [("length_penalty", [1])]) }
    notImplemented = Self.settings(config, Self.unknown)
  }

  private static func settings(_ config: ConfigReader, _ keys: [(key: String, harmless: [JSON])]) -> [Setting] {
    keys.compactMap { key, harmless in
      guard let value = config[key], !harmless.contains(where: { $0 == value || $0.double.map { $0 == value.double } ?? false })
      else { return nil }
      return (key, value.text())
    }
  }

  /// With the values that ask for nothing.
  private static let unknown: [(key: String, harmless: [JSON])] = [
    ("typical_p", [1]), ("epsilon_cutoff", [0]), ("eta_cutoff", [0]), ("top_h", []), ("guidance_scale", [1]),
    ("forced_bos_token_id", []), ("forced_eos_token_id", []), ("exponential_decay_length_penalty", []),
    ("renormalize_logits", [false]), ("watermarking_config", []), ("stop_strings", []), ("token_healing", [false]),
    ("penalty_alpha", [0]), ("dola_layers", []), ("num_beam_groups", [1]), ("diversity_penalty", [0]), ("constraints", []),
    ("force_words_ids", []), ("max_time", []), ("encoder_repetition_penalty", [1]), ("encoder_no_repeat_ngram_size", [0]),
  ]
}

extension ConfigReader {
  /// Ids: a list, or a single one.
  fileprivate func ids(_ key: String) throws -> [Int] {
    guard let value = self[key] else { return [] }
    let ids = value.array?.compactMap(\.int) ?? value.int.map { [$0] } ?? []
    guard ids.count == value.array?.count ?? 1 else { throw wrong(key, value, "ids of tokens") }
    return ids
  }

  /// Lists of ids of the vocabulary, none empty.
  fileprivate func runs(_ key: String, below vocabulary: Int) throws -> [[Int]] {
    guard let value = self[key] else { return [] }
    let runs = value.array?.compactMap { Self.run($0, below: vocabulary) } ?? []
    guard let count = value.array?.count, runs.count == count else {
      throw wrong(key, value, "lists of ids below \(vocabulary)")
    }
    return runs
  }

  private static func run(_ value: JSON, below vocabulary: Int) -> [Int]? {
    let ids = value.array?.compactMap(\.int) ?? []
    guard !ids.isEmpty, ids.count == value.array?.count, ids.allSatisfy({ (0..<vocabulary).contains($0) }) else { return nil }
    return ids
  }

  /// `[[ids, number], …]`.
  fileprivate func biases(_ key: String, below vocabulary: Int) throws -> [ScoreRules.Bias] {
    guard let value = self[key] else { return [] }
    let biases = (value.array ?? []).compactMap { pair -> ScoreRules.Bias? in
      guard let pair = pair.array, pair.count == 2, let run = Self.run(pair[0], below: vocabulary), let number = pair[1].double,
        !number.isNaN, number < .infinity
      else { return nil }
      return ScoreRules.Bias(run, Float(number))
    }
    guard let count = value.array?.count, biases.count == count else {
      throw wrong(key, value, "pairs of ids below \(vocabulary) and a number")
    }
    return biases
  }
}
