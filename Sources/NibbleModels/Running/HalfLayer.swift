import NibbleCompute
import NibbleCore
import NibbleFormats

/// Attention or the MLP of one layer, in steps: for work that has to look at what each projection takes, and to put others in their
/// place, before the next step is computed.
///
/// With the residual stream x, either half is x += scale · exit(inner(entries(input(x)))), with norms before, after the exit, or behind the sum.
package struct HalfLayer {
  package enum Part: CaseIterable, Sendable { case attention, mlp }

  let transformer: Transformer
  private let index: Int
  private let part: Part
  let norms: BranchNorms
  /// Projections that share the input: queries, keys and values, or gate and up.
  package var entries: [Linear]
  /// What makes keys and queries of distances, where attention has layers of their own for that.
  package var distances: [Linear] = []
  /// The projection whose output is added to the residual stream.
  package var exit: Linear

  package typealias Floats = UnsafeMutablePointer<Float>

  /// Numbers of a token in the residual stream.
  package var width: Int { transformer.shape.width }

  package init(_ transformer: Transformer, layer index: Int, _ part: Part) {
    (self.transformer, self.index, self.part) = (transformer, index, part)
    let layer = transformer.weights.layers[index]
    switch part {
    case .attention:
      (norms, entries, exit) = (layer.attentionNorms, layer.queryKeyValue, layer.attentionOutput)
      distances = layer.distances
    case .mlp:
      var own = layer.mlpNorms
      if transformer.shape.isParallel, own.before == nil { own.before = layer.attentionNorms.before }
      (norms, entries, exit) = (own, layer.up, layer.down)
    }
  }

  /// Whether the entries take what the layer took, rather than what attention made of it.
  package var takesLayerInput: Bool { part == .mlp && transformer.shape.isParallel }

  /// Puts another weight in the place of a projection's.
  package mutating func exchange(_ id: ParameterID, _ matrix: Matrix) {
    func exchanged(_ linear: Linear) -> Linear { linear.id == id ? linear.with(matrix) : linear }
    (entries, distances, exit) = (entries.map(exchanged), distances.map(exchanged), exchanged(exit))
  }

  /// What the entries take, [rows, width], of the residual stream x [rows, width], or of what the layer took.
  package func input(_ x: UnsafePointer<Float>, _ rows: Int, into out: Floats) {
    let shape = transformer.shape
    if let norm = norms.before {
      operations(rows).norm(norm, shape, x, rows: 0..<rows, out)
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
    case .attention: transformer.attend(index, runs, layers, rows, entries, distances, input, projected, out)
    case .mlp:
      layers.linear(entries, input, rows: 0..<rows, projected)
      transformer.activate(projected, rows, inner: exit.inputs, out)
    }
  }

  /// What the exit gives, [rows, width], of what it takes.
  package func output(_ inner: UnsafePointer<Float>, _ rows: Int, into out: Floats) {
    operations(rows).linear([exit], inner, rows: 0..<rows, out)
  }

  /// Adds what the exit gave to the residual stream x, with the norms after it and behind the sum.
  ///
  /// - Parameter output: spoiled
  package func add(_ output: Floats, _ rows: Int, to x: Floats) {
    let shape = transformer.shape, layers = operations(rows)
    if let norm = norms.after { layers.norm(norm, shape, output, rows: 0..<rows, output) }
    layers.add(output, scaledBy: shape.residualScale, to: x, rows: rows, width: shape.width)
    if let norm = norms.behind { layers.norm(norm, shape, x, rows: 0..<rows, x) }
  }

  /// Both: what the exit gives of what it takes, added to the residual stream.
  ///
  /// - Parameter scratch: slot 0 is used
  package func finish(_ x: Floats, _ inner: UnsafePointer<Float>, _ rows: Int, _ scratch: Scratch) {
    let given = scratch.floatStart(0, rows * transformer.shape.width)
    output(inner, rows, into: given)
    add(given, rows, to: x)
  }

  /// Operations over rows that belong to no sequence.
  private func operations(_ rows: Int) -> Layers { transformer.operations([rows], [[]], nil) }
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
  /// States as heads take them, [rows, width], of the residual stream behind the last layer.
  package func finished(_ x: UnsafePointer<Float>, _ rows: Int, into out: UnsafeMutablePointer<Float>) {
    guard let norm = weights.finalNorm else {
      out.update(from: x, count: rows * shape.width)
      return
    }
    operations([rows], [[]], nil).norm(norm, shape, x, rows: 0..<rows, out)
  }

  /// Embeddings of every token of every run, [tokens, width], as the first layer takes them.
  ///
  /// - Throws: `.badInput` for ids outside the vocabulary and sequences longer than the context
  package func embedded(_ runs: [TokenRun], into x: UnsafeMutablePointer<Float>) throws {
    try check(runs)
    try embed(runs, operations(.tokens(runs), nil), runs.reduce(0) { $0 + $1.ids.count }, x, nil)
  }
}
