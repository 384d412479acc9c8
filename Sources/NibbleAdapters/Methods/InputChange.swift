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
  /// x′ of rows of x, [rows, inputs].
  func apply(_ x: UnsafePointer<Float>, inputs: Int, to out: UnsafeMutablePointer<Float>, _ pass: TermPass)
  /// The gradient of x from that of x′, [rows, inputs]: added to `dx`, or written over it.
  func turnBack(_ dy: UnsafePointer<Float>, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass)
  /// Adds to the gradients of what M is made of.
  ///
  /// - Parameters:
  ///   - x: [rows, inputs]
  ///   - dx: the gradient of x′, [rows, inputs]
  func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, inputs: Int, _ gradients: PartGradients, _ pass: TermPass)
}

extension InputChange {
  package func apply(_ x: UnsafePointer<Float>, inputs: Int, to out: UnsafeMutablePointer<Float>, _ pass: TermPass) {
    applyByRows(x, inputs: inputs, to: out, pass)
  }

  package func turnBack(_ dy: UnsafePointer<Float>, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass) {
    turnBackByRows(dy, inputs: inputs, to: dx, adds: adds, pass)
  }

  /// One row after another.
  func applyByRows(_ x: UnsafePointer<Float>, inputs: Int, to out: UnsafeMutablePointer<Float>, _ pass: TermPass) {
    pass.engine.team.split(pass.rows, grain: 1) { part, _ in
      for row in part { apply(x + row * inputs, to: out + row * inputs) }
    }
  }

  func turnBackByRows(_ dy: UnsafePointer<Float>, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass) {
    let hand = adds ? pass.scratch.floatStart(AdapterSlot.inputGradientInHand, pass.rows * inputs) : dx
    pass.engine.team.split(pass.rows, grain: 1) { part, _ in
      for row in part {
        let at = row * inputs
        turnBack(dy + at, 0..<inputs, to: hand + at)
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
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, inputs: Int, _ gradients: PartGradients, _ pass: TermPass
  ) {
    guard let own = gradients[part] else { return }
    let sums = productSums(x, stride: inputs, dx, stride: inputs, rows: pass.rows, count: inputs, pass.engine.team)
    for input in 0..<inputs { own.start[input] += Float(sums[input]) }
  }
}

/// Σ over rows of a ∘ b, for matrices whose rows lie so many floats apart.
func productSums(
  _ a: UnsafePointer<Float>, stride: Int, _ b: UnsafePointer<Float>, stride other: Int, rows: Int, count: Int, _ team: Team
) -> [Double] {
  var sums = [Double](repeating: 0, count: count)
  sums.withUnsafeMutableBufferPointer { sums in
    guard let start = sums.baseAddress else { return }
    let (shared, a, b) = (Unchecked(start), Unchecked(a), Unchecked(b))
    team.split(count, grain: 256) { part, _ in
      for row in 0..<rows {
        let (x, y) = (a.value + row * stride, b.value + row * other)
        for place in part { shared.value[place] += Double(x[place] * y[place]) }
      }
    }
  }
  return sums
}
