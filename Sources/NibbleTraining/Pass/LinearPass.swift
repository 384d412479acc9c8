import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// Linear layers forth and back: frozen weights, plain or packed, with what is trained beside them.
struct LinearPass {
  let engine: Engine
  let trained: Trained
  let scratch: Scratch
  let lengths: RowLengths
  let clock: StepClock
  /// What of the factors' input is dropped, while learning.
  var dropout: Dropout?

  typealias Floats = UnsafeMutablePointer<Float>

  private enum Slot { static let low = 20, lowGradient = 21, dropped = 22, droppedGradient = 23, tokens = 24 }

  /// The weight in force, stored as the layer's own is: [inputs, outputs] of Conv1D.
  private func matrix(_ layer: Linear) -> Matrix {
    guard let own = trained.matrices[layer.id]?.matrix else { return layer.matrix }
    return layer.isConv1D ? own.turned : own
  }

  private func bias(_ layer: Linear) -> UnsafePointer<Float>? {
    layer.bias.map { UnsafePointer((trained.vectors[$0.id]?.values ?? $0.values).start) }
  }

  /// What DoRA's layers gave before they were scaled, by layer, and the lengths of their rows.
  final class Saved {
    var unscaled: [ParameterID: FloatStore] = [:]
    var norms: [ParameterID: [Float]] = [:]
  }

  /// out = x · Wᵀ + b for layers that share their input, side by side in rows of `out`.
  func forward(_ layers: [Linear], _ x: UnsafePointer<Float>, rows: Int, _ out: Floats, _ saved: Saved) {
    let stride = layers.reduce(0) { $0 + $1.outputs }
    var products: [Engine.Product] = []
    var column = 0
    for layer in layers {
      let terms = trained.factors[layer.id].map {
        [Engine.LowRankTerm(a: $0.a.matrix, b: $0.b.matrix, scale: $0.scale, rows: 0..<rows)]
      }
      products.append(.init(matrix(layer), out + column, stride: stride, terms: dropout == nil ? terms ?? [] : []))
      column += layer.outputs
    }
    clock.measure(.weights) { engine.multiply(x, rows: rows, stride: layers.first?.inputs ?? 0, products) }
    column = 0
    for layer in layers {
      clock.measure(.trained) {
        if let dropout, let factors = trained.factors[layer.id] {
          let u = lowRank(factors, dropout.applied(x, rows, layer, scratch.floatStart(Slot.dropped, rows * layer.inputs)), rows)
          exact.multiply(u, rows: rows, stride: factors.rank, [.init(factors.b.matrix, out + column, stride: stride, adds: true)])
        }
        if let own = trained.rows[layer.id] { replace(own, x, rows, out + column, stride) }
        finish(layer, rows, out + column, stride, saved)
      }
      column += layer.outputs
    }
  }

  /// Adapters are computed in float32.
  var exact: Engine { Engine(.f32, team: engine.team, variant: engine.variant) }

  /// scale · x · Aᵀ
  private func lowRank(_ factors: TrainedFactors, _ x: UnsafePointer<Float>, _ rows: Int) -> Floats {
    let u = scratch.floatStart(Slot.low, rows * factors.rank)
    exact.multiply(x, rows: rows, stride: factors.a.shape[1], [.init(factors.a.matrix, u, stride: factors.rank)])
    for i in 0..<rows * factors.rank { u[i] *= factors.scale }
    return u
  }

  private func finish(_ layer: Linear, _ rows: Int, _ out: Floats, _ stride: Int, _ saved: Saved) {
    let width = layer.outputs
    var ratios: FloatStore?
    if let factors = trained.factors[layer.id], let magnitude = factors.magnitude {
      let lengths = norms(layer, factors)
      let store = saved.unscaled[layer.id].flatMap { $0.count >= rows * width ? $0 : nil } ?? FloatStore(count: rows * width)
      for row in 0..<rows { (store.start + row * width).update(from: out + row * stride, count: width) }
      (saved.unscaled[layer.id], saved.norms[layer.id]) = (store, lengths)
      ratios = FloatStore(zip(magnitude.values.values, lengths).map { $0 / $1 })
    }
    let bias = bias(layer)
    let second = trained.factors[layer.id].flatMap { own in own.bias.map { ($0.values, own.scale) } }
    guard ratios != nil || bias != nil || second != nil else { return }
    engine.team.split(rows, grain: max(1, (1 << 15) / width)) { part, _ in
      for row in part {
        let y = out + row * stride
        if let ratios { LayerKernels.multiply(y, by: ratios.start, count: width) }
        if let bias { LayerKernels.add(bias, count: width, to: y) }
        if let (values, scale) = second { LayerKernels.add(values.start, scaledBy: scale, count: width, to: y) }
      }
    }
  }

