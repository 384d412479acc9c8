/// The loss and where it begins its way back.
package enum BackwardKernels {
  /// Scores become the gradient of −log softmax(scores)[target], times `scale`.
  ///
  /// - Parameter smoothing: the share of the target that is spread evenly over all classes, as transformers' `LabelSmoother` does:
  ///   the loss is (1 − s) of that of the target and s of the mean over the classes
  /// - Returns: the loss
  package static func crossEntropy(
    _ scores: UnsafeMutablePointer<Float>, count: Int, target: Int, scale: Float, smoothing: Double = 0
  ) -> Double {
    var loss = LayerKernels.logSumExp(scores, count: count)
    if smoothing == 0 {
      loss -= Double(scores[target])
    } else {
      let mean = (0..<count).reduce(0.0) { $0 + Double(scores[$1]) } / Double(count)
      loss -= (1 - smoothing) * Double(scores[target]) + smoothing * mean
    }
    LayerKernels.softmax(scores, count: count)
    scores[target] -= Float(1 - smoothing)
    if smoothing != 0 {
      let even = Float(smoothing / Double(count))
      for i in 0..<count { scores[i] -= even }
    }
    for i in 0..<count { scores[i] *= scale }
    return loss
  }
}
