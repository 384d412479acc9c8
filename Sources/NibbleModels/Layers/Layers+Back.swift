import NibbleAdapters
import NibbleCompute
import NibbleCore

/// The ways back. All rows of a pass that goes back have the same adapters, with weights of 1.
extension Layers {
  private var segment: Segment { segments.first ?? Segment(rows: 0..<0, adapters: []) }

  /// dx of out = norm(x), and the gradients of the norm's own numbers. `dx` may be `dy`.
  func normBack(
    _ norm: Norm, _ shape: TransformerShape, _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, rows: Int, _ dx: Floats,
    _ gradients: Gradients, _ lie: NormRows? = nil
  ) {
    let lie = lie ?? NormRows(count: shape.width, groups: 1, stride: shape.width)
    let count = lie.count, epsilon = lie.epsilon ?? shape.epsilon
    let weight = factors(norm, shape, segment)
    let dw = gradients.vectors[norm.weight.id]?.start
    let db = norm.bias.flatMap { gradients.vectors[$0.id]?.start }
    func run(_ part: Range<Int>) {
      for row in part {
        for group in 0..<lie.groups {
          let at = row * lie.stride + group * count
          if shape.isRMSNorm {
            LayerKernels.rmsNormBack(dy + at, x + at, weight: weight, count: count, epsilon: epsilon, dx + at, dw: dw)
          } else {
            LayerKernels.layerNormBack(
              dy + at, x + at, weight: weight, count: count, epsilon: epsilon, dx + at, dw: dw, db: db)
          }
        }
      }
    }
    // Sums over rows are made in order.
    if dw != nil || db != nil { run(0..<rows) } else { engine.team.split(rows, grain: grain(count * lie.groups)) { part, _ in run(part) } }
  }

  /// Gradients of what is trained in `layers`, and of their common input.
  ///
  /// - Parameters:
  ///   - dy: of the outputs side by side; spoiled
  ///   - dx: overwritten; nil where nobody needs it
  ///   - kept: what `linear` left
  func linearBack(
    _ layers: [Linear], _ x: UnsafePointer<Float>, rows: Int, _ dy: Floats, dx: Floats?, _ kept: LinearTape,
    _ gradients: Gradients
  ) {
    let stride = layers.reduce(0) { $0 + $1.outputs }
    let inputs = layers.first?.inputs ?? 0
    var column = 0
    var isFirst = true
    for layer in layers {
      let own = dy + column
      let method = segment.methods(layer.id).first?.method, pair = method?.pair
      let tokens = segment.rows(layer.id)
      let taken = scratch.floatStart(AdapterSlot.tokens, tokens?.scoreCount(rows) ?? 0)
      timed(.trained) {
        addGradients(layer, own, stride, x, rows, kept, gradients)
        tokens?.takeGradient(x, rows: rows, from: own, stride: stride, to: gradients.rows[layer.id], exact, taken)
      }
      let input = segment.input(layer.id)
      // A method that changes its layer's input needs the gradient of that input, even if nothing else does.
      let dx = dx ?? (input == nil ? nil : scratch.floatStart(AdapterSlot.unused, rows * inputs))
      if let dx {
        let matrix = segment.matrix(layer.id, layer.matrix).turned
        let hasTerm = tape?.dropout == nil && !segment.holdsPairs(layer.id)
        let terms = hasTerm ? pair.map { [$0.termBack(rows: 0..<rows)] } ?? [] : []
        let changed = input == nil ? dx : scratch.floatStart(AdapterSlot.changed, rows * inputs)
        timed(.weights) {
          engine.multiply(
            own, rows: rows, stride: stride, [.init(matrix, changed, stride: inputs, terms: terms, adds: input == nil && !isFirst)])
        }
        if let input { back(input, layer, changed, x, rows, to: dx, adds: !isFirst, gradients) }
        isFirst = false
        tokens?.addInputGradient(taken, rows: rows, to: dx, exact)
        if let term = method?.pooled {
          timed(.trained) {
            let part = PooledPass(term, rows: rows, exact, scratch).inputGradient(own, stride: stride)
            if let dropout = tape?.dropout { dropout.applied(part, count: rows * inputs, layer: layer.id, part) }
            LayerKernels.add(part, scaledBy: 1, count: rows * inputs, to: dx)
          }
        }
        if let dropout = tape?.dropout, let pair {
          timed(.trained) {
            let count = rows * inputs, scale = Float(pair.scale)
            let part = PairPass(pair, rows: rows, exact, scratch).inputGradient()
            dropout.applied(part, count: count, layer: layer.id, part)
            LayerKernels.add(part, scaledBy: scale, count: count, to: dx)
            guard let own = method?.undropped else { return }
            let whole = PairPass(own, rows: rows, exact, scratch).inputGradient()
            LayerKernels.add(whole, scaledBy: scale, count: count, to: dx)
            dropout.applied(whole, count: count, layer: layer.id, whole)
            LayerKernels.add(whole, scaledBy: -scale, count: count, to: dx)
          }
        }
      }
      if let term = segment.methods(layer.id).first?.method.term {
        timed(.trained) {
          term.backward(
            own, stride: stride, x, dx: dx, gradients.methods[layer.id] ?? [:], TermPass(rows: rows, exact, scratch))
        }
      }
      column += layer.outputs
    }
  }

