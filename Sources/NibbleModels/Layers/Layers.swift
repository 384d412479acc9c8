import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Where the numbers of a norm lie: `groups` vectors of `count` numbers, one behind another, in rows that begin `stride` floats apart.
struct NormRows {
  var count, groups, stride: Int
  /// nil for that of the model's norms.
  var epsilon: Float?
}

/// Memory of the operations themselves.
private enum LayerSlot { static let factors = 13 }

/// The operations of a pass, over the rows of one batch. `Layers+Back.swift` has their ways back.
struct Layers {
  let engine: Engine
  /// The same in float32, which adapters are computed in.
  let exact: Engine
  let segments: [Segment]
  /// For sums that adapters scale; grows as needed.
  let scratch: Scratch
  /// Of passes that go back: what is dropped of what methods take, and where the time goes.
  let tape: Tape?

  typealias Floats = UnsafeMutablePointer<Float>

  /// The operations over some of the rows, in their order, which are numbered anew.
  func over(_ rows: [Int]) -> Layers {
    var start = 0
    let own = segments.map { segment in
      let end = rows[start...].firstIndex { $0 >= segment.rows.upperBound } ?? rows.count
      defer { start = end }
      return Segment(rows: start..<end, adapters: segment.adapters)
    }
    return Layers(engine: engine, exact: exact, segments: own, scratch: scratch, tape: tape)
  }

  /// The same with products of float32.
  var inFloat32: Layers { Layers(engine: exact, exact: exact, segments: segments, scratch: scratch, tape: tape) }

  /// Rows handed to a thread at once, for work of `width` numbers a row.
  func grain(_ width: Int) -> Int { max(1, (1 << 15) / max(width, 1)) }

  func timed<Result>(_ part: StepClock.Part, _ body: () -> Result) -> Result { tape?.clock.measure(part, body) ?? body() }

  /// out = norm(x) for `rows`, `width` numbers a row if `lie` does not say otherwise.
  func norm(
    _ norm: Norm, _ shape: TransformerShape, _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats, _ lie: NormRows? = nil
  ) {
    let lie = lie ?? NormRows(count: shape.width, groups: 1, stride: shape.width)
    let count = lie.count, epsilon = lie.epsilon ?? shape.epsilon
    for segment in segments {
      let own = segment.rows.clamped(to: rows)
      guard !own.isEmpty else { continue }
      let weight = factors(norm, shape, segment)
      let bias = norm.bias.map { segment.vector($0) }
      engine.team.split(own.count, grain: grain(count * lie.groups)) { part, _ in
        for row in part {
          for group in 0..<lie.groups {
            let at = (own.lowerBound + row) * lie.stride + group * count
            if shape.isRMSNorm {
              LayerKernels.rmsNorm(x + at, weight: weight, count: count, epsilon: epsilon, out + at)
            } else {
              LayerKernels.layerNorm(x + at, weight: weight, bias: bias, count: count, epsilon: epsilon, out + at)
            }
          }
        }
      }
    }
  }

  /// What a norm multiplies with, which holds until the next norm.
  func factors(_ norm: Norm, _ shape: TransformerShape, _ segment: Segment) -> UnsafePointer<Float> {
    let weight = segment.vector(norm.weight)
    guard shape.normAddsOne else { return weight }
    let count = norm.weight.values.count, factors = scratch.floatStart(LayerSlot.factors, count)
    for index in 0..<count { factors[index] = 1 + weight[index] }
    return UnsafePointer(factors)
  }

  /// The outputs of layers that share their input, side by side in rows of `out`.
  ///
  /// - Parameters:
  ///   - x: the first of `rows`, rows as long as the layers' inputs
  ///   - out: the first of `rows`
  ///   - kept: gets what the way back needs
  func linear(_ layers: [Linear], _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats, _ kept: LinearTape? = nil) {
    let stride = layers.reduce(0) { $0 + $1.outputs }
    let inputs = layers.first?.inputs ?? 0
    if segments.contains(where: { segment in layers.contains { segment.replaces($0.id) || segment.input($0.id) != nil } }) {
      // Matrices or inputs differ between rows: each segment by itself.
      for segment in segments {
        let own = segment.rows.clamped(to: rows)
        guard !own.isEmpty else { continue }
        let start = own.lowerBound - rows.lowerBound
        product(layers, [segment], x + start * inputs, rows: own, out + start * stride, stride, kept)
      }
    } else {
      product(layers, segments, x, rows: rows, out, stride, kept)
    }
  }

  private func product(
    _ layers: [Linear], _ segments: [Segment], _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats, _ stride: Int,
    _ kept: LinearTape?
  ) {
    var products: [Engine.Product] = []
    var column = 0
    for layer in layers {
      var terms: [Engine.LowRankTerm] = []
      // What is dropped makes it another x: such pairs are computed by themselves.
      for segment in segments where tape?.dropout == nil {
        let own = segment.rows.clamped(to: rows)
        guard !own.isEmpty, !segment.holdsPairs(layer.id) else { continue }
        for (method, weight) in segment.methods(layer.id) {
          guard let pair = method.pair else { continue }
          terms.append(pair.term(weight: weight, rows: own.lowerBound - rows.lowerBound..<own.upperBound - rows.lowerBound))
        }
      }
      let matrix = segments.count == 1 ? segments[0].matrix(layer.id, layer.matrix) : layer.matrix
      let own = Engine.Product(matrix, out + column, stride: stride, terms: terms)
      column += layer.outputs
      if segments.count == 1, let input = segments[0].input(layer.id) {
        changedProduct(own, layer, input, x, rows.count)
      } else {
        products.append(own)
      }
    }
    timed(.weights) { engine.multiply(x, rows: rows.count, stride: layers.first?.inputs ?? 0, products) }
    column = 0
    for layer in layers {
      for segment in segments {
        let own = segment.rows.clamped(to: rows)
        guard !own.isEmpty else { continue }
        let start = own.lowerBound - rows.lowerBound
        timed(.trained) {
          finish(layer, segment, own.count, x + start * layer.inputs, out + start * stride + column, stride, kept)
        }
      }
      column += layer.outputs
    }
  }

