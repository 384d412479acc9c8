import Glibc
import NibbleCompute
import NibbleCore

/// The losses models are judged by, as transformers computes them.
package enum Loss {
  /// −log softmax(scores)[target].
  package static func negativeLogLikelihood(_ scores: UnsafePointer<Float>, count: Int, target: Int) -> Double {
    LayerKernels.logSumExp(scores, count: count) - Double(scores[target])
  }

  /// Mean cross-entropy over sequences, one class each; −100 is left out. NaN if nothing is left.
  package static func oneLabel(_ scores: [Float], labels: Int, targets: [Int]) -> Double {
    var sum = 0.0
    var count = 0
    for (row, target) in targets.enumerated() where target != ignored {
      sum += scores.withUnsafeBufferPointer { scores in
        scores.baseAddress.map { negativeLogLikelihood($0 + row * labels, count: labels, target: target) } ?? 0
      }
      count += 1
    }
    return sum / Double(count)
  }

  /// Mean binary cross-entropy of every class by itself.
  package static func manyLabels(_ scores: [Float], targets: [Float]) -> Double {
    let sum = targets.indices.reduce(0.0) { sum, index in
      let x = Double(scores[index])
      return sum + max(x, 0) - x * Double(targets[index]) + log1p(exp(-abs(x)))
    }
    return sum / Double(targets.count)
  }

  /// Mean squared error.
  package static func regression(_ scores: [Float], targets: [Float]) -> Double {
    let sum = targets.indices.reduce(0.0) { $0 + pow(Double(scores[$1]) - Double(targets[$1]), 2) }
    return sum / Double(targets.count)
  }

  /// A target that counts for nothing.
  package static let ignored = -100
}
