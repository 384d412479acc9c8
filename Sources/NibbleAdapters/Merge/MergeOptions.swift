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
  }

  /// What is merged.
  public var adapters: [Weighted]
  /// How they are put together.
  public var method = Method.sum
  /// The rank that `svd` keeps; nil for the largest among the adapters.
  public var svdRank: Int?
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