  /// Lengths of the rows of W + D, D = scale · B · A, without making D:
  /// ‖w + d‖² = ‖w‖² + 2 · scale · b · (A w) + scale² · b · (A Aᵀ) · bᵀ.
  private func norms(_ layer: Linear, _ factors: TrainedFactors) -> [Float] {
    let (rank, outputs, inputs) = (factors.rank, layer.outputs, layer.inputs)
    let projected = FloatStore(count: rank * outputs), gram = FloatStore(count: rank * rank)
    exact.multiply(factors.a.values.start, rows: rank, stride: inputs, [.init(matrix(layer), projected.start, stride: outputs)])
    exact.multiply(factors.a.values.start, rows: rank, stride: inputs, [.init(factors.a.matrix, gram.start, stride: rank)])
    let own = lengths.squares(layer)
    let scale = Double(factors.scale)
    let b = factors.b.values.start
    return (0..<outputs).map { o in
      var cross = 0.0, square = 0.0
      for k in 0..<rank {
        let left = Double(b[o * rank + k])
        cross += left * Double(projected.start[k * outputs + o])
        for l in 0..<rank { square += left * Double(gram.start[k * rank + l]) * Double(b[o * rank + l]) }
      }
      return Float(max(0, own[o] + 2 * scale * cross + scale * scale * square).squareRoot())
    }
  }

  /// Gradients of what is trained in `layers`, and of their common input.
  ///
  /// - Parameters:
  ///   - dy: of the outputs side by side; spoiled
  ///   - dx: overwritten, or added to; nil where nobody needs it
  func backward(
    _ layers: [Linear], _ x: UnsafePointer<Float>, rows: Int, _ dy: Floats, dx: Floats?, adds: Bool = false, _ saved: Saved
  ) {
    let stride = layers.reduce(0) { $0 + $1.outputs }
    let inputs = layers.first?.inputs ?? 0
    var column = 0
    var isFirst = !adds
    for layer in layers {
      let own = dy + column
      let replaced = clock.measure(.trained) {
        addGradients(layer, own, stride, x, rows, saved)
        return trained.rows[layer.id].map { takeGradients(of: $0, own, stride, x, rows) }
      }
      var terms: [Engine.LowRankTerm] = []
      if let factors = trained.factors[layer.id], dropout == nil {
        terms = [.init(a: factors.b.matrix.turned, b: factors.a.matrix.turned, scale: factors.scale, rows: 0..<rows)]
      }
      if let dx {
        clock.measure(.weights) {
          engine.multiply(
            own, rows: rows, stride: stride, [.init(matrix(layer).turned, dx, stride: inputs, terms: terms, adds: !isFirst)])
        }
        isFirst = false
        if let tokens = trained.rows[layer.id], let replaced {
          exact.multiply(
            replaced, rows: rows, stride: tokens.tokens.count,
            [.init(tokens.values.matrix.turned, dx, stride: inputs, adds: true)])
        }
        if let dropout, let factors = trained.factors[layer.id] {
          clock.measure(.trained) { addDropped(dropout, factors, layer, rows, to: dx) }
        }
      }
      column += layer.outputs
    }
  }

  /// Of everything trained in one layer.
  private func addGradients(
    _ layer: Linear, _ dy: Floats, _ stride: Int, _ x: UnsafePointer<Float>, _ rows: Int, _ saved: Saved
  ) {
    if let bias = layer.bias, let vector = trained.vectors[bias.id] {
      engine.addColumnSums(dy, stride: stride, rows: rows, count: layer.outputs, to: vector.gradient.start)
    }
    if let whole = trained.matrices[layer.id] { addGradient(of: whole, layer, dy, stride, x, rows) }
    guard let factors = trained.factors[layer.id] else { return }
    if let bias = factors.bias {
      let sums = FloatStore(count: layer.outputs)
      sums.values.update(repeating: 0)
      engine.addColumnSums(dy, stride: stride, rows: rows, count: layer.outputs, to: sums.start)
      LayerKernels.add(sums.start, scaledBy: factors.scale, count: layer.outputs, to: bias.gradient.start)
    }
    unscale(layer, factors, dy, stride, rows, saved)
    let input = dropout?.applied(x, rows, layer, scratch.floatStart(Slot.dropped, rows * layer.inputs)) ?? x
    addGradients(of: factors, dy, stride, input, rows)
  }

  private func addGradient(
    of whole: TrainedTensor, _ layer: Linear, _ dy: Floats, _ stride: Int, _ x: UnsafePointer<Float>, _ rows: Int
  ) {
    if layer.isConv1D {
      engine.addWeightGradient(
        x, stride: layer.inputs, outputs: layer.inputs, dy, stride: stride, inputs: layer.outputs, rows: rows,
        to: whole.gradient.start)
    } else {
      engine.addWeightGradient(
        dy, stride: stride, outputs: layer.outputs, x, stride: layer.inputs, inputs: layer.inputs, rows: rows,
        to: whole.gradient.start)
    }
  }

