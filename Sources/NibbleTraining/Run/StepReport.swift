import NibbleCore

/// What one step did.
public struct StepReport: Sendable {
  /// Counted from 1.
  public let step: Int
  /// The mean over the micro-batches in which something is learned; NaN where that is none, as where no token happened to be hidden.
  public let loss: Double
  /// Before clipping.
  public let gradientNorm: Double
  /// The rate this step used.
  public let learningRate: Double
  /// Tokens processed, learned or not.
  public let tokens: Int
  public let seconds: Double
}

extension StepReport {
  /// A line of `metrics.jsonl`.
  var json: JSON {
    [
      "step": JSON(step), "loss": JSON(loss), "grad_norm": JSON(gradientNorm), "learning_rate": JSON(learningRate),
      "tokens": JSON(tokens), "seconds": JSON(seconds),
    ]
  }
}
