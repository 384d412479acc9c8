import NibbleCore
import NibblePlots

/// The losses of a run's steps, its validations, and the best of them.
struct RunHistory {
  typealias Figures = [(key: String, value: Double)]

  /// NaN for steps that learned nothing.
  private(set) var losses: [Double] = []
  /// After each validated step, and its figures, the loss first; before the first step where the step is 0.
  private(set) var validations: [(step: Int, figures: Figures)] = []
  private var mean = ExponentialMean()
  private(set) var best: (step: Int, value: Double)?
  /// The figure that decides which is the best, and whether less of it is better.
  private let deciding: (key: String, isLoss: Bool)

  /// The exponential mean of the losses; NaN where no step learned anything.
  var smoothed: Double { mean.value }
  /// Figures before the first step.
  var before: Figures? { validations.first.flatMap { $0.step == 0 ? $0.figures : nil } }
  /// Validations since the best one.
  var stale: Int { validations.reversed().prefix { $0.step != best?.step && $0.step > 0 }.count }

  /// Figures of which less is better.
  private static let losses: Set = ["loss", "ece"]

  /// The history in the rows of `metrics.jsonl`.
  ///
  /// - Parameter figure: decides which validation is the best
  init(_ rows: [JSON] = [], best figure: String = "loss") {
    deciding = (figure, Self.losses.contains(figure))
    for row in rows {
      if row["tokens"] != nil || row["loss"] != nil { add(row["loss"]?.double ?? .nan) }
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
    guard step > 0, let value = figures.first(where: { $0.key == deciding.key })?.value, !value.isNaN else { return false }
    if let best, deciding.isLoss ? value >= best.value : value <= best.value { return false }
    best = (step, value)
    return true
  }
}
