import NibbleCompute
import NibbleCore

/// A second attention in the layers of a decoder, to what an encoder made of another text: x + o(attention(q(norm(x)), k(source), v(source))).
package struct CrossAttention: Sendable {
  package var norm: Norm
  package var query: Linear
  /// Projections of the source whose outputs, side by side, are keys and values.
  package var keyValue: [Linear]
  package var output: Linear

  package init(norm: Norm, query: Linear, keyValue: [Linear], output: Linear) {
    (self.norm, self.query, self.keyValue, self.output) = (norm, query, keyValue, output)
  }

  /// In the order of the pass.
  package var linears: [Linear] { [query] + keyValue + [output] }
}

/// What an encoder made of the sources of a batch, one a run.
struct SourceStates {
  /// [tokens of all sources, width], one source behind another; hold until the encoder's next pass.
  var states: UnsafePointer<Float>
  /// Tokens of each source.
  var lengths: [Int]
  /// Of each source; those nobody may attend to have 0.
  var masks: [TokenMask?]
  /// Gets the gradient of the states, which is added to it; nil where nobody needs it.
  var gradient: UnsafeMutablePointer<Float>?

  var rows: Int { lengths.reduce(0, +) }
}

/// Keys and values that the layers of a decoder made of one source, for all tokens that are written to it.
final class SourceKeys: Sendable {
  /// Tokens of the source.
  let count: Int
  let mask: TokenMask?
  /// Of each layer, [tokens, keys and values].
  let layers: [FloatStore]

  init(count: Int, mask: TokenMask?, layers: [FloatStore]) { (self.count, self.mask, self.layers) = (count, mask, layers) }

  var bytes: Int { layers.reduce(0) { $0 + 4 * $1.count } }
}

/// What cross attention leaves for its way back. [rows, …] each, the keys and values [rows of sources, …].
final class CrossTape {
  /// The normed input, what queries are of it, what attention gave, and the sum with the input.
  let input, query, attended, sum: FloatStore
  let keyValue: FloatStore

  init(_ shape: TransformerShape, rows: Int, sources: Int) {
    input = FloatStore(count: rows * shape.width)
    query = FloatStore(count: rows * shape.queryWidth)
    attended = FloatStore(count: rows * shape.queryWidth)
    sum = FloatStore(count: rows * shape.width)
    keyValue = FloatStore(count: sources * 2 * shape.keyWidth)
  }
}

extension Transformer {
  /// Numbers of keys and values of a source's token.
  private var sourceWidth: Int { 2 * shape.keyWidth }

  private func crossAttention(_ index: Int) -> Attention {
    var attention = shape.attention(index)
    attention.isCausal = false
    return attention
  }

  /// Keys and values of one source, by all layers, for caches.
  func sourceKeys(_ source: SourceStates, _ adapters: [ActiveAdapter]) -> SourceKeys {
    let rows = source.rows, layers = operations([rows], [adapters], nil)
    let stores = weights.layers.map { layer in
      let store = FloatStore(count: rows * sourceWidth)
      if let cross = layer.cross { layers.linear(cross.keyValue, source.states, rows: 0..<rows, store.start) }
      return store
    }
    return SourceKeys(count: rows, mask: source.masks.first ?? nil, layers: stores)
  }

  /// The sum of x and of what it finds in the sources: in the place of x without a tape.
  ///
  /// - Parameter source: nil where all runs have caches, which hold its keys and values
  func crossAttend(
    _ cross: CrossAttention, _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ x: Floats, _ source: SourceStates?,
    _ tape: LayerTape?
  ) -> Floats {
    let own = tape?.cross
    let input = own?.input.start ?? floats(Slot.h, rows * shape.width)
    let query = own?.query.start ?? floats(Slot.queryKeyValue, rows * shape.queryWidth)
    let attended = own?.attended.start ?? floats(Slot.attended, rows * shape.queryWidth)
    layers.norm(cross.norm, shape, x, rows: 0..<rows, input)
    layers.linear([cross.query], input, rows: 0..<rows, query, tape?.linear)
    let keyValue = source.map { source in
      let keyValue = own?.keyValue.start ?? floats(Slot.source, source.rows * sourceWidth)
      over(source, runs, layers).linear(cross.keyValue, source.states, rows: 0..<source.rows, keyValue, tape?.linear)
      return keyValue
    }
    let sequences = crossSequences(index, runs, query, keyValue, source, attended)
    withExtendedLifetime((runs, source)) { layers.timed(.attention) { crossAttention(index).run(sequences, engine.team) } }
    // What was normed is not needed any longer.
    let branch = own?.sum.start ?? input
    layers.linear([cross.output], attended, rows: 0..<rows, branch, tape?.linear)
    guard tape != nil else {
      layers.add(branch, to: x, rows: rows, width: shape.width)
      return x
    }
    layers.add(x, to: branch, rows: rows, width: shape.width)
    return branch
  }

