import NibbleCompute
import NibbleCore

/// Second moments of what a layer's matrices take, summed over tokens: x̂ is the input in the model that is being packed, x the same in the
/// float model.
///
/// Sums are computed in tiles of a fixed size, so they do not depend on the number of threads.
final class Moments {
  /// Numbers of x̂.
  let inputs: Int
  /// Numbers of what the packed model lacks.
  let lacking: Int
  /// Σ x̂ · x̂ᵀ [inputs, inputs]; only the upper triangle counts.
  let hessian: FloatStore
  /// Σ d · x̂ᵀ [lacking, inputs], with d what the packed model lacks: x − x̂, or what an output and the residual stream lack.
  let drift: FloatStore
  /// What the sums are divided by: the tokens, capped ones in part.
  private(set) var weight = 0.0

  private static let tile = 256

  init(inputs: Int, lacking: Int) {
    (self.inputs, self.lacking) = (inputs, lacking)
    hessian = FloatStore(count: inputs * inputs)
    drift = FloatStore(count: lacking * inputs)
    hessian.values.initialize(repeating: 0)
    drift.values.initialize(repeating: 0)
  }

  /// Moments that were kept: Ĥ, its upper triangle row by row.
  init(triangle: [Float], inputs: Int) {
    (self.inputs, lacking, weight) = (inputs, 0, 1)
    (hessian, drift) = (FloatStore(count: inputs * inputs), FloatStore(count: 0))
    var at = 0
    for row in 0..<inputs {
      for column in 0..<inputs { hessian.start[row * inputs + column] = column < row ? 0 : triangle[at + column - row] }
      at += inputs - row
    }
  }

  /// Moments of which Σ x̂² alone was kept.
  init(diagonal: [Float]) {
    (inputs, lacking, weight) = (diagonal.count, 0, 1)
    (hessian, drift) = (FloatStore(count: inputs * inputs), FloatStore(count: 0))
    hessian.values.initialize(repeating: 0)
    for (place, value) in diagonal.enumerated() { hessian.start[place * inputs + place] = value }
  }

  /// Bytes that moments of these sizes take.
  static func bytes(inputs: Int, lacking: Int) -> Int { 4 * inputs * (inputs + lacking) }

  /// Adds some tokens.
  ///
  /// - Parameters:
  ///   - x: x̂ [rows, inputs], each row multiplied by the root of its weight
  ///   - lack: d [rows, lacking], likewise
  ///   - weight: the sum of the weights
  func add(_ x: UnsafePointer<Float>, lack: UnsafePointer<Float>, rows: Int, weight: Double, _ team: Team) {
    self.weight += weight
    func tiles(_ count: Int) -> [Range<Int>] {
      stride(from: 0, to: count, by: Self.tile).map { $0..<min($0 + Self.tile, count) }
    }
    let columns = tiles(inputs)
    var jobs: [(isHessian: Bool, rows: Range<Int>, columns: Range<Int>)] = []
    for right in columns {
      for left in columns where left.lowerBound <= right.lowerBound { jobs.append((true, left, right)) }
      for left in tiles(lacking) { jobs.append((false, left, right)) }
    }
    team.run(jobs.count) { index, _ in
      let (isHessian, left, right) = jobs[index]
      let (from, to, stride) = isHessian ? (x, hessian.start, inputs) : (lack, drift.start, lacking)
      _ = BLAS.multiply(
        from + left.lowerBound, stride, x + right.lowerBound, inputs, transposed: false,
        to + left.lowerBound * inputs + right.lowerBound, inputs, m: left.count, n: right.count, k: rows, beta: 1,
        transposedLeft: true)
    }
  }

  /// Σ x̂² of each channel.
  var diagonal: [Float] { (0..<inputs).map { hessian.start[$0 * inputs + $0] } }
}
