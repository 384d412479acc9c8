import Foundation
import NibbleCompute
import NibbleCore
import NibbleModels
import TestSupport
import Testing

@Suite("Generation")
struct GenerationTests {
  static func golden() throws -> JSON { try JSON.parse(try bytes(of: fixture("stories260K/golden.json"))) }

  static func ids(_ key: String) throws -> [Int] { try golden()[key]?.array?.compactMap(\.int) ?? [] }

  static func generate(
    _ prompts: [[Int]], _ sampling: Sampling = Sampling(), new: Int = 40, end: Set<Int> = []
  ) throws -> [NibbleModels.Generator.Result] {
    let model = try model("stories260K")
    var timing = NibbleModels.Generator.Timing()
    return try NibbleModels.Generator(model, sampling: sampling, maximumNew: new, endIDs: end)
      .run(prompts.map { .init($0) }, timing: &timing)
  }

  @Test("taking the best token always, gives transformers' ids and scores")
  func greedy() throws {
    let prompt = try Self.ids("prompt_ids")
    let all = try Self.ids("greedy_ids")
    let result = try Self.generate([prompt], new: all.count - prompt.count)
    #expect(prompt + result[0].ids == all)
    let model = try model("stories260K")
    let scores = try model.scores([TokenRun(prompt)]).suffix(512)
    let expected = try Self.golden()["last_logits"]?.array?.compactMap { $0.double.map { Float($0) } } ?? []
    #expect(greatestDifference(Array(scores), expected) <= 1e-4)
  }

  @Test("of several prompts at once is that of each by itself")
  func batch() throws {
    let prompts = [[1, 403, 407], [1, 403, 407, 261, 378, 432, 383], [1]]
    let together = try Self.generate(prompts).map(\.ids)
    #expect(together == (try prompts.map { try Self.generate([$0])[0].ids }))
  }

  @Test("ends at an end token, which is not part of the result")
  func end() throws {
    let whole = try Self.generate([[1, 403]])[0].ids
    let result = try Self.generate([[1, 403]], end: [whole[5]])[0]
    #expect(result.reason == .endOfSequence)
    #expect(result.ids == Array(whole.prefix { $0 != whole[5] }))
  }

  @Test("with a seed gives the same tokens again, and others with another")
  func seeds() throws {
    var sampling = Sampling()
    sampling.temperature = 1
    sampling.seed = 7
    let first = try Self.generate([[1, 403]], sampling)[0].ids
    #expect(try Self.generate([[1, 403]], sampling)[0].ids == first)
    sampling.seed = 8
    #expect(try Self.generate([[1, 403]], sampling)[0].ids != first)
  }

  @Test("without repeated runs has none")
  func ngrams() throws {
    var sampling = Sampling()
    sampling.noRepeatNgram = 2
    let ids = [1, 403] + (try Self.generate([[1, 403]], sampling, new: 200)[0].ids)
    let pairs = zip(ids, ids.dropFirst()).map { [$0, $1] }
    #expect(Set(pairs).count == pairs.count)
  }

  @Test("by beams of width 1 takes the best token always")
  func oneBeam() throws {
    let model = try model("stories260K")
    var timing = NibbleModels.Generator.Timing()
    let generator = NibbleModels.Generator(model, sampling: Sampling(), maximumNew: 30, endIDs: [])
    let (result, score) = try BeamSearch(width: 1).run(.init([1, 403]), generator, timing: &timing)
    #expect(result.ids == (try Self.generate([[1, 403]], new: 30)[0].ids))
    #expect(score < 0)
    let (_, better) = try BeamSearch(width: 4).run(.init([1, 403]), generator, timing: &timing)
    // A product of four rows sums in another order than one of a single row does.
    #expect(better >= score - 1e-5)
  }

  @Test("refuses prompts that leave no room, and empty ones")
  func limits() throws {
    #expect(throws: NibbleError.self) { try Self.generate([Array(repeating: 1, count: 512)], new: 1) }
    #expect(throws: NibbleError.self) { try Self.generate([[]]) }
  }
}

@Suite("Choosing a token")
struct SamplingTests {
  /// Probabilities 0.4, 0.3, 0.2, 0.1 of tokens 2, 0, 3, 1.
  static let scores: [Float] = [0.3, 0.1, 0.4, 0.2].map { log($0) }

  static func candidates(_ change: (inout Sampling) -> Void) -> [Int] {
    var sampling = Sampling()
    sampling.temperature = 1
    change(&sampling)
    return sampling.candidates(scores, count: 4).ids
  }

