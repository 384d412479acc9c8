import NibbleCompute
import NibbleCore
import NibbleFormats

/// Attention or the MLP of one layer, in steps: for work that has to look at what each projection takes, and to put others in their
/// place, before the next step is computed.
///
/// With the residual stream x, either half is x += exit(inner(entries(input(x)))), with norms before, after the exit, or behind the sum.
package struct HalfLayer {
  package enum Part: CaseIterable, Sendable { case attention, mlp }

  private let transformer: Transformer
  private let index: Int
  private let part: Part
  private let norms: BranchNorms
  /// Projections that share the input: queries, keys and values, or gate and up.
  package var entries: [Linear]
  /// The projection whose output is added to the residual stream.
  package var exit: Linear

  package typealias Floats = UnsafeMutablePointer<Float>

  package init(_ transformer: Transformer, layer index: Int, _ part: Part) {
    (self.transformer, self.index, self.part) = (transformer, index, part)
    let layer = transformer.weights.layers[index]
    switch part {
    case .attention: (norms, entries, exit) = (layer.attentionNorms, layer.queryKeyValue, layer.attentionOutput)
    case .mlp: (norms, entries, exit) = (layer.mlpNorms, layer.up, layer.down)
    }
  }

  /// What the entries take, [rows, width], of the residual stream x [rows, width].
  package func input(_ x: UnsafePointer<Float>, _ rows: Int, into out: Floats) {
    let shape = transformer.shape
    if let norm = norms.before {
      transformer.operations(.tokens([TokenRun(Array(repeating: 0, count: rows))]), nil).norm(norm, shape, x, rows: 0..<rows, out)
    } else {
      out.update(from: x, count: rows * shape.width)
    }
  }

  /// What the exit takes, [rows, inputs of the exit], of what the entries take.
  ///
  /// - Parameters:
  ///   - runs: without caches; their tokens are the rows
  ///   - scratch: slot 0 is used
  package func inner(_ runs: [TokenRun], _ input: Floats, _ rows: Int, into out: Floats, _ scratch: Scratch) {
    let layers = transformer.operations(.tokens(runs), nil)
    let width = entries.reduce(0) { $0 + $1.outputs }
    let projected = scratch.floatStart(0, rows * width)
    switch part {
    case .attention: transformer.attend(index, runs, layers, rows, entries, input, projected, out)
    case .mlp:
      layers.linear(entries, input, rows: 0..<rows, projected)
      transformer.activate(projected, rows, inner: exit.inputs, out)
    }
  }

  /// Adds the exit's output to the residual stream, with the norms behind it.
  ///
  /// - Parameter scratch: slot 0 is used
  package func finish(_ x: Floats, _ inner: UnsafePointer<Float>, _ rows: Int, _ scratch: Scratch) {
    let shape = transformer.shape
    let layers = transformer.operations(.tokens([TokenRun(Array(repeating: 0, count: rows))]), nil)
    let added = scratch.floatStart(0, rows * shape.width)
    layers.linear([exit], inner, rows: 0..<rows, added)
    if let norm = norms.after { layers.norm(norm, shape, added, rows: 0..<rows, added) }
    layers.add(added, scaledBy: shape.residualScale, to: x, rows: rows, width: shape.width)
    if let norm = norms.behind { layers.norm(norm, shape, x, rows: 0..<rows, x) }
  }
}

extension Linear {
  /// The same layer with another weight.
  package func with(_ matrix: Matrix) -> Linear { Linear(name: name, id: id, matrix: matrix, bias: bias, isConv1D: isConv1D, window: window) }

  /// The same layer with a changed bias.
  package func adding(_ change: any TensorChange) -> Linear {
    guard let bias else { return self }
    let values = FloatStore(Array(bias.values.values)), delta = FloatStore(count: bias.values.count)
    change.delta(bias.values.start, 0, values.count, into: delta.start, Scratch())
    for place in 0..<values.count { values.start[place] += delta.start[place] }
    return Linear(name: name, id: id, matrix: matrix, bias: Vector(id: bias.id, values: values), isConv1D: isConv1D, window: window)
  }
}

extension Transformer {
  /// Whether the outputs of attention and MLP are added to the residual stream as they are.
  package var addsBranchesAsTheyAre: Bool {
    shape.residualScale == 1 && weights.layers.allSatisfy { $0.attentionNorms.after == nil && $0.mlpNorms.after == nil }
  }

  /// States as heads take them, [rows, width], of the residual stream behind the last layer.
  package func finished(_ x: UnsafePointer<Float>, _ rows: Int, into out: UnsafeMutablePointer<Float>) {
    guard let norm = weights.finalNorm else {
      out.update(from: x, count: rows * shape.width)
      return
    }
    operations(.tokens([TokenRun(Array(repeating: 0, count: rows))]), nil).norm(norm, shape, x, rows: 0..<rows, out)
  }

  /// Embeddings of every token of every run, [tokens, width], as the first layer takes them.
  ///
  /// - Throws: `.badInput` for ids outside the vocabulary and sequences longer than the context
  package func embedded(_ runs: [TokenRun], into x: UnsafeMutablePointer<Float>) throws {
    try check(runs)
    try embed(runs, operations(.tokens(runs), nil), runs.reduce(0) { $0 + $1.ids.count }, x, nil)
  }
}
