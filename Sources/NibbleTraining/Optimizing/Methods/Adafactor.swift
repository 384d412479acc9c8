import Glibc
import NibbleCompute
import NibbleCore

/// Second moments as the product of those of rows and columns (Shazeer and Stern 2018), with a learning rate from outside: transformers'
/// `Adafactor` as its trainer makes it, without `scale_parameter` and `relative_step`.
package struct Adafactor: OptimizerMethod {
  package static let name = "adafactor"

  private typealias Floats = UnsafeMutablePointer<Float>

  /// Added to squares.
  private static let epsilon: Float = 1e-30
  /// An update whose root mean square is above this is scaled down to it.
  private static let largestUpdate = 1.0
  /// β₂ of step t is 1 − t to this power.
  private static let decayPower = -0.8

  package init(_ options: OptimizerOptions) {}

  package func states(of shape: [Int]) -> [OptimizerState] {
    let count = shape.reduce(1, *)
    guard let form = Form(shape) else { return [OptimizerState("second", count)] }
    return [
      OptimizerState("rows", form.matrices * form.rows), OptimizerState("columns", form.matrices * form.columns),
    ]
  }

  /// A tensor as matrices of its last two dimensions.
  private struct Form {
    let matrices: Int, rows: Int, columns: Int

    /// nil for vectors, whose moments have no factors.
    init?(_ shape: [Int]) {
      guard shape.count >= 2 else { return nil }
      (rows, columns) = (shape[shape.count - 2], shape[shape.count - 1])
      matrices = shape.dropLast(2).reduce(1, *)
    }

    var count: Int { rows * columns }
  }

  package func move(_ part: MovedPart, _ step: OptimizerStep, _ team: Team) {
    guard part.count > 0 else { return }
    let beta2 = 1 - pow(Double(step.number), Self.decayPower)
    let keep = Float(beta2), share = Float(1 - beta2)
    let decay = Float(-step.decay * step.rate)
    guard let form = Form(part.shape) else { return moveVector(part, step, keep, share, decay, team) }
    let rowFactors = FloatStore(count: form.matrices * form.rows)
    let columnFactors = FloatStore(count: form.matrices * form.columns)
    for matrix in 0..<form.matrices {
      let g = part.gradient + matrix * form.count
      let rows = part.states[0].floats(from: matrix * form.rows), columns = part.states[1].floats(from: matrix * form.columns)
      means(g, form, keep, share, rows: rows, columns: columns, team)
      let mean = (0..<form.rows).reduce(0.0) { $0 + Double(rows[$1]) } / Double(form.rows)
      OptimizerKernels.inverseRoots(rows, scale: Float(1 / mean), count: form.rows, rowFactors.start + matrix * form.rows)
      OptimizerKernels.inverseRoots(columns, scale: 1, count: form.columns, columnFactors.start + matrix * form.columns)
    }
    func factors(_ row: Int) -> Floats { columnFactors.start + row / form.rows * form.columns }
    let all = form.matrices * form.rows
    let sums = UnsafeMutablePointer<Double>.allocate(capacity: all)
    defer { sums.deallocate() }
    team.split(all, grain: grain(form.columns)) { range, _ in
      for row in range {
        sums[row] = OptimizerKernels.updateSum(
          part.gradient + row * form.columns, factors: factors(row), row: rowFactors.start[row], count: form.columns)
      }
    }
    let size = self.size((0..<all).reduce(0) { $0 + sums[$1] }, part.count, step.rate)
    team.split(all, grain: grain(form.columns)) { range, _ in
      for row in range {
        OptimizerKernels.update(
          part.values + row * form.columns, part.gradient + row * form.columns, factors: factors(row),
          row: rowFactors.start[row], decay: decay, size: size, count: form.columns)
      }
    }
  }

  private func grain(_ columns: Int) -> Int { max(1, (1 << 14) / max(columns, 1)) }

  /// The running means of the squares of rows and of columns.
  private func means(_ g: Floats, _ form: Form, _ keep: Float, _ share: Float, rows: Floats, columns: Floats, _ team: Team) {
    team.split(form.rows, grain: grain(form.columns)) { range, _ in
      for row in range {
        let sum = OptimizerKernels.squareSum(g + row * form.columns, epsilon: Self.epsilon, count: form.columns)
        rows[row] = keep * rows[row] + share * Float(sum / Double(form.columns))
      }
    }
    team.split(form.columns, grain: 256) { range, scratch in
      let sums = scratch.start(0, 8 * range.count).bindMemory(to: Double.self, capacity: range.count)
      sums.update(repeating: 0, count: range.count)
      for row in 0..<form.rows {
        OptimizerKernels.addSquares(g + row * form.columns + range.lowerBound, epsilon: Self.epsilon, count: range.count, to: sums)
      }
      for (index, column) in range.enumerated() {
        columns[column] = keep * columns[column] + share * Float(sums[index] / Double(form.rows))
      }
    }
  }

  private func moveVector(
    _ part: MovedPart, _ step: OptimizerStep, _ keep: Float, _ share: Float, _ decay: Float, _ team: Team
  ) {
    let v = part.states[0].floats(from: 0)
    let factors = FloatStore(count: part.count)
    OptimizerKernels.meanSquares(part.gradient, epsilon: Self.epsilon, keep: keep, share: share, v, count: part.count)
    OptimizerKernels.inverseRoots(v, scale: 1, count: part.count, factors.start)
    let sum = OptimizerKernels.updateSum(part.gradient, factors: factors.start, row: 1, count: part.count)
    OptimizerKernels.update(
      part.values, part.gradient, factors: factors.start, row: 1, decay: decay, size: size(sum, part.count, step.rate),
      count: part.count)
  }

  /// What an update whose squares have this sum is multiplied by.
  private func size(_ sum: Double, _ count: Int, _ rate: Double) -> Float {
    Float(rate / max(1, (sum / Double(count)).squareRoot() / Self.largestUpdate))
  }
}