  /// The product of a layer that takes something else than the others.
  private func changedProduct(
    _ product: Engine.Product, _ layer: Linear, _ input: any InputChange, _ x: UnsafePointer<Float>, _ rows: Int
  ) {
    let changed = scratch.floatStart(AdapterSlot.changed, rows * layer.inputs)
    timed(.trained) { input.apply(x, inputs: layer.inputs, to: changed, TermPass(rows: rows, exact, scratch)) }
    timed(.weights) { engine.multiply(changed, rows: rows, stride: layer.inputs, [product]) }
  }

  /// What follows the products: tokens' own rows, pairs with dropout, methods' terms and scales, then biases.
  private func finish(
    _ layer: Linear, _ segment: Segment, _ rows: Int, _ x: UnsafePointer<Float>, _ out: Floats, _ stride: Int,
    _ kept: LinearTape?
  ) {
    let methods = segment.methods(layer.id)
    if let own = segment.rows(layer.id) {
      own.replace(x, rows: rows, in: out, stride: stride, exact, scratch.floatStart(AdapterSlot.tokens, own.scoreCount(rows)))
    }
    guard !methods.isEmpty || layer.bias != nil else { return }
    if let dropout = tape?.dropout {
      for (method, _) in methods {
        guard let pair = method.pair else { continue }
        let taken = dropped(dropout, x, rows, layer)
        PairPass(pair, rows: rows, exact, scratch).add(taken, to: out, stride: stride)
        if let own = method.undropped {
          PairPass(own, rows: rows, exact, scratch).add(restored(x, taken, rows, layer), to: out, stride: stride)
        }
      }
    }
    for (method, weight) in methods {
      method.term?.add(x, to: out, stride: stride, weight: weight, TermPass(rows: rows, exact, scratch))
      guard let term = method.pooled else { continue }
      let taken = tape?.dropout.map { dropped($0, x, rows, layer) } ?? x
      PooledPass(term, rows: rows, exact, scratch).add(taken, weight: weight, to: out, stride: stride)
    }
    let weight = segment.matrix(layer.id, layer.matrix)
    let changes = methods.map { ($0.method.outputs(of: weight, exact), $0.weight) }
    let bias = layer.bias.map { segment.vector($0) }
    let biasIsScaled = changes.contains { $0.0.scalesBias }
    if biasIsScaled, let bias { add([(bias, 1)], to: out, rows, stride, layer.outputs) }
    if let kept, let change = changes.first?.0 { kept.keep(change, layer, out, rows, stride) }
    let scales = changes.compactMap { $0.0.scale.map { UnsafePointer($0.start) } }
    var biases: [(UnsafePointer<Float>, Float)] = []
    if let bias, !biasIsScaled { biases.append((bias, 1)) }
    for (change, weight) in changes {
      if let bias = change.bias { biases.append((UnsafePointer(bias.start), weight)) }
    }
    withExtendedLifetime(changes) { add(biases, scaling: scales, to: out, rows, stride, layer.outputs) }
  }

  /// Scales rows, then adds to them.
  private func add(
    _ biases: [(UnsafePointer<Float>, Float)], scaling scales: [UnsafePointer<Float>] = [], to out: Floats, _ rows: Int,
    _ stride: Int, _ count: Int
  ) {
    guard !scales.isEmpty || !biases.isEmpty else { return }
    engine.team.split(rows, grain: grain(count)) { part, _ in
      for row in part {
        let y = out + row * stride
        for scale in scales { LayerKernels.multiply(y, by: scale, count: count) }
        for (bias, weight) in biases { LayerKernels.add(bias, scaledBy: weight, count: count, to: y) }
      }
    }
  }

  /// What a layer's methods take of its input.
  func dropped(_ dropout: Dropout, _ x: UnsafePointer<Float>, _ rows: Int, _ layer: Linear) -> UnsafePointer<Float> {
    dropout.applied(
      x, count: rows * layer.inputs, layer: layer.id, scratch.floatStart(AdapterSlot.dropped, rows * layer.inputs))
  }

  /// What dropout took of the input.
  func restored(_ x: UnsafePointer<Float>, _ taken: UnsafePointer<Float>, _ rows: Int, _ layer: Linear) -> UnsafePointer<Float> {
    let count = rows * layer.inputs, rest = scratch.floatStart(AdapterSlot.restored, count)
    rest.update(from: x, count: count)
    LayerKernels.add(taken, scaledBy: -1, count: count, to: rest)
    return UnsafePointer(rest)
  }

  /// y += a · x, row by row.
  func add(_ x: UnsafePointer<Float>, scaledBy a: Float = 1, to y: Floats, rows: Int, width: Int) {
    engine.team.split(rows, grain: grain(width)) { part, _ in
      LayerKernels.add(x + part.lowerBound * width, scaledBy: a, count: part.count * width, to: y + part.lowerBound * width)
    }
  }

  /// x *= a, row by row.
  func scale(_ x: Floats, by a: Float, rows: Int, width: Int) {
    guard a != 1 else { return }
    engine.team.split(rows, grain: grain(width)) { part, _ in
      LayerKernels.scale(x + part.lowerBound * width, by: a, count: part.count * width)
    }
  }
}
