import Glibc
import NibbleCore

/// The learning rate over a run.
public struct Schedule: Sendable, Equatable {
  /// What follows the warm-up.
  public enum Kind: String, Sendable, CaseIterable {
    case constant
    /// Falls linearly, to 0 after the last step.
    case linear
    /// Half a cosine down to 0.
    case cosine
  }

  public var kind: Kind
  /// Steps over which the rate rises from 0.
  public var warmup: Int
  public var steps: Int

  /// A schedule of `steps` steps.
  public init(_ kind: Kind, warmup: Int = 0, steps: Int) { (self.kind, self.warmup, self.steps) = (kind, warmup, steps) }

  /// The factor of the peak rate in step `step`, counted from 0.
  public func factor(_ step: Int) -> Double {
    if step < warmup { return Double(step) / Double(max(1, warmup)) }
    let progress = Double(step - warmup) / Double(max(1, steps - warmup))
    switch kind {
    case .constant: return 1
    case .linear: return max(0, 1 - progress)
    case .cosine: return max(0, 0.5 * (1 + cos(.pi * progress)))
    }
  }
}
