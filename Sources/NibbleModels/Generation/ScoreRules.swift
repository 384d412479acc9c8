import NibbleCore

/// What may come next whatever a model prefers: the logits processors of transformers that have the same names, in their order.
public struct ScoreRules: Sendable, Equatable {
  /// A number added to the score of a run's last token where the text ends with those before it; −∞ forbids it.
  public struct Bias: Sendable, Equatable {
    /// One token at least.
    public var run: [Int]
    /// What is added.
    public var value: Float

    /// A run and what is added.
    public init(_ run: [Int], _ value: Float) { (self.run, self.value) = (run, value) }
  }

  /// `sequence_bias`.
  public var sequenceBias: [Bias] = []
  /// `bad_words_ids`.
  public var badWords: [[Int]] = []
  /// `suppress_tokens`: never chosen.
  public var suppressed: Set<Int> = []
  /// `begin_suppress_tokens`: not chosen first.
  public var suppressedFirst: Set<Int> = []
  /// `min_length`: no end before the prompt and the new tokens are as many.
  public var minimumLength = 0
  /// `min_new_tokens`.
  public var minimumNew = 0

  /// Anything may come.
  public init() {}

  /// What stands before penalties.
  func favour(_ scores: UnsafeMutablePointer<Float>, count: Int, history: [Int]) {
    for bias in sequenceBias { add(bias, scores, count: count, history) }
  }

  /// What stands after them.
  ///
  /// - Parameters:
  ///   - prompt: how many tokens of `history` are the prompt's
  ///   - ends: tokens that end a sequence
  func forbid(_ scores: UnsafeMutablePointer<Float>, count: Int, history: [Int], prompt: Int, ends: Set<Int>) {
    func forbid(_ ids: Set<Int>) { for id in ids where (0..<count).contains(id) { scores[id] = -.infinity } }
    // A word that is nothing but an end is not forbidden.
    for word in badWords where word.count > 1 || word.first.map({ !ends.contains($0) }) ?? false {
      add(Bias(word, -.infinity), scores, count: count, history)
    }
    if history.count < minimumLength || history.count - prompt < minimumNew { forbid(ends) }
    forbid(suppressed)
    if history.count == prompt { forbid(suppressedFirst) }
  }

  private func add(_ bias: Bias, _ scores: UnsafeMutablePointer<Float>, count: Int, _ history: [Int]) {
    guard let last = bias.run.last, (0..<count).contains(last), history.suffix(bias.run.count - 1).elementsEqual(bias.run.dropLast())
    else { return }
    scores[last] += bias.value
  }
}