  /// The operations over the rows of the sources, with the adapters of their runs.
  private func over(_ source: SourceStates, _ runs: [TokenRun], _ layers: Layers) -> Layers {
    operations(source.lengths, runs.map(\.adapters), layers.tape)
  }

  /// Every run's part: its tokens ask, those of its source answer.
  private func crossSequences(
    _ index: Int, _ runs: [TokenRun], _ query: Floats, _ keyValue: Floats?, _ source: SourceStates?, _ attended: Floats
  ) -> [Attention.Sequence] {
    var (row, first) = (0, 0)
    var sequences: [Attention.Sequence] = []
    for (number, run) in runs.enumerated() {
      let (key, count, mask): (UnsafePointer<Float>, Int, TokenMask?)
      if let cached = run.cache?.source {
        (key, count, mask) = (UnsafePointer(cached.layers[index].start), cached.count, cached.mask)
      } else if let source, let keyValue {
        (key, count, mask) = (UnsafePointer(keyValue + first * sourceWidth), source.lengths[number], source.masks[number])
        first += count
      } else {
        continue
      }
      var sequence = Attention.Sequence(
        query: query + row * shape.queryWidth, queryStride: shape.queryWidth, key: key, value: key + shape.keyWidth,
        keyStride: sourceWidth, keyHeadStride: shape.headSize, past: 0, new: run.ids.count, window: nil, mask: mask?.start,
        output: attended + row * shape.queryWidth, outputStride: shape.queryWidth)
      sequence.others = count
      sequences.append(sequence)
      row += run.ids.count
    }
    return sequences
  }

  /// The gradient of the sum becomes that of x. That of the sources is added to theirs.
  func crossBack(
    _ cross: CrossAttention, _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ x: Floats, _ source: SourceStates,
    _ tape: LayerTape, _ gradient: Floats, _ gradients: Gradients
  ) {
    guard let own = tape.cross else { return }
    let half = floats(Slot.half, rows * shape.width)
    let dAttended = floats(Slot.inner, rows * shape.queryWidth), dQuery = floats(Slot.wide, rows * shape.queryWidth)
    let dKeyValue = floats(Slot.source, source.rows * sourceWidth)
    half.update(from: gradient, count: rows * shape.width)
    layers.linearBack([cross.output], own.attended.start, rows: rows, half, dx: dAttended, tape.linear, gradients)
    var (row, first) = (0, 0)
    let sequences = crossSequences(index, runs, own.query.start, own.keyValue.start, source, own.attended.start)
    let pairs = sequences.map { sequence in
      let to = dKeyValue + first * sourceWidth
      defer { (row, first) = (row + sequence.new, first + (sequence.others ?? 0)) }
      return (
        sequence: sequence,
        gradient: Attention.Gradient(
          output: dAttended + row * shape.queryWidth, outputStride: shape.queryWidth, query: dQuery + row * shape.queryWidth, key: to,
          value: to + shape.keyWidth, stride: shape.queryWidth, keyStride: sourceWidth)
      )
    }
    withExtendedLifetime((runs, source)) { layers.timed(.attention) { crossAttention(index).backward(pairs, engine.team) } }
    let dSource = source.gradient.map { _ in floats(Slot.sourceGradient, source.rows * shape.width) }
    over(source, runs, layers).linearBack(
      cross.keyValue, source.states, rows: source.rows, dKeyValue, dx: dSource, tape.linear, gradients)
    if let dSource, let sum = source.gradient { layers.add(dSource, to: sum, rows: source.rows, width: shape.width) }
    layers.linearBack([cross.query], own.input.start, rows: rows, dQuery, dx: half, tape.linear, gradients)
    layers.normBack(cross.norm, shape, half, x, rows: rows, half, gradients)
    layers.add(half, to: gradient, rows: rows, width: shape.width)
  }
}
