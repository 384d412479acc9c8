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

  @Test("of several prompts at once is that of each alone")
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
    #expect(throws: NibbleError.self) { try Self.generate([Array(repeating: 1, count: 500)], new: 20) }
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
