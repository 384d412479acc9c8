import NibbleCore
import NibbleQuant

/// What a job did, in numbers.
public struct StreamReport: Sendable {
  public struct Packed: Sendable {
    public let name: String
    public let codec: BlockCodec
    public let weights: Int
    public let bytes: Int
    /// nil for tensors that were packed before.
    public let relativeError: Double?
    public let zeroBlocks: Int
  }

  public var bytesIn = 0
  public var bytesOut = 0
  /// Packed tensors of the output.
  public var packed: [Packed] = []
  /// Plain tensors of the output: how many and their bytes.
  public var keptCount = 0
  public var keptBytes = 0
  public var weights = 0
  /// Tensors that changed their plain type, with the relative error this made.
  public var cast: [(name: String, from: DType, to: DType, relativeError: Double)] = []
  public var nonfinite = 0
  public var identity = Digest128(high: 0, low: 0)
  public var sourceIdentity = Digest128(high: 0, low: 0)
  /// Files of the source that the output does not hold.
  public var notCarried: [String] = []
  public var warnings: [String] = []
  public var seconds = 0.0

  mutating func add(_ item: StreamJob.Item, _ outcome: TensorOutcome) {
    let target = item.target
    weights += target.count
    nonfinite += outcome.counts.nonfinite
    if case .packed(let codec) = target.encoding {
      packed.append(
        Packed(
          name: target.name.text, codec: codec, weights: target.count, bytes: codec.storedBytes(target.count),
          relativeError: outcome.relativeError, zeroBlocks: outcome.counts.zeroBlocks))
    } else {
      keptCount += 1
      keptBytes += target.sections[0].length
      if item.source.encoding == .plain, item.source.dtype != target.dtype {
        cast.append((target.name.text, item.source.dtype, target.dtype, outcome.relativeError ?? 0))
      }
    }
  }

  public var packedWeights: Int { packed.reduce(0) { $0 + $1.weights } }
  public var packedBitsPerWeight: Double? {
    packedWeights == 0 ? nil : Double(packed.reduce(0) { $0 + $1.bytes }) * 8 / Double(packedWeights)
  }
  public var bitsPerWeight: Double? { weights == 0 ? nil : Double(bytesOut) * 8 / Double(weights) }
  public var zeroBlocks: Int { packed.reduce(0) { $0 + $1.zeroBlocks } }

  /// Mean of the packed tensors' relative errors, by weight, and the tensor that fared worst.
  public var meanError: Double? {
    let measured = packed.compactMap { tensor in tensor.relativeError.map { ($0, Double(tensor.weights)) } }
    guard !measured.isEmpty else { return nil }
    return measured.reduce(0) { $0 + $1.0 * $1.1 } / measured.reduce(0) { $0 + $1.1 }
  }
  public var worst: Packed? {
    packed.filter { $0.relativeError != nil }.max { ($0.relativeError ?? 0) < ($1.relativeError ?? 0) }
  }
}
