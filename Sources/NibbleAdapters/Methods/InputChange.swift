import NibbleCompute
import NibbleCore

/// How a method changes what a layer takes: x′ = x · M before the product with the layer's weight. Merged, W′ = W · Mᵀ: every row of the
/// weight is changed by itself, as a gradient of x′ becomes one of x.
package protocol InputChange: Sendable {
  /// Inputs that are changed together: runs of a row of a weight begin and end at multiples of it.
  var grain: Int { get }
  /// One row: out = x · M.
  func apply(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>)
  /// Some inputs of one row: out = v · Mᵀ.
  ///
  /// - Parameter v: the first of `inputs`, as `out` is
  func turnBack(_ v: UnsafePointer<Float>, _ inputs: Range<Int>, to out: UnsafeMutablePointer<Float>)
  /// Adds to the gradients of what M is made of.
  ///
  /// - Parameters:
  ///   - x: [rows, inputs]
  ///   - dx: the gradient of x′, [rows, inputs]
  func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, rows: Int, inputs: Int, _ gradients: PartGradients, _ engine: Engine)
}

extension InputChange {
  /// x′ of rows of x, [rows, inputs].
  package func apply(
    _ x: UnsafePointer<Float>, rows: Int, inputs: Int, to out: UnsafeMutablePointer<Float>, _ team: Team
  ) {
    team.split(rows, grain: 1) { part, _ in
      for row in part { apply(x + row * inputs, to: out + row * inputs) }
    }
  }

  /// The gradient of x from that of x′: added to `dx`, or written over it.
  ///
  /// - Parameter hand: memory for as many rows
  package func turnBack(
    _ dy: UnsafePointer<Float>, rows: Int, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool,
    _ hand: UnsafeMutablePointer<Float>, _ team: Team
  ) {
    team.split(rows, grain: 1) { part, _ in
      for row in part {
        let at = row * inputs
        turnBack(dy + at, 0..<inputs, to: adds ? hand + at : dx + at)
        if adds { LayerKernels.add(hand + at, count: inputs, to: dx + at) }
      }
    }
  }
}

/// x′ = x ∘ l.
package struct InputScale: InputChange {
  /// [inputs]
  private let scale: FloatStore
  /// What the gradient of l belongs to.
  private let part: String

  package init(_ scale: FloatStore, part: String) { (self.scale, self.part) = (scale, part) }

  package var grain: Int { 1 }

  package func apply(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>) { turnBack(x, 0..<scale.count, to: out) }

  package func turnBack(_ v: UnsafePointer<Float>, _ inputs: Range<Int>, to out: UnsafeMutablePointer<Float>) {
    out.update(from: v, count: inputs.count)
    LayerKernels.multiply(out, by: scale.start + inputs.lowerBound, count: inputs.count)
  }

  /// dl = Σ over rows of x ∘ dx′.
  package func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, rows: Int, inputs: Int, _ gradients: PartGradients, _ engine: Engine
  ) {
    guard let own = gradients[part] else { return }
    for input in 0..<inputs {
      own.start[input] += Float((0..<rows).reduce(0.0) { $0 + Double(x[$1 * inputs + input] * dx[$1 * inputs + input]) })
    }
  }
}
