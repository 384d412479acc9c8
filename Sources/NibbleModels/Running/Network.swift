import NibbleCompute
import NibbleCore

/// What computes a model: a batch of inputs becomes states, rows of numbers that a head looks at, and the gradient of these states finds
/// what is trained. A family's file builds one. `Transformer` is one; `Network+Heads.swift` puts heads on any. One pass at a time.
package protocol Network: AnyObject, Sendable {
  /// What products are made with.
  var engine: Engine { get }
  /// The same in float32, which adapters are computed in.
  var exact: Engine { get }
  /// Memory for passes. Heads use slots of their own (`HeadSlot`).
  var scratch: Scratch { get }
  /// What adapters and training find in it.
  var parts: NetworkParts { get }
  /// What stands on the states. A model gets another one, if at all, before its first pass.
  var head: Head { get set }
  /// Numbers in a row of states.
  var width: Int { get }
  /// What becomes of the scores of a language head.
  var logitChange: LogitChange { get }

  /// Rows of states that each input of a batch gives: one a token, one a position of an image.
  func rows(_ batch: Batch) -> [Int]

  /// The states of a batch, [rows, width], which hold until the next pass.
  ///
  /// - Parameter tape: gets what the way back needs; all inputs have the same adapters then
  /// - Throws: `.usage` for inputs of a kind the network does not take, `.badInput` for inputs it cannot take, `.quality` where a
  ///   number is not finite, `.interrupted`
  func hidden(_ batch: Batch, tape: Tape?) throws -> UnsafePointer<Float>

  /// Adds to the gradients of everything trained below the head.
  ///
  /// - Parameters:
  ///   - gradient: of the states; spoiled
  ///   - tape: of `hidden` with the same batch
  func backward(_ batch: Batch, _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws

  /// The rows of each input that a classification head looks at, counted from the input's first, and how much of each.
  func pooled(_ batch: Batch, _ token: ClassificationHead.Token) -> [[(row: Int, weight: Float)]]

  /// What a pass and its way back need of memory, before there is one.
  func room(_ size: PassSize) -> PassRoom
}

/// A network of texts: sequences of tokens from a vocabulary, each as long as the context allows, continued from a cache.
package protocol TokenNetwork: Network {
  var vocabulary: Int { get }
  /// The most tokens a sequence may have.
  var contextLength: Int { get }
  /// The table of tokens, whose weight a language head may share.
  var tokens: Embedding { get }
  /// An empty cache for one sequence.
  func cache() -> KeyValueCache
  /// What a sequence begins with that continues, or answers, a prompt.
  ///
  /// - Parameter start: the first token of an answer; nil for the configuration's
  func opening(_ prompt: [Int], start: Int?) -> Opening
}

/// The beginning of a text that a network writes.
package struct Opening: Sendable {
  /// What the first pass takes.
  package var ids: [Int]
  /// The segment of each of its tokens; nil for all 0, and for passes over parts of it one after another.
  package var types: [Int]?
  /// What stands in the text already: the prompt where it is continued, the decoder's first token where it is answered.
  package var written: [Int]

  package init(ids: [Int], types: [Int]? = nil, written: [Int]) { (self.ids, self.types, self.written) = (ids, types, written) }
}

extension TokenNetwork {
  package func opening(_ prompt: [Int], start: Int?) -> Opening { Opening(ids: prompt, written: prompt) }
  package func opening(_ prompt: [Int]) -> Opening { opening(prompt, start: nil) }
}

/// What adapters and training find in a network, beside its head.
package struct NetworkParts: Sendable {
  /// Linear layers and convolutions, in the order of the pass.
  package var layers: [Linear]
  /// Those of them that `--target-modules attention` and `mlp` mean.
  package var attention: [Linear] = []
  package var mlp: [Linear] = []
  /// Layers of the checkpoint that no result depends on, for adapters that were trained on them, too.
  package var idle: [Linear] = []
  package var embeddings: [Embedding] = []
  /// Rows that are parameters in no module, such as class tokens: trained where every weight is, and adapted by nothing.
  package var looseRows: [Embedding] = []
  package var norms: [Norm] = []
  /// Vectors that are parameters in no module's weight or bias, such as sinks of attention: trained where every weight is.
  package var looseVectors: [Vector] = []
  /// Running means and variances, which have no gradients: passes that train every weight move them.
  package var statistics: [Vector] = []

  package init(
    layers: [Linear], attention: [Linear] = [], mlp: [Linear] = [], idle: [Linear] = [], embeddings: [Embedding] = [], norms: [Norm] = [],
    statistics: [Vector] = []
  ) {
    (self.layers, self.attention, self.mlp, self.idle) = (layers, attention, mlp, idle)
    (self.embeddings, self.norms, self.statistics) = (embeddings, norms, statistics)
  }
}

/// A training pass as a memory plan sees it.
package struct PassSize: Sendable {
  package var inputs: Int
  /// Tokens of the longest input, or positions of an image.
  package var length: Int
  package var threads: Int
  /// Whether layers keep only their inputs.
  package var checkpointing: Bool
  /// Layers whose methods scale outputs, which are kept unscaled.
  package var scaled: Set<ParameterID>
  /// Layers that more, or something else, is done with than that a pair is added.
  package var changed: Set<ParameterID>
  /// The greatest rank of a pair.
  package var rank: Int

  package init(
    inputs: Int, length: Int, threads: Int, checkpointing: Bool, scaled: Set<ParameterID> = [], changed: Set<ParameterID> = [], rank: Int = 0
  ) {
    (self.inputs, self.length, self.threads, self.checkpointing) = (inputs, length, threads, checkpointing)
    (self.scaled, self.changed, self.rank) = (scaled, changed, rank)
  }
}

/// Memory of a pass and its way back, in float32 numbers.
package struct PassRoom: Sendable {
  /// Rows of states.
  package var rows: Int
  /// What the tape keeps.
  package var kept: Int
  /// Work in hand.
  package var inHand: Int

  package init(rows: Int, kept: Int, inHand: Int) { (self.rows, self.kept, self.inHand) = (rows, kept, inHand) }
}

extension Network {
  package var logitChange: LogitChange { LogitChange() }

  package func pooled(_ batch: Batch, _ token: ClassificationHead.Token) -> [[(row: Int, weight: Float)]] {
    rows(batch).map { count in
      switch token {
      case .first: [(0, 1)]
      case .second: [(1, 1)]
      case .last: [(max(count - 1, 0), 1)]
      case .mean: (0..<count).map { ($0, 1 / Float(max(count, 1))) }
      }
    }
  }

  /// The operations of a pass over the batch.
  func operations(_ batch: Batch, _ tape: Tape?) -> Layers { operations(rows(batch), batch.adapters, tape) }

  /// The operations of a pass over so many rows of each input.
  func operations(_ rows: [Int], _ adapters: [[ActiveAdapter]], _ tape: Tape?) -> Layers {
    Layers(engine: engine, exact: exact, segments: Segment.segments(rows, adapters), scratch: scratch, tape: tape)
  }

  func floats(_ slot: Int, _ count: Int) -> UnsafeMutablePointer<Float> { scratch.floatStart(slot, count) }
}