  @Test("filters as transformers does")
  func filters() {
    #expect(Self.candidates { _ in } == [2, 0, 3, 1])
    #expect(Self.candidates { $0.topK = 2 } == [2, 0])
    #expect(Self.candidates { $0.topK = 9 } == [2, 0, 3, 1])
    #expect(Self.candidates { $0.topP = 0.65 } == [2, 0])
    #expect(Self.candidates { $0.topP = 0.75 } == [2, 0, 3])
    #expect(Self.candidates { $0.topP = 1e-9 } == [2])
    #expect(Self.candidates { $0.minP = 0.6 } == [2, 0])
    #expect(Self.candidates { $0.minP = 1 } == [2])
    #expect(
      Self.candidates {
        $0.topK = 3
        $0.topP = 0.7
      } == [2, 0])
  }

  @Test("draws by probability")
  func draws() {
    var sampling = Sampling()
    sampling.temperature = 1
    #expect(
      [0.0, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91, 0.999].map { sampling.choose(Self.scores, count: 4, draw: $0) } == [
        2, 2, 0, 0, 3, 3, 1, 1,
      ])
    sampling.temperature = 0
    #expect(sampling.choose(Self.scores, count: 4, draw: 0.99) == 2)
  }

  @Test("makes what is there already less likely")
  func penalty() {
    var sampling = Sampling()
    sampling.repetitionPenalty = 2
    var scores: [Float] = [1, -1, 3, 0.5]
    sampling.adjust(&scores, count: 4, history: [0, 1, 0, 99])
    #expect(scores == [0.5, -2, 3, 0.5])
  }

  @Test("rules act where transformers' processors do")
  func rules() {
    func adjusted(_ history: [Int], prompt: Int, ends: Set<Int> = [], _ change: (inout ScoreRules) -> Void) -> [Float] {
      var sampling = Sampling()
      change(&sampling.rules)
      var scores: [Float] = [1, -1, 3, 0.5]
      sampling.adjust(&scores, count: 4, history: history, prompt: prompt, ends: ends)
      return scores
    }
    let never = -Float.infinity
    // Ids the model does not have forbid nothing.
    #expect(adjusted([0], prompt: 1) { $0.suppressed = [2, -1, 99] } == [1, -1, never, 0.5])
    #expect(adjusted([0], prompt: 1) { $0.suppressedFirst = [2] } == [1, -1, never, 0.5])
    #expect(adjusted([0, 1], prompt: 1) { $0.suppressedFirst = [2] } == [1, -1, 3, 0.5])
    // An end by itself is no bad word; a word of several tokens is one where the others stand already.
    let words = [[2], [0], [1, 3]]
    #expect(adjusted([0, 1], prompt: 1, ends: [2]) { $0.badWords = words } == [never, -1, 3, never])
    #expect(adjusted([1, 0], prompt: 1, ends: [2]) { $0.badWords = words } == [never, -1, 3, 0.5])
    #expect(adjusted([], prompt: 0) { $0.badWords = [[1, 3]] } == [1, -1, 3, 0.5])
    #expect(adjusted([0, 1], prompt: 1, ends: [2]) { $0.minimumLength = 3 } == [1, -1, never, 0.5])
    #expect(adjusted([0, 1, 1], prompt: 1, ends: [2]) { $0.minimumLength = 3 } == [1, -1, 3, 0.5])
    #expect(adjusted([0, 1], prompt: 1, ends: [2]) { $0.minimumNew = 2 } == [1, -1, never, 0.5])
    #expect(adjusted([0, 1, 1], prompt: 1, ends: [2]) { $0.minimumNew = 2 } == [1, -1, 3, 0.5])
    #expect(adjusted([0, 1], prompt: 1) { $0.sequenceBias = [.init([3], 2), .init([1, 0], -4), .init([0, 2], 1)] } == [-3, -1, 3, 2.5])
  }

  @Test("random numbers are evenly spread and do not repeat between streams")
  func random() {
    let numbers = (0..<20_000).map { CountedRandom(seed: 1).uniform(UInt64($0)) }
    #expect(abs(numbers.reduce(0, +) / 20_000 - 0.5) < 0.01)
    #expect(numbers.allSatisfy { $0 >= 0 && $0 < 1 })
    #expect(Set(numbers).count == 20_000)
    #expect(CountedRandom(seed: 1, stream: 1).bits(0) != CountedRandom(seed: 1).bits(0))
  }

  @Test(
    "values that make no sense are refused",
    arguments: [
      { $0.temperature = -1 }, { $0.temperature = .nan }, { $0.topK = -1 }, { $0.topP = 0 }, { $0.topP = 1.5 }, { $0.minP = 2 },
      { $0.repetitionPenalty = 0 }, { $0.noRepeatNgram = -1 },
    ] as [@Sendable (inout Sampling) -> Void])
  func validation(change: @Sendable (inout Sampling) -> Void) {
    var sampling = Sampling()
    change(&sampling)
    #expect(throws: NibbleError.self) { try sampling.validate() }
  }
}

@Suite("Generation configurations")
struct GenerationConfigTests {
  static func read(_ json: String, start: Int? = nil) throws -> GenerationConfig {
    try GenerationConfig(ConfigReader(try JSON.parse(json), place: "generation_config.json"), vocabulary: 100, start: start)
  }

