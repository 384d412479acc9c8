import NibbleCore

/// Where the time of training goes.
package final class StepClock {
  package enum Part: String, Sendable, CaseIterable {
    /// Products with weights, forward and backward, the factors' terms in them included.
    case weights
    /// Gradients of what is trained, DoRA's norms, dropout.
    case trained
    case attention
    /// The head's scores judged.
    case loss
    case optimizer
  }

  package private(set) var seconds: [Part: Double] = [:]

  /// Runs `body` and adds the time it takes to `part`.
  package func measure<Result>(_ part: Part, _ body: () throws -> Result) rethrows -> Result {
    let started = monotonicSeconds()
    defer { seconds[part, default: 0] += monotonicSeconds() - started }
    return try body()
  }
}
