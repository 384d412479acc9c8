import NibbleCore
import NibblePlots

/// The losses of a run's steps, its validations, and the best of them.
struct RunHistory {
  typealias Figures = [(key: String, value: Double)]

  private(set) var losses: [Double] = []
  /// After each validated step, and its figures, the loss first; before the first step where the step is 0.
  private(set) var validations: [(step: Int, figures: Figures)] = []
  private var mean = ExponentialMean()
  private(set) var best: (step: Int, loss: Double)?

  /// The exponential mean of the losses.
  var smoothed: Double { mean.value }
  /// Figures before the first step.
  var before: Figures? { validations.first.flatMap { $0.step == 0 ? $0.figures : nil } }
  /// Validations since the best one.
  var stale: Int { validations.reversed().prefix { $0.step != best?.step && $0.step > 0 }.count }

  /// The history in the rows of `metrics.jsonl`.
  init(_ rows: [JSON] = []) {
    for row in rows {
      if let loss = row["loss"]?.double { add(loss) }
      guard let step = row["step"]?.int, let loss = row["valid_loss"]?.double else { continue }
      let others = (row.members ?? []).compactMap { member -> (key: String, value: Double)? in
        guard member.key.hasPrefix("valid_"), member.key != "valid_loss", let value = member.value.double else { return nil }
        return (String(member.key.dropFirst("valid_".count)), value)
      }
      add(validation: [("loss", loss)] + others, step)
    }
  }

  mutating func add(_ loss: Double) {
    mean.add(loss)
    losses.append(loss)
  }

  /// - Parameter figures: the loss first
  /// - Returns: whether it is the best of a step so far
  @discardableResult
  mutating func add(validation figures: Figures, _ step: Int) -> Bool {
    validations.append((step, figures))
    guard step > 0, let loss = figures.first?.value, loss < best?.loss ?? .infinity else { return false }
    best = (step, loss)
    return true
  }
}
