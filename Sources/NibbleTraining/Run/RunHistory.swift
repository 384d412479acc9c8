import NibbleCore

/// What a run has come through: losses of its steps, validations, the best of them.
struct RunHistory {
  private(set) var losses: [Double] = []
  /// Behind each validated step.
  private(set) var validations: [(step: Int, loss: Double)] = []
  /// An exponential mean of the losses.
  private(set) var smoothed = 0.0
  private(set) var best: (step: Int, loss: Double)?

  /// Validations since the best one.
  var stale: Int { validations.reversed().prefix { $0.step != best?.step }.count }

  /// What `metrics.jsonl` tells of the steps taken.
  init(_ rows: [JSON] = []) {
    for row in rows {
      if let loss = row["loss"]?.double { add(loss) }
      if let loss = row["valid_loss"]?.double, let step = row["step"]?.int { add(validation: loss, step) }
    }
  }

  mutating func add(_ loss: Double) {
    smoothed = losses.isEmpty ? loss : 0.9 * smoothed + 0.1 * loss
    losses.append(loss)
  }

  /// - Returns: whether it is the best so far
  @discardableResult
  mutating func add(validation loss: Double, _ step: Int) -> Bool {
    validations.append((step, loss))
    guard loss < best?.loss ?? .infinity else { return false }
    best = (step, loss)
    return true
  }
}