  @Test("say what a decoder beside an encoder begins with")
  func start() throws {
    #expect(try Self.read("{}", start: 3).start == 3)
    #expect(try Self.read(#"{"decoder_start_token_id": null}"#, start: 3).start == 3)
    #expect(try Self.read(#"{"decoder_start_token_id": 99}"#, start: 3).start == 99)
    #expect(try Self.read(#"{"decoder_start_token_id": [0, 1]}"#).start == nil)
    for value in ["100", "-1", "[0, 1]", "1.5", "true"] {
      let error = #expect(throws: NibbleError.self) { try Self.read(#"{"decoder_start_token_id": \#(value)}"#, start: 3) }
      #expect(error?.kind == .badInput && error?.message.contains("generation_config.json") == true, "\(value)")
      #expect(error?.message.contains("decoder_start_token_id") == true, "\(value)")
    }
  }

  @Test("say what is applied, what flags choose, and what is not implemented")
  func sorted() throws {
    let config = try Self.read(
      #"{"eos_token_id": [7, 8], "repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "suppress_tokens": [1, -1], "begin_suppress_tokens": [2], "bad_words_ids": [[3], [4, 5]], "sequence_bias": [[[6, 1], -2.5]], "min_length": 4, "min_new_tokens": 2, "do_sample": true, "top_p": 0.9, "num_beams": 4, "typical_p": 1.0, "guidance_scale": 1.5, "max_length": 20}"#
    )
    var rules = ScoreRules()
    (rules.suppressed, rules.suppressedFirst, rules.badWords) = ([1, -1], [2], [[3], [4, 5]])
    (rules.sequenceBias, rules.minimumLength, rules.minimumNew) = ([.init([6, 1], -2.5)], 4, 2)
    #expect(config.rules == rules && config.endIDs == [7, 8])
    #expect(config.repetitionPenalty == 1.5 && config.noRepeatNgram == 3)
    #expect(config.choices.map { "\($0.key) \($0.value)" } == ["temperature 1", "top_k 50", "top_p 0.9", "num_beams 4"])
    #expect(config.notImplemented.map(\.key) == ["guidance_scale"])
    let silent = try Self.read(#"{"temperature": 0.6, "top_p": 0.9, "num_beams": 1, "suppress_tokens": null}"#)
    #expect(silent.choices.isEmpty && silent.notImplemented.isEmpty && silent.rules == ScoreRules() && silent.endIDs.isEmpty)
  }

  @Test(
    "that make no sense are refused",
    arguments: [
      #""eos_token_id": "x""#, #""repetition_penalty": 0"#, #""no_repeat_ngram_size": -1"#, #""suppress_tokens": [1.5]"#,
      #""bad_words_ids": [[]]"#, #""bad_words_ids": [[100]]"#, #""bad_words_ids": 3"#, #""sequence_bias": [[[1], NaN]]"#,
      #""sequence_bias": [[1, 2.0]]"#, #""min_length": -1"#, #""min_new_tokens": 1e9"#, #""do_sample": 1"#,
    ])
  func refusals(json: String) {
    let error = #expect(throws: NibbleError.self) { try Self.read("{\(json)}") }
    #expect(error?.kind == .badInput)
  }

  @Test("come only from their own file if there is one", arguments: [(#"{"eos_token_id": 9}"#, [9]), ("{}", []), (nil, [2])] as [(String?, Set<Int>)])
  func source(file: String?, ends: Set<Int>) throws {
    let folder = TemporaryFolder()
    for name in ["config.json", "model.safetensors"] { try folder.write(name, try bytes(of: fixture("models/llama/" + name))) }
    if let file { try folder.write("generation_config.json", file) }
    #expect(try GenerationConfig(Model(folder.path)).endIDs == ends)
  }
}

@Suite("Stop strings")
struct StopStringTests {
  @Test(
    "cut the text where they begin, however it comes",
    arguments: [
      (["hello", " wor", "ld. Bye"], ["wor"], "hello ", true), (["a", "b", "c", "d"], ["bcx", "cd"], "ab", true),
      (["a", "b", "c"], ["bcx"], "abc", false), (["ab", "ab"], ["abab"], "", true), (["x\n", "\ny"], ["\n\n"], "x", true),
      (["é", "à"], ["à"], "é", true), (["abc"], [], "abc", false), (["abc"], [""], "abc", false),
    ] as [([String], [String], String, Bool)])
  func cutting(pieces: [String], stops: [String], text: String, isFound: Bool) {
    var watcher = StopStrings(stops)
    let out = pieces.map { watcher.feed($0) }.joined() + watcher.finish()
    #expect(out == text)
    #expect(watcher.isFound == isFound)
  }

  @Test("nothing is shown that a stop string may still take back")
  func holding() {
    var watcher = StopStrings(["END"])
    #expect(watcher.feed("abE") == "ab")
    #expect(watcher.feed("N") == "")
    #expect(watcher.feed("X") == "ENX")
  }
}
