/// The loss and where it begins its way back.
package enum BackwardKernels {
  /// Scores become the gradient of −log softmax(scores)[target], times `scale`.
  ///
  /// - Returns: the loss
  package static func crossEntropy(_ scores: UnsafeMutablePointer<Float>, count: Int, target: Int, scale: Float) -> Double {
    let loss = LayerKernels.logSumExp(scores, count: count) - Double(scores[target])
    LayerKernels.softmax(scores, count: count)
    scores[target] -= 1
    for i in 0..<count { scores[i] *= scale }
    return loss
  }
}
