import Glibc
import NibbleCompute
import NibbleCore

/// How the next token is chosen from its scores.
public struct Sampling: Sendable {
  /// What scores are divided by; 0 takes the best token always.
  public var temperature = 0.0
  /// The most tokens that may be chosen; 0 for all.
  public var topK = 0
  /// The least set of best tokens with this much probability; 1 for all.
  public var topP = 1.0
  /// Only tokens at least this likely relative to the best; 0 for all.
  public var minP = 0.0
  /// What scores of tokens already there are divided by, or multiplied with where negative (CTRL, arXiv:1909.05858).
  public var repetitionPenalty = 1.0
  /// No run of this many tokens comes twice; 0 for any.
  public var noRepeatNgram = 0
  /// What may come next besides.
  public var rules = ScoreRules()
  /// The same seed gives the same tokens.
  public var seed: UInt64 = 0

  /// The best token always.
  public init() {}

  /// - Throws: `.usage` naming the value that makes no sense
  public func validate() throws {
    func check(_ isFine: Bool, _ setting: Setting, _ value: Any, _ expected: String) throws {
      if !isFine { throw NibbleError.usage("\(setting, value) is not \(expected)") }
    }
    try check(temperature >= 0 && temperature.isFinite, .temperature, temperature, "0 or more")
    try check(topK >= 0, .topK, topK, "0 or more")
    try check(topP > 0 && topP <= 1, .topP, topP, "above 0 and at most 1")
    try check(minP >= 0 && minP <= 1, .minP, minP, "from 0 to 1")
    try check(repetitionPenalty > 0 && repetitionPenalty.isFinite, .repetitionPenalty, repetitionPenalty, "above 0")
    try check(noRepeatNgram >= 0, .noRepeatNgramSize, noRepeatNgram, "0 or more")
  }

  /// Whether scores are changed before they are compared.
  var adjusts: Bool { repetitionPenalty != 1 || noRepeatNgram > 0 || rules != ScoreRules() }

  /// Applies penalties and rules to one token's scores, in place.
  ///
  /// - Parameters:
  ///   - history: the prompt and the new tokens
  ///   - prompt: how many of them are the prompt's
  ///   - ends: tokens that end a sequence
  package func adjust(
    _ scores: UnsafeMutablePointer<Float>, count: Int, history: [Int], prompt: Int = 0, ends: Set<Int> = []
  ) {
    rules.favour(scores, count: count, history: history)
    penalize(scores, count: count, history: history)
    rules.forbid(scores, count: count, history: history, prompt: prompt, ends: ends)
  }

  private func penalize(_ scores: UnsafeMutablePointer<Float>, count: Int, history: [Int]) {
    if repetitionPenalty != 1 {
      let penalty = Float(repetitionPenalty)
      for id in Set(history) where id < count { scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty }
    }
    guard noRepeatNgram > 0, history.count + 1 >= noRepeatNgram else { return }
    let tail = history.suffix(noRepeatNgram - 1)
    for start in 0...(history.count + 1 - noRepeatNgram) where start + noRepeatNgram - 1 < history.count {
      if history[start..<start + noRepeatNgram - 1].elementsEqual(tail) {
        scores[history[start + noRepeatNgram - 1]] = -.infinity
      }
    }
  }

  /// The next token: the best, or one drawn.
  ///
  /// - Parameters:
  ///   - scores: adjusted already
  ///   - draw: from 0 up to 1
  package func choose(_ scores: UnsafePointer<Float>, count: Int, draw: Double) -> Int {
    if temperature == 0 { return LayerKernels.argmax(scores, count: count).index }
    let (candidates, weights) = candidates(scores, count: count)
    let total = weights.reduce(0, +)
    var left = draw * total
    for (candidate, weight) in zip(candidates, weights) {
      left -= weight
      if left < 0 { return candidate }
    }
    return candidates.last ?? 0
  }

  /// Tokens that may be chosen, best first (lower ids first among equals), with weights that need not sum to 1. The order
  /// of filters is transformers': temperature, top k, top p, min p.
  package func candidates(_ scores: UnsafePointer<Float>, count: Int) -> (ids: [Int], weights: [Double]) {
    let best = Double(LayerKernels.argmax(scores, count: count).value)
    // What no filter could let through is not sorted: e^-40 of the best is nothing.
    let floor = Float(best - 40 * temperature)
    var ids = (0..<count).filter { scores[$0] >= floor }
    ids.sort { (scores[$0], $1) > (scores[$1], $0) }
    if topK > 0, topK < ids.count {
      let least = scores[ids[topK - 1]]
      ids = Array(ids.prefix { scores[$0] >= least })
    }
    var weights = ids.map { exp((Double(scores[$0]) - best) / temperature) }
    if topP < 1 {
      let total = weights.reduce(0, +)
      var before = 0.0
      let kept = weights.prefix { weight in
        defer { before += weight }
        return before < topP * total || before == 0
      }.count
      ids.removeSubrange(kept...)
      weights.removeSubrange(kept...)
    }
    if minP > 0 {
      let kept = weights.prefix { $0 >= minP * weights[0] }.count
      ids.removeSubrange(kept...)
      weights.removeSubrange(kept...)
    }
    return (ids, weights)
  }
}
