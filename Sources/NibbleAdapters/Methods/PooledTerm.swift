import NibbleCompute
import NibbleCore

/// A change that is the same in tiles of a weight: D = scale / λ₁ · (C ⊗ ones), computed as repeat(C · pool(x)) without D being made.
package struct PooledTerm: Sendable {
  /// C, [outputs / λ₂, inputs / λ₁]
  package let tiles: Matrix
  /// λ₁: inputs whose mean is taken.
  package let inputs: Int
  /// λ₂: outputs that get one number.
  package let outputs: Int
  package let scale: Double

  package init(_ tiles: Matrix, inputs: Int, outputs: Int, scale: Double) {
    (self.tiles, self.inputs, self.outputs, self.scale) = (tiles, inputs, outputs, scale)
  }

  /// What is added to the elements of each tile, [outputs / λ₂, inputs / λ₁].
  func changes(weight: Double = 1) -> FloatStore {
    let values = FloatStore(count: tiles.outputs * tiles.inputs)
    tiles.rows(0..<tiles.outputs, into: values.start)
    for index in 0..<values.count { values.start[index] = Float(weight * scale / Double(inputs) * Double(values.start[index])) }
    return values
  }

  var isZero: Bool { scale == 0 || changes().values.allSatisfy { $0 == 0 } }
}

/// The term in a pass, forward and backward. x and dz are [rows, …], dense but for `stride`.
package struct PooledPass {
  let term: PooledTerm
  let rows: Int
  /// Of float32: so are adapters.
  let engine: Engine
  let scratch: Scratch

  typealias Floats = UnsafeMutablePointer<Float>

  package init(_ term: PooledTerm, rows: Int, _ engine: Engine, _ scratch: Scratch) {
    (self.term, self.rows, self.engine, self.scratch) = (term, rows, engine, scratch)
  }

  private var width: Int { term.tiles.inputs }
  private var height: Int { term.tiles.outputs }

  /// scale · pool(x), [rows, inputs / λ₁]
  private func pooled(_ x: UnsafePointer<Float>) -> Floats {
    let means = scratch.floatStart(AdapterSlot.pooled, rows * width), factor = Float(term.scale / Double(term.inputs))
    engine.team.split(rows, grain: grain) { part, _ in
      for row in part {
        let from = x + row * width * term.inputs, to = means + row * width
        for index in 0..<width {
          to[index] = factor * (0..<term.inputs).reduce(Float(0)) { $0 + from[index * term.inputs + $1] }
        }
      }
    }
    return means
  }

  /// Sums of dz over the outputs of a tile, [rows, outputs / λ₂].
  private func summed(_ dz: UnsafePointer<Float>, stride: Int) -> Floats {
    let sums = scratch.floatStart(AdapterSlot.summed, rows * height)
    engine.team.split(rows, grain: grain) { part, _ in
      for row in part {
        let from = dz + row * stride, to = sums + row * height
        for index in 0..<height { to[index] = (0..<term.outputs).reduce(Float(0)) { $0 + from[index * term.outputs + $1] } }
      }
    }
    return sums
  }

  private var grain: Int { max(1, (1 << 15) / max(width * term.inputs, 1)) }

  /// out += weight · z
  package func add(_ x: UnsafePointer<Float>, weight: Float = 1, to out: UnsafeMutablePointer<Float>, stride: Int) {
    let found = scratch.floatStart(AdapterSlot.summed, rows * height)
    engine.multiply(pooled(x), rows: rows, stride: width, [.init(term.tiles, found, stride: height)])
    engine.team.split(rows, grain: grain) { part, _ in
      for row in part {
        let from = found + row * height, to = out + row * stride
        for index in 0..<height {
          let value = weight * from[index]
          for copy in 0..<term.outputs { to[index * term.outputs + copy] += value }
        }
      }
    }
  }

  /// dC += Σ over rows of the sums of dz times scale · pool(x).
  package func backward(_ dz: UnsafePointer<Float>, stride: Int, _ x: UnsafePointer<Float>, to gradient: FloatStore?) {
    guard let gradient else { return }
    engine.addWeightGradient(
      summed(dz, stride: stride), stride: height, outputs: height, pooled(x), stride: width, inputs: width, rows: rows,
      to: gradient.start)
  }

  /// The gradient of x, in memory that holds until the next term.
  package func inputGradient(_ dz: UnsafePointer<Float>, stride: Int) -> UnsafeMutablePointer<Float> {
    let means = scratch.floatStart(AdapterSlot.pooled, rows * width)
    engine.multiply(summed(dz, stride: stride), rows: rows, stride: height, [.init(term.tiles.turned, means, stride: width)])
    let dx = scratch.floatStart(AdapterSlot.inputGradient, rows * width * term.inputs)
    let factor = Float(term.scale / Double(term.inputs))
    for index in 0..<rows * width { (dx + index * term.inputs).update(repeating: factor * means[index], count: term.inputs) }
    return dx
  }
}
