import NibbleCore

/// How much of each module's change its factors hold.
public struct FactoringReport: Sendable {
  /// One module.
  public struct Module: Sendable {
    /// Its path in the base.
    public let path: String
    public let outputs: Int
    public let inputs: Int
    /// Of the change as it was given; nil where it had none.
    public var oldRank: Int?
    /// Of the factors.
    public let rank: Int
    /// ‖Δ‖ of the change as it was given.
    public let norm: Double
    /// ‖Δ − factors‖ / ‖Δ‖; 0 for a change of zeros.
    public let error: Double
    /// The share of ‖Δ‖² that the factors hold.
    public var energy: Double { notBelowZero(1 - error * error) }
  }

  public var modules: [Module] = []
  /// Parameters that are in the adapter whole, and how far each lies from the base's, relative to it.
  public var whole: [(name: String, count: Int, change: Double?)] = []
  /// Parameters that differ and are not in the adapter.
  public var left: [(name: String, count: Int, change: Double?)] = []
  /// The greatest share of ‖Δ‖² that the last step of a search by random projection still found; nil where the factors are the best
  /// there are.
  public var lastGain: Double?
  /// Things worth telling that stopped nothing.
  public var warnings: [Warning] = []

  /// How far a parameter lies from the base's.
  public static func distance(_ change: Double?) -> String {
    guard let change else { return "which the base does not have" }
    return change.isFinite ? "by \(decimal(100 * change, 3)) % of its length" : "where the base has zeros"
  }

  /// ‖all that is missing‖ / ‖all changes‖, of factored modules.
  public var error: Double {
    let all = modules.reduce(0) { $0 + $1.norm * $1.norm }
    let missing = modules.reduce(0) { $0 + $1.error * $1.error * $1.norm * $1.norm }
    return all == 0 ? 0 : (missing / all).squareRoot()
  }
  /// The share of ‖all changes‖² that the factors hold.
  public var energy: Double { notBelowZero(1 - error * error) }
  /// The module that lost most of its change.
  public var worst: Module? { modules.max { $0.error < $1.error } }
}
