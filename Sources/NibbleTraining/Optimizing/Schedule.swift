import Glibc
import NibbleCore

/// The learning rate over a run, as transformers' schedules of the same names.
public struct Schedule: Sendable, Equatable {
  /// What follows the warm-up.
  public enum Kind: String, Sendable, CaseIterable {
    case constant
    /// Falls linearly, to 0 after the last step.
    case linear
    /// Half a cosine down to 0.
    case cosine
    /// Half a cosine down to 0, several times.
    case cosineWithRestarts = "cosine_with_restarts"
    /// Falls as a power of what is left, to a rate of its own.
    case polynomial
    /// Stays, and falls at the end.
    case warmupStableDecay = "warmup_stable_decay"

    /// Reads nibble's names and transformers' others for the same.
    public init?(named text: String) {
      let name = text.lowercased().replacing("-", with: "_")
      guard let kind = Kind(rawValue: name == "constant_with_warmup" ? "constant" : name == "wsd" ? "warmup_stable_decay" : name) else {
        return nil
      }
      self = kind
    }
  }

  /// How the rate falls at the end of `warmup_stable_decay`.
  public enum Decay: String, Sendable, CaseIterable {
    case linear, cosine
    case root = "1-sqrt"
  }

  /// What some kinds take besides. Others do not look at it.
  public struct Shape: Sendable, Equatable {
    /// Of `cosine_with_restarts`.
    public var cycles = 1
    /// Of `polynomial`.
    public var power = 1.0
    /// The last rate of `polynomial`.
    public var end = 1e-7
    /// Of `warmup_stable_decay`: steps of the fall; nil for a tenth of the run.
    public var decaySteps: Int?
    /// Of `warmup_stable_decay`.
    public var decay = Decay.cosine
    /// Of `warmup_stable_decay`: the part of the rate that it begins with and that is left at the end.
    public var least = 0.0

    public init() {}
  }

  public var kind: Kind
  public var shape: Shape
  /// Steps over which the rate rises from 0.
  public var warmup: Int
  public var steps: Int
  /// The rate that factors are of.
  public var peak: Double
  /// Whether the first step has its part of the rate already, as schedule-free optimizers have it.
  public var risesFromFirst = false

  /// A schedule of `steps` steps.
  public init(_ kind: Kind, _ shape: Shape = Shape(), warmup: Int = 0, steps: Int, peak: Double = 2e-4) {
    (self.kind, self.shape, self.warmup, self.steps, self.peak) = (kind, shape, warmup, steps, peak)
  }

  /// The factor of the peak rate in step `step`, counted from 0.
  public func factor(_ step: Int) -> Double {
    if step < warmup {
      let risen = Double(step + (risesFromFirst ? 1 : 0)) / Double(max(1, warmup))
      return kind == .warmupStableDecay ? risen * (1 - shape.least) + shape.least : risen
    }
    let progress = Double(step - warmup) / Double(max(1, steps - warmup))
    switch kind {
    case .constant: return 1
    case .linear: return max(0, 1 - progress)
    case .cosine: return max(0, 0.5 * (1 + cos(.pi * progress)))
    case .cosineWithRestarts:
      guard progress < 1 else { return 0 }
      return max(0, 0.5 * (1 + cos(.pi * (Double(shape.cycles) * progress).truncatingRemainder(dividingBy: 1))))
    case .polynomial:
      let end = min(shape.end, peak)
      guard step <= steps else { return end / peak }
      return ((peak - end) * pow(1 - progress, shape.power) + end) / peak
    case .warmupStableDecay: return stable(step)
    }
  }

  /// Steps in which the rate of `warmup_stable_decay` falls.
  private var decaySteps: Int { min(shape.decaySteps ?? max(1, Int((0.1 * Double(steps)).rounded())), max(0, steps - warmup)) }

  private func stable(_ step: Int) -> Double {
    let start = steps - decaySteps
    guard step >= start else { return 1 }
    guard step < steps else { return shape.least }
    let progress = Double(step - start) / Double(max(1, decaySteps))
    let factor: Double =
      switch shape.decay {
      case .linear: 1 - progress
      case .cosine: 0.5 * (1 + cos(.pi * progress))
      case .root: 1 - progress.squareRoot()
      }
    return max(0, factor * (1 - shape.least) + shape.least)
  }
}
