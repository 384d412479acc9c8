import NibbleCore

/// How long a run takes, in seconds.
public struct TimePlan: Sendable {
  public var step = 0.0
  /// Of all rows to validate on; 0 without. What `measure` asks is no part of it.
  public var validation = 0.0
  public var total = 0.0
}

extension Finetuning {
  /// How long the run takes, from its first steps. They are taken: what is trained is not as it was, so nothing can be trained afterwards.
  ///
  /// - Parameter seconds: after which no other step is timed
  /// - Returns: nil for paged states, which need the run's folder
  public func time(within seconds: Double = 2) throws -> TimePlan? {
    guard !run.options.optimizer.choice.isPaged else { return nil }
    var (plan, reports) = (TimePlan(), [StepReport]())
    let started = monotonicSeconds()
    while reports.count < min(10, run.steps), reports.isEmpty || monotonicSeconds() - started < seconds { reports.append(try run.step()) }
    // The first one touches all memory for the first time.
    if reports.count > 1 { reports.removeFirst() }
    let (time, tokens) = (reports.reduce(0) { $0 + $1.seconds }, reports.reduce(0) { $0 + $1.tokens })
    plan.step = tokens > 0 ? time / Double(tokens) * run.tokensAStep : time / Double(reports.count)
    plan.total = plan.step * Double(run.steps)
    if !valid.isEmpty {
      let part = Array(valid.prefix(4 * run.options.batchSize))
      let began = monotonicSeconds()
      _ = try run.validate(part)
      // An image counts as one.
      let length: ([TrainingRow]) -> Double = { rows in Double(rows.reduce(0) { $0 + ($1.ids.isEmpty ? 1 : $1.ids.count) }) }
      plan.validation = (monotonicSeconds() - began) / max(length(part), 1) * length(valid)
      // One before the first step, then every so many, and one after the last.
      let count = 1 + (options.validationSteps.map { (run.steps + $0 - 1) / $0 } ?? 1)
      plan.total += plan.validation * Double(count)
    }
    return plan
  }
}
