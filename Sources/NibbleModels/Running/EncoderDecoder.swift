import NibbleCompute
import NibbleCore

/// Two transformers: an encoder reads one text, a decoder writes another and looks at the first in every layer (T5).
///
/// A sequence is both texts, one behind the other: tokens of type 0 are read, those of type 1 are written. So are the states: the encoder's, then
/// the decoder's. A cache that has the source takes tokens that are written only.
package final class EncoderDecoder: TokenNetwork, @unchecked Sendable {
  package let encoder: Transformer
  package let decoder: Transformer
  package let scratch = Scratch()
  package let parts: NetworkParts
  package var head: Head
  /// The token that the written text begins with.
  package let start: Int
  /// What stands for labels that are left out where the written text is made of labels; nil where the configuration has none.
  package let padding: Int?
  /// Parameters of the checkpoint that are copies of the table of tokens.
  package let tableCopies: [String]

  private enum Slot { static let states = 120, written = 121, sources = 122 }

  /// - Parameters:
  ///   - encoder: without a head
  ///   - decoder: its head scores what is written; its layers have cross attention
  package init(_ encoder: Transformer, _ decoder: Transformer, start: Int, padding: Int?, tableCopies: [String] = []) {
    (self.encoder, self.decoder, self.start, self.padding, self.tableCopies) = (encoder, decoder, start, padding, tableCopies)
    head = decoder.head
    parts = encoder.parts.joined(decoder.parts)
  }

  package typealias Floats = UnsafeMutablePointer<Float>

  package var engine: Engine { decoder.engine }
  package var exact: Engine { decoder.exact }
  package var width: Int { decoder.width }
  package var vocabulary: Int { decoder.vocabulary }
  package var contextLength: Int { decoder.contextLength }
  package var tokens: Embedding { decoder.tokens }
  package var logitChange: LogitChange { decoder.logitChange }
  package func cache() -> KeyValueCache { decoder.cache() }

  package func rows(_ batch: Batch) -> [Int] { decoder.rows(batch) }

  package func opening(_ prompt: [Int], start: Int?) -> Opening {
    let start = start ?? self.start
    return Opening(ids: prompt + [start], types: Array(repeating: 0, count: prompt.count) + [1], written: [start])
  }

  /// A batch as its two networks see it.
  private struct Halves {
    /// Runs whose source is new, each without a cache.
    var sources: [TokenRun] = []
    var written: [TokenRun] = []
    /// Tokens of each run's source in the batch; 0 where a cache has it.
    var lengths: [Int] = []
  }

  /// - Throws: `.usage` for runs that do not say where what is written begins, `.badInput` for those without one of the two texts
  private func halves(_ runs: [TokenRun]) throws -> Halves {
    var halves = Halves()
    for run in runs {
      var written = run
      (written.types, written.mask) = (nil, nil)
      var count = 0
      if run.cache?.source == nil {
        guard let types = run.types, types.count == run.ids.count else {
          throw NibbleError.usage("the model reads one text and writes another: a text by itself has no scores")
        }
        count = types.firstIndex { $0 != 0 } ?? types.count
        guard count > 0, count < run.ids.count else {
          throw NibbleError.badInput("the model reads one text and writes another: one of the two has no tokens")
        }
        halves.sources.append(TokenRun(Array(run.ids[..<count]), mask: run.mask, adapters: run.adapters))
        written.ids = Array(run.ids[count...])
      }
      halves.written.append(written)
      halves.lengths.append(count)
    }
    return halves
  }

  package func hidden(_ batch: Batch, tape: Tape?) throws -> UnsafePointer<Float> {
    let runs = try batch.runs, halves = try halves(runs)
    try decoder.check(halves.written)
    var source: SourceStates?
    if !halves.sources.isEmpty {
      source = SourceStates(
        states: try encoder.hidden(.tokens(halves.sources), tape: tape), lengths: halves.sources.map(\.ids.count), masks: halves.sources.map(\.mask))
    }
    if let read = source { try give(read, to: halves) }
    // Runs with caches look at what these hold. All have one, or none.
    guard Set(runs.map { $0.cache != nil }).count < 2 else { throw NibbleError.usage("texts with caches and without cannot be read together") }
    let looked = runs.contains { $0.cache != nil } ? nil : source
    if let tape { tape.part(of: self) { Kept() }.source = looked }
    let written = try decoder.states(.tokens(halves.written), halves.written, tape, source: looked)
    let out = floats(Slot.states, runs.reduce(0) { $0 + $1.ids.count } * width)
    move(halves) { row, part, isWritten, first in
      let from = isWritten ? written : source?.states
      if let from { (out + row * width).update(from: from + first * width, count: part * width) }
    }
    return UnsafePointer(out)
  }

  /// Gives caches of new sequences the keys and values of their sources.
  private func give(_ source: SourceStates, to halves: Halves) throws {
    var (first, number) = (0, 0)
    for (run, count) in zip(halves.written, halves.lengths) where count > 0 {
      defer { (first, number) = (first + count, number + 1) }
      guard let cache = run.cache else { continue }
      let own = SourceStates(states: source.states + first * width, lengths: [count], masks: [source.masks[number]])
      cache.source = decoder.sourceKeys(own, run.adapters)
    }
  }

  /// Hands out each run's part of either network's rows: the row in the batch, how many there are, whether the decoder has them, and their first there.
  private func move(_ halves: Halves, _ body: (_ row: Int, _ count: Int, _ isWritten: Bool, _ first: Int) -> Void) {
    var (row, read, written) = (0, 0, 0)
    for (run, count) in zip(halves.written, halves.lengths) {
      if count > 0 { body(row, count, false, read) }
      body(row + count, run.ids.count, true, written)
      (row, read, written) = (row + count + run.ids.count, read + count, written + run.ids.count)
    }
  }

  /// What the way back needs of a pass.
  private final class Kept { var source: SourceStates? }

  package func backward(_ batch: Batch, _ gradient: Floats, tape: Tape, _ gradients: Gradients) throws {
    let halves = try halves(try batch.runs)
    guard var source = tape.part(of: self, { Kept() }).source else { return }
    let learns = gradients.hasAny(of: encoder.parts)
    let sources = floats(Slot.sources, source.rows * width)
    let written = floats(Slot.written, halves.written.reduce(0) { $0 + $1.ids.count } * width)
    move(halves) { row, count, isWritten, first in
      ((isWritten ? written : sources) + first * width).update(from: gradient + row * width, count: count * width)
    }
    source.gradient = learns ? sources : nil
    try decoder.backward(.tokens(halves.written), written, tape: tape, gradients, goesOn: false, source: source)
    if learns { try encoder.backward(.tokens(halves.sources), sources, tape: tape, gradients) }
  }

  package func room(_ size: PassSize) -> PassRoom {
    // A row is the encoder's or the decoder's, whose layers have more to keep of either.
    let (read, written) = (encoder.room(size), decoder.room(size))
    return PassRoom(
      rows: written.rows, kept: max(read.kept, written.kept), inHand: max(read.inHand, written.inHand) + 3 * written.rows * width)
  }
}

extension NetworkParts {
  /// Both networks', what they share once.
  func joined(_ other: NetworkParts) -> NetworkParts {
    var joined = NetworkParts(
      layers: layers + other.layers, attention: attention + other.attention, mlp: mlp + other.mlp, idle: idle + other.idle,
      embeddings: embeddings + other.embeddings.filter { table in !embeddings.contains { $0.id == table.id } }, norms: norms + other.norms,
      statistics: statistics + other.statistics)
    joined.looseRows = looseRows + other.looseRows
    joined.looseVectors = looseVectors + other.looseVectors
    return joined
  }
}

extension Gradients {
  /// Whether anything in a network is trained.
  fileprivate func hasAny(of parts: NetworkParts) -> Bool {
    parts.layers.contains { has($0) } || parts.norms.contains { has($0) } || (parts.embeddings + parts.looseRows).contains { has($0) }
      || parts.looseVectors.contains { vectors[$0.id] != nil }
  }
}