  /// Outputs of tokens that have rows of their own.
  private func replace(_ own: TrainedRows, _ x: UnsafePointer<Float>, _ rows: Int, _ out: Floats, _ stride: Int) {
    let count = own.tokens.count, scores = scratch.floatStart(Slot.tokens, rows * count)
    exact.multiply(x, rows: rows, stride: own.values.shape[1], [.init(own.values.matrix, scores, stride: count)])
    for row in 0..<rows {
      for (index, token) in own.tokens.enumerated() { out[row * stride + token] = scores[row * count + index] }
    }
  }

  /// Adds to the gradient of rows that some tokens have of their own.
  ///
  /// - Returns: the gradients of their outputs, which are zero in `dy` then: the weight in place has no part in them
  private func takeGradients(
    of own: TrainedRows, _ dy: Floats, _ stride: Int, _ x: UnsafePointer<Float>, _ rows: Int
  ) -> UnsafePointer<Float> {
    let count = own.tokens.count, inputs = own.values.shape[1], taken = scratch.floatStart(Slot.tokens, rows * count)
    for row in 0..<rows {
      for (index, token) in own.tokens.enumerated() {
        taken[row * count + index] = dy[row * stride + token]
        dy[row * stride + token] = 0
      }
    }
    engine.addWeightGradient(
      taken, stride: count, outputs: count, x, stride: inputs, inputs: inputs, rows: rows, to: own.values.gradient.start)
    return UnsafePointer(taken)
  }

  /// DoRA: y = (m / n)∘z + b, n taken as given: dm = Σ dy∘z / n, dz = (m / n)∘dy.
  private func unscale(
    _ layer: Linear, _ factors: TrainedFactors, _ dy: Floats, _ stride: Int, _ rows: Int, _ saved: Saved
  ) {
    guard let magnitude = factors.magnitude, let z = saved.unscaled[layer.id], let norms = saved.norms[layer.id] else { return }
    let width = layer.outputs
    for o in 0..<width {
      var sum = 0.0
      for row in 0..<rows { sum += Double(dy[row * stride + o] * z.start[row * width + o]) }
      magnitude.gradient.start[o] += Float(sum / Double(norms[o]))
    }
    let ratios = FloatStore(zip(magnitude.values.values, norms).map { $0 / $1 })
    for row in 0..<rows { LayerKernels.multiply(dy + row * stride, by: ratios.start, count: width) }
  }

  /// The factors' part of dx where their input was dropped: du · A through the same mask, du being what `addGradients` has left.
  private func addDropped(_ dropout: Dropout, _ factors: TrainedFactors, _ layer: Linear, _ rows: Int, to dx: Floats) {
    let part = scratch.floatStart(Slot.droppedGradient, rows * layer.inputs)
    let du = scratch.floatStart(Slot.lowGradient, rows * factors.rank)
    exact.multiply(du, rows: rows, stride: factors.rank, [.init(factors.a.matrix.turned, part, stride: layer.inputs)])
    let masked = dropout.applied(part, rows, layer, part)
    LayerKernels.add(masked, scaledBy: factors.scale, count: rows * layer.inputs, to: dx)
  }

  /// With u = scale · x · Aᵀ and du = scale · dy · B: dB = dyᵀ · u, dA = duᵀ · x.
  private func addGradients(
    of factors: TrainedFactors, _ dy: Floats, _ stride: Int, _ x: UnsafePointer<Float>, _ rows: Int
  ) {
    let (rank, outputs, inputs) = (factors.rank, factors.b.shape[0], factors.a.shape[1])
    let u = lowRank(factors, x, rows), du = scratch.floatStart(Slot.lowGradient, rows * rank)
    exact.multiply(dy, rows: rows, stride: stride, [.init(factors.b.matrix.turned, du, stride: rank)])
    engine.addWeightGradient(
      dy, stride: stride, outputs: outputs, u, stride: rank, inputs: rank, rows: rows, to: factors.b.gradient.start)
    engine.addWeightGradient(
      du, stride: rank, outputs: rank, x, stride: inputs, inputs: inputs, rows: rows, scale: factors.scale,
      to: factors.a.gradient.start)
  }
}

/// Squared lengths of the rows of frozen weights, found once.
final class RowLengths {
  private var known: [ParameterID: [Double]] = [:]

  func squares(_ layer: Linear) -> [Double] {
    if let sums = known[layer.id] { return sums }
    let matrix = layer.matrix
    var sums = [Double](repeating: 0, count: layer.outputs)
    let columns = matrix.native.columns
    let row = FloatStore(count: columns)
    for index in 0..<matrix.native.rows {
      matrix.rows(index..<index + 1, into: row.start)
      for column in 0..<columns {
        sums[matrix.isTransposed ? column : index] += Double(row.start[column]) * Double(row.start[column])
      }
    }
    known[layer.id] = sums
    return sums
  }
}
