import NibbleCore
import NibbleFormats

/// How to merge adapters into a base.
public struct MergeOptions: Sendable {
  /// An adapter and how much of it.
  public struct Weighted: Sendable {
    public let adapter: AdapterFile
    public let weight: Double

    public init(_ adapter: AdapterFile, weight: Double = 1) {
      self.adapter = adapter
      self.weight = weight
    }
  }

  /// What several adapters become together.
  public enum Method: String, Sendable, CaseIterable {
    /// The exact sum of the weighted deltas.
    case sum
    /// The same, by the name PEFT has for it.
    case cat
    /// PEFT's combination of factors, for those who must reproduce it: not the sum of the deltas.
    case linear
    /// PEFT's: the sum of the deltas cut to the rank of the largest, or `svdRank`. Its `svd_clamp` is not offered: what it cuts
    /// depends on the signs of singular vectors, which every LAPACK chooses for itself.
    case svd
    /// PEFT's: the greatest numbers of each factor, of one elected sign, averaged.
    case ties
    /// PEFT's `linear` of the greatest numbers of each factor.
    case magnitudePrune = "magnitude_prune"
    /// PEFT's `linear` and `ties` of randomly kept numbers.
    case dareLinear = "dare_linear"
    case dareTies = "dare_ties"

    /// Whether what comes out is the sum of the weighted deltas.
    public var isSum: Bool { self == .sum || self == .cat }
    /// Whether only some numbers of a factor are kept.
    public var prunes: Bool { !isSum && self != .linear && self != .svd }
    /// Whether signs are elected.
    public var electsSigns: Bool { self == .ties || self == .dareTies }
    /// Whether chance decides.
    public var isRandom: Bool { self == .dareLinear || self == .dareTies }
  }

  /// How the sign of a number is chosen among adapters: that of their sum, or the one most of them have.
  public enum SignElection: String, Sendable, CaseIterable {
    case total, frequency
  }

  /// What is merged.
  public var adapters: [Weighted]
  /// How they are put together.
  public var method = Method.sum
  /// The rank that `svd` keeps; nil for the largest among the adapters.
  public var svdRank: Int?
  /// The share of numbers that methods that prune keep, above 0.
  public var density: Double?
  /// How `ties` and `dare_ties` choose signs.
  public var majoritySign = SignElection.total
  /// Of what `dare_linear` and `dare_ties` keep.
  public var seed: UInt64 = 0
  /// For every float tensor of a plain output; nil for the type each one had.
  public var dtype: DType?
  /// How tensors of a plain base are packed, where the output is.
  public var packing = QuantizeOptions()
  /// What is written into a folder's model card as the way it was made.
  public var commandLine: String?
  /// The least share of its change a tensor may keep. Where it is nil, 0.5 for packed tensors, and others are only warned about.
  public var minimumSurvival: Double?

  /// The sum of `adapters`, in the base's own types.
  public init(_ adapters: [Weighted]) { self.adapters = adapters }
}
