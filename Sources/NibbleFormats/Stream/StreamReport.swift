import NibbleCore
import NibbleQuant

/// What a job did, in numbers.
public struct StreamReport: Sendable {
  /// A packed tensor of the output.
  public struct Packed: Sendable {
    /// Its name.
    public let name: String
    /// What it is coded with.
    public let encoding: WeightEncoding
    /// Its elements.
    public let weights: Int
    /// Bytes of its codes and scales.
    public let bytes: Int
    /// nil for tensors that were packed before.
    public let relativeError: Double?
    /// Blocks of nothing but zeros.
    public let zeroBlocks: Int
  }

  /// A tensor that was to be changed on its way.
  public struct Changed: Sendable {
    /// Its name.
    public let name: String
    /// What it is stored as.
    public let target: TensorTarget
    /// What became of the change.
    public let sums: ChangeSums
    /// The least survival it may have.
    public let minimum: Double?
    /// Whether its codes were chosen so that the change survives.
    public let isShaped: Bool
    /// Whether the sums are over what the layer gives on a text, instead of weights.
    public let isOfOutputs: Bool
    /// Whether its groups moved and no code was touched.
    public let isMoved: Bool
  }

  /// What an interrupted run had done before.
  public struct Resumed: Sendable, Equatable {
    /// Tensors that were there.
    public var tensors = 0
    /// Their bytes in the output.
    public var bytes = 0

    /// Nothing.
    public init() {}
  }

  /// What compressing saved, where it was asked for.
  public var compressed: CompressionReport?
  /// What did not have to be done again.
  public var resumed = Resumed()
  /// Tensors that were changed on their way.
  public var changed: [Changed] = []
  /// Tensors that another's values replaced.
  public var replaced: [String] = []
  /// Bytes of the source's files.
  public var bytesIn = 0
  /// Bytes of all files written.
  public var bytesOut = 0
  /// Packed tensors of the output.
  public var packed: [Packed] = []
  /// Plain tensors of the output: how many and their bytes.
  public var keptCount = 0
  /// Bytes of the plain tensors.
  public var keptBytes = 0
  /// Elements of all tensors.
  public var weights = 0
  /// Tensors that changed their plain type, with the relative error this made.
  public var cast: [(name: String, from: DType, to: DType, relativeError: Double)] = []
  /// Plain tensors that are made of another program's codes.
  public var decoded = 0
  /// NaN and infinite values of the output.
  public var nonfinite = 0
  /// Of these, values that are finite in the source: they share a scale with one that is not, or are beyond what scales hold.
  public var finiteLost = 0
  /// Groups that are too small for the type of their scales: those that become zeros, those that lose precision, and the first tensor with one.
  public var underflow: (vanished: Int, subnormal: Int, first: String?) = (0, 0, nil)
  /// The content identity of the output.
  public var identity = Digest128(high: 0, low: 0)
  /// The content identity of the source.
  public var sourceIdentity = Digest128(high: 0, low: 0)
  /// Files of the source that the output does not hold.
  public var notCarried: [String] = []
  /// Things worth telling that stopped nothing.
  public var warnings: [Warning] = []
  /// The patch that leads back to the source, if one was asked for.
  public var undo: PatchReport?
  /// From start to the published output.
  public var seconds = 0.0

  mutating func add(_ item: StreamJob.Item, _ outcome: TensorOutcome, minimumSurvival: Double?) {
    let target = item.target
    weights += target.count
    nonfinite += outcome.counts.nonfinite
    finiteLost += outcome.counts.finiteLost
    if outcome.counts.vanished + outcome.counts.subnormal > 0 {
      underflow.vanished += outcome.counts.vanished
      underflow.subnormal += outcome.counts.subnormal
      if underflow.first == nil { underflow.first = target.name.text }
    }
    if let sums = outcome.change {
      changed.append(
        Changed(name: target.name.text, target: target, sums: sums, minimum: minimumSurvival, isShaped: item.isShaped,
          isOfOutputs: item.decidedChange != nil, isMoved: outcome.isMoved))
    }
    if item.replacement != nil { replaced.append(target.name.text) }
    if target.encoding.isPacked {
      packed.append(
        Packed(
          name: target.name.text, encoding: target.encoding, weights: target.count,
          bytes: target.encoding.storedBytes(target.dtype, target.shape),
          relativeError: outcome.relativeError, zeroBlocks: outcome.counts.zeroBlocks))
    } else {
      keptCount += 1
      keptBytes += target.sections[0].length
      if item.source.encoding.isPlain, item.source.dtype != target.dtype {
        cast.append((target.name.text, item.source.dtype, target.dtype, outcome.relativeError ?? 0))
      } else if item.source.encoding.kind.isReadOnly, let error = outcome.relativeError, error > 0 {
        cast.append((target.name.text, .f8e4m3, target.dtype, error))
      }
    }
  }

  /// What became of all changes together.
  public var change: ChangeSums { changed.reduce(into: ChangeSums()) { $0 += $1.sums } }

  /// The changed tensor that keeps least of its change; one whose survival is no number comes before all others.
  public var worstChanged: Changed? { Self.worst(changed) }

  static func worst(_ changed: [Changed]) -> Changed? {
    changed.min { !$1.sums.survival.isNaN && !($0.sums.survival >= $1.sums.survival) }
  }

  /// How far a model that a change was taken out of is likely to be from the one it was put into, relative to the weights that were
  /// changed: it was rounded then as it is now.
  public var originalDistance: Double { change.relativeNoise * 2.0.squareRoot() }

  /// Elements of the packed tensors.
  public var packedWeights: Int { packed.reduce(0) { $0 + $1.weights } }
  /// Bits of codes and scales for each packed element.
  public var packedBitsPerWeight: Double? {
    packedWeights == 0 ? nil : Double(packed.reduce(0) { $0 + $1.bytes }) * 8 / Double(packedWeights)
  }
  /// Bits of the whole output for each element.
  public var bitsPerWeight: Double? { weights == 0 ? nil : Double(bytesOut) * 8 / Double(weights) }
  /// Blocks of nothing but zeros in all packed tensors.
  public var zeroBlocks: Int { packed.reduce(0) { $0 + $1.zeroBlocks } }

  /// Mean of the packed tensors' relative errors, by weight.
  public var meanError: Double? {
    let measured = packed.compactMap { tensor in tensor.relativeError.map { ($0, Double(tensor.weights)) } }
    guard !measured.isEmpty else { return nil }
    return measured.reduce(0) { $0 + $1.0 * $1.1 } / measured.reduce(0) { $0 + $1.1 }
  }
  /// The packed tensor that fared worst.
  public var worst: Packed? {
    packed.filter { $0.relativeError != nil }.max {
      let (a, b) = ($0.relativeError ?? 0, $1.relativeError ?? 0)
      return !a.isNaN && !(a >= b)
    }
  }
}
