import NibbleCompute
import NibbleCore

/// What the shared expert of a layer leaves for its way back. [rows, …] each.
final class SharedTape {
  /// Its first projections before the activation, side by side, and what the last one took.
  let up, activated: FloatStore
  /// What the last one gave.
  let given: FloatStore
  /// What that counts with.
  let shares: FloatStore

  /// Room for that of each of several layers.
  init?(_ layers: [LayerWeights], width: Int, rows: Int) {
    let shared = layers.compactMap { $0.experts?.shared }
    guard !shared.isEmpty else { return nil }
    up = FloatStore(count: rows * (shared.map(\.expert.upWidth).max() ?? 0))
    activated = FloatStore(count: rows * (shared.map(\.expert.down.inputs).max() ?? 0))
    given = FloatStore(count: rows * width)
    shares = FloatStore(count: shared.contains { $0.gate != nil } ? rows : 0)
  }
}

/// The expert of a layer that every token takes.
extension Transformer {
  /// What it made of rows, and what that counts with; nil for as it is.
  typealias Shared = (given: Floats, shares: Floats?)

  /// What the expert gives for `rows`.
  ///
  /// - Parameter x: the first of them
  func share(_ shared: SharedExpert, _ layers: Layers, _ x: Floats, rows: Range<Int>, _ tape: SharedTape?, _ kept: LinearTape?) -> Shared {
    let expert = shared.expert, count = rows.count
    let up = tape?.up.start ?? floats(Slot.sharedUp, count * expert.upWidth), activated = tape?.activated.start ?? up
    let given = tape?.given.start ?? floats(Slot.sharedGiven, count * shape.width)
    feedForward(expert, layers, x, rows: rows, up: up, activated: activated, to: given, kept)
    guard let gate = shared.gate else { return (given, nil) }
    let shares = tape?.shares.start ?? floats(Slot.sharedShares, count)
    layers.linear([gate], x, rows: rows, shares, kept)
    LayerKernels.activate(.sigmoid, shares, count: count, shares)
    return (given, shares)
  }

  /// Adds it to what the other experts gave.
  func add(_ shared: Shared, _ layers: Layers, rows: Int, to out: Floats) {
    let width = shape.width
    guard let shares = shared.shares else { return layers.add(shared.given, to: out, rows: rows, width: width) }
    engine.team.split(rows, grain: layers.grain(width)) { part, _ in
      for row in part { LayerKernels.add(shared.given + row * width, scaledBy: shares[row], count: width, to: out + row * width) }
    }
  }

  /// The gradient of what the expert took, [rows, width].
  ///
  /// - Parameters:
  ///   - x: what it took
  ///   - gradient: of what the layer's experts gave together
  func shareBack(
    _ shared: SharedExpert, _ layers: Layers, _ x: UnsafePointer<Float>, rows: Int, _ gradient: UnsafePointer<Float>, _ tape: LayerTape,
    _ gradients: Gradients
  ) -> Floats? {
    guard let own = tape.shared else { return nil }
    let width = shape.width
    let dx = floats(Slot.sharedGradient, rows * width), dGiven = floats(Slot.sharedGiven, rows * width)
    let dGate = floats(Slot.sharedShares, rows)
    engine.team.split(rows, grain: layers.grain(width)) { part, _ in
      for row in part {
        let at = row * width
        guard shared.gate != nil else {
          (dGiven + at).update(from: gradient + at, count: width)
          continue
        }
        let share = own.shares.start[row]
        var sum: Float = 0
        for place in at..<at + width {
          sum += gradient[place] * own.given.start[place]
          dGiven[place] = share * gradient[place]
        }
        dGate[row] = sum * share * (1 - share)
      }
    }
    feedForwardBack(
      shared.expert, layers, x, rows: rows, up: own.up.start, activated: own.activated.start, dGiven, dx: dx, tape.linear, gradients)
    if let gate = shared.gate {
      layers.linearBack([gate], x, rows: rows, dGate, dx: dGiven, tape.linear, gradients)
      layers.add(dGiven, to: dx, rows: rows, width: width)
    }
    return dx
  }
}
