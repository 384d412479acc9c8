import NibbleCompute
import NibbleCore

/// What a layer takes on a text, on average.
package struct InputMoments {
  /// E[x · xᵀ] [inputs, inputs]; only the upper triangle counts.
  package let second: FloatStore
  /// E[x]; nil if it was not kept.
  package let mean: [Float]?
  package let inputs: Int

  package init(second: FloatStore, mean: [Float]?, inputs: Int) { (self.second, self.mean, self.inputs) = (second, mean, inputs) }

  /// E[x · xᵀ], both triangles.
  var whole: [Double] {
    var whole = [Double](repeating: 0, count: inputs * inputs)
    for row in 0..<inputs {
      for column in row..<inputs {
        whole[row * inputs + column] = Double(second.start[row * inputs + column])
        whole[column * inputs + row] = whole[row * inputs + column]
      }
    }
    return whole
  }
}

/// The directions in which a layer's inputs differ most: the greatest eigenvectors of their covariance.
package struct InputDirections {
  /// Of the variance, in descending order.
  package let shares: [Double]
  /// [count, inputs]
  private let vectors: [Float]
  private let inputs: Int

  /// - Parameter count: how many are wanted
  /// - Throws: `.failed` where there is no LAPACK
  package init(_ moments: InputMoments, count: Int, _ random: CountedRandom, _ team: Team) throws {
    let inputs = moments.inputs, mean = (moments.mean ?? [Float](repeating: 0, count: moments.inputs)).map(Double.init)
    let covariance = FloatStore(count: inputs * inputs)
    let whole = moments.whole
    for row in 0..<inputs {
      for column in 0..<inputs { covariance.start[row * inputs + column] = Float(whole[row * inputs + column] - mean[row] * mean[column]) }
    }
    let total = (0..<inputs).reduce(0.0) { $0 + Double(covariance.start[$1 * inputs + $1]) }
    let found = try SingularFactors(greatestOf: covariance, rows: inputs, columns: inputs, rank: count, random, team)
    shares = found.values.map { total > 0 ? $0 / total : 0 }
    vectors = found.factors(rank: found.values.count).a
    self.inputs = inputs
  }

  /// A of a rank.
  func first(_ rank: Int) -> [Float] { Array(vectors.prefix(rank * inputs)) }
}
