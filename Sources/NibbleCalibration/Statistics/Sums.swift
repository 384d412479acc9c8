import NibbleCompute
import NibbleFormats

/// Sums over what one step's matrices take.
final class Sums {
  private let moments: Moments?
  private var energies: [Double]
  private var means: [Double]
  private var weight = 0.0
  private(set) var tokens = 0
  private var cap: TokenCap
  private(set) var capped = 0

  init(moments inputs: Int, _ cap: Double) {
    (moments, energies, self.cap) = (Moments(inputs: inputs, lacking: 0), [], TokenCap(times: cap))
    means = Array(repeating: 0, count: inputs)
  }

  init(energies inputs: Int, _ cap: Double) {
    (moments, energies, self.cap) = (nil, Array(repeating: 0, count: inputs), TokenCap(times: cap))
    means = Array(repeating: 0, count: inputs)
  }

  /// Adds x [rows, inputs], which is spoiled.
  func add(_ x: UnsafeMutablePointer<Float>, _ rows: Int, _ team: Team) {
    let inputs = means.count
    let weights = cap.weights(x, rows, inputs)
    for row in 0..<rows { for place in 0..<inputs { means[place] += weights[row] * Double(x[row * inputs + place]) } }
    TokenCap.scale(x, inputs, by: weights)
    capped += weights.count { $0 < 1 }
    let sum = weights.reduce(0, +)
    weight += sum
    tokens += rows
    if let moments {
      moments.add(x, lack: x, rows: rows, weight: sum, team)
    } else {
      for row in 0..<rows { for place in 0..<inputs { energies[place] += Double(x[row * inputs + place]) * Double(x[row * inputs + place]) } }
    }
  }

  /// Σ x² of each input.
  var squares: [Float] { moments?.diagonal ?? energies.map { Float($0) } }

  /// Writes the means of the products, and of x.
  func write(_ writer: TensorFile.Writer, _ name: String, means: String) throws {
    let scale = 1 / max(weight, 1e-30)
    try self.means.map { Float($0 * scale) }.withUnsafeBufferPointer { try writer.add($0, to: means) }
    guard let moments else { return try energies.map { Float($0 * scale) }.withUnsafeBufferPointer { try writer.add($0, to: name) } }
    for row in 0..<moments.inputs {
      let line = (row..<moments.inputs).map { Float(Double(moments.hessian.start[row * moments.inputs + $0]) * scale) }
      try line.withUnsafeBufferPointer { try writer.add($0, to: name) }
    }
  }
}
