/// How long the rest of a sweep takes, from the steps that are done.
package struct SweepPace {
  /// Steps of one kind take as long as their work is much: a verb, or a task of `evaluate`.
  private let kinds: [StepKey: String]
  /// Steps of training where they are known, else 1.
  private let work: [StepKey: Double]

  private static let training = Verb.finetune.rawValue

  /// - Parameter trainingSteps: of runs of `finetune`, as far as they are planned
  package init(_ graph: StepGraph, trainingSteps: [StepKey: Int]) {
    kinds = graph.steps.mapValues(\.title)
    work = graph.steps.reduce(into: [:]) { work, one in work[one.key] = Double(max(1, trainingSteps[one.key] ?? 1)) }
  }

  /// Seconds until all steps are done; nil while none is, and as long as no training says how long the others take.
  ///
  /// Another kind of which none is done yet takes as long as the steps that are, on average.
  ///
  /// - Parameter jobs: steps at once
  package func left(_ states: [StepKey: SweepRunner.State], jobs: Int) -> Double? {
    var done: [String: (seconds: Double, work: Double)] = [:]
    var (seconds, count) = (0.0, 0)
    var rest: [StepKey] = []
    for (key, state) in states {
      switch state {
      case .done(let record):
        let before = done[kinds[key] ?? ""] ?? (0, 0)
        done[kinds[key] ?? ""] = (before.seconds + record.seconds, before.work + (work[key] ?? 1))
        (seconds, count) = (seconds + record.seconds, count + 1)
      case .waiting, .running: rest.append(key)
      case .failed, .blocked: break
      }
    }
    guard count > 0, done[Self.training] != nil || !rest.contains(where: { kinds[$0] == Self.training }) else { return nil }
    let all = rest.reduce(0) { sum, key in
      let known = done[kinds[key] ?? ""].map { $0.seconds / $0.work * (work[key] ?? 1) }
      return sum + (known ?? seconds / Double(count))
    }
    return all / Double(max(1, min(jobs, rest.count)))
  }
}
