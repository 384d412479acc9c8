import NibbleCompute

/// A feed-forward network over rows: the MLP of a layer, or an expert.
extension Transformer {
  /// What it gives for `rows`.
  ///
  /// - Parameters:
  ///   - x: the first of them
  ///   - up, activated: room for what its first projections give, and for what the last takes; without a tape they may be the same
  ///   - out: gets the first of the rows
  func feedForward(
    _ network: Expert, _ layers: Layers, _ x: UnsafePointer<Float>, rows: Range<Int>, up: Floats, activated: Floats, to out: Floats,
    _ kept: LinearTape?
  ) {
    layers.linear(network.up, x, rows: rows, up, kept)
    activate(up, rows.count, inner: network.down.inputs, activated)
    layers.linear([network.down], activated, rows: rows, out, kept)
  }

  /// Rows of `inner` numbers from rows of one or two projections. `out` may be `up`.
  func activate(_ up: Floats, _ rows: Int, inner: Int, _ out: Floats) {
    guard shape.isGated else {
      engine.team.split(rows * inner, grain: 1 << 14) { part, _ in
        LayerKernels.activate(shape.activation, up + part.lowerBound, count: part.count, out + part.lowerBound)
      }
      return
    }
    let isInPlace = out == up
    engine.team.split(rows, grain: max(1, (1 << 13) / inner)) { part, _ in
      for row in part {
        let gate = up + row * 2 * inner, to = isInPlace ? gate : out + row * inner
        if let clamped = shape.clampedGate {
          clamped.activate(gate, count: inner, to)
        } else {
          LayerKernels.activate(shape.activation, gate: gate, times: gate + inner, count: inner, to)
        }
      }
    }
    guard isInPlace else { return }
    // Rows close up: each moves down to where only rows before it were.
    for row in 1..<max(rows, 1) { (up + row * inner).update(from: up + row * 2 * inner, count: inner) }
  }

  /// From the gradient of what it gave to that of what it took.
  ///
  /// - Parameters:
  ///   - x: what it took
  ///   - up, activated: what `feedForward` left there
  ///   - gradient: spoiled; may be `dx`
  func feedForwardBack(
    _ network: Expert, _ layers: Layers, _ x: UnsafePointer<Float>, rows: Int, up: Floats, activated: Floats, _ gradient: Floats, dx: Floats,
    _ kept: LinearTape, _ gradients: Gradients
  ) {
    let inner = network.down.inputs
    let dInner = floats(Slot.inner, rows * inner), dUp = floats(Slot.wide, rows * network.upWidth)
    layers.linearBack([network.down], activated, rows: rows, gradient, dx: dInner, kept, gradients)
    activateBack(dInner, up, rows, inner: inner, dUp)
    layers.linearBack(network.up, x, rows: rows, dUp, dx: dx, kept, gradients)
  }
}
