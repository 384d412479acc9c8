import NibbleCompute

/// What a change of an exit's output, if it is small, does to the residual stream: it is multiplied with a factor of its token and one of
/// its channel. A norm after the exit also takes away what lies along the output itself, one direction among as many as there are
/// channels; the factors leave that out.
extension HalfLayer {
  /// Factors of channels, [width]: the norm's weights and the scale of branches. nil where outputs are added as they are.
  package var channelSlopes: [Float]? {
    let shape = transformer.shape
    guard let norm = norms.after else {
      return shape.residualScale == 1 ? nil : Array(repeating: shape.residualScale, count: shape.width)
    }
    return norm.weight.values.values.map { shape.residualScale * (shape.normAddsOne ? 1 + $0 : $0) }
  }

  /// Factors of tokens, [rows]: one over what the norm after the exit divides by. nil without such a norm.
  ///
  /// - Parameter output: what the exit gave, [rows, width]
  package func tokenSlopes(_ output: UnsafePointer<Float>, _ rows: Int) -> [Float]? {
    guard norms.after != nil else { return nil }
    let shape = transformer.shape, width = shape.width
    return (0..<rows).map { row in
      var (sum, squares) = (0.0, 0.0)
      for value in UnsafeBufferPointer(start: output + row * width, count: width) {
        sum += Double(value)
        squares += Double(value) * Double(value)
      }
      let mean = shape.isRMSNorm ? 0 : sum / Double(width)
      return Float(1 / (max(squares / Double(width) - mean * mean, 0) + Double(shape.epsilon)).squareRoot())
    }
  }
}