  /// dx from the gradient of what a method made of x, and the gradients of its numbers.
  private func back(
    _ input: any InputChange, _ layer: Linear, _ changed: Floats, _ x: UnsafePointer<Float>, _ rows: Int, to dx: Floats, adds: Bool,
    _ gradients: Gradients
  ) {
    timed(.trained) {
      let pass = TermPass(rows: rows, exact, scratch)
      input.addGradients(x, changed, inputs: layer.inputs, gradients.methods[layer.id] ?? [:], pass)
      input.turnBack(changed, inputs: layer.inputs, to: dx, adds: adds, pass)
    }
  }

  /// Of everything trained in one layer. dy becomes the gradient of what methods scale.
  private func addGradients(
    _ layer: Linear, _ dy: Floats, _ stride: Int, _ x: UnsafePointer<Float>, _ rows: Int, _ kept: LinearTape,
    _ gradients: Gradients
  ) {
    let method = segment.methods(layer.id).first?.method
    let biasIsScaled = method.map { type(of: $0).scalesBias } ?? false
    func addBiasGradient() {
      guard let bias = layer.bias, let own = gradients.vectors[bias.id] else { return }
      engine.addColumnSums(dy, stride: stride, rows: rows, count: layer.outputs, to: own.start)
    }
    if !biasIsScaled { addBiasGradient() }
    if let method {
      let (change, z) = kept.outputs(layer)
      let own = gradients.methods[layer.id] ?? [:]
      method.backward(OutputGradient(dy, stride: stride, rows: rows, count: layer.outputs, z: z, change, engine), own)
      if biasIsScaled { addBiasGradient() }
      if let term = method.pooled, let part = method.pooledPart {
        let taken = tape?.dropout.map { dropped($0, x, rows, layer) } ?? x
        PooledPass(term, rows: rows, exact, scratch).backward(dy, stride: stride, taken, to: own[part])
      }
      if let pair = method.pair {
        let taken = tape?.dropout.map { dropped($0, x, rows, layer) } ?? x
        let rest = tape?.dropout != nil && method.undropped != nil ? restored(x, taken, rows, layer) : nil
        PairPass(pair, rows: rows, exact, scratch).backward(dy, stride: stride, taken, restored: rest, of: method, own)
      }
    }
    guard let whole = gradients.matrices[layer.id] else { return }
    if layer.isConv1D {
      engine.addWeightGradient(
        x, stride: layer.inputs, outputs: layer.inputs, dy, stride: stride, inputs: layer.outputs, rows: rows, to: whole.start)
    } else {
      engine.addWeightGradient(
        dy, stride: stride, outputs: layer.outputs, x, stride: layer.inputs, inputs: layer.inputs, rows: rows, to: whole.start)
    }
  }
}
