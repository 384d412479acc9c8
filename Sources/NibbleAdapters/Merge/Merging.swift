import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// What one tensor gets from the adapters of a merge.
struct Merging: Sendable {
  /// A module of an adapter, and how much of it.
  struct Part: Sendable {
    let file: AdapterFile
    let module: AdapterFile.AdaptedModule
    let method: any AdapterMethod
    let weight: Double

    /// - Throws: `.quality` for numbers that are not finite
    init(_ module: AdapterFile.AdaptedModule, of file: AdapterFile, weight: Double = 1) throws {
      (self.file, self.module, self.weight) = (file, module, weight)
      method = try file.method(of: module, Engine(.f32, team: Team(threads: 1)))
    }

    /// Its pair with the weight in its scale.
    var factors: LowRankFactors? {
      guard var factors = method.pair.map({ LowRankFactors($0) }) else { return nil }
      factors.scale *= weight
      return factors
    }
  }

  /// What becomes of several parts.
  enum Combination {
    case sum
    /// Of factors instead of deltas.
    case factors(FactorCombination)
    /// The sum cut to a rank.
    case svd(rank: Int)
  }

  var parts: [Part] = []
  var combination = Combination.sum
  /// Whether the model's own tensor is [inputs, outputs]: Conv1D and embeddings.
  var isInputsFirst = false

  /// Whether methods do more than add to a layer's product, which takes all of the weight to be known.
  var isSum: Bool { parts.allSatisfy { $0.module.method.isSum } }
  /// Whether pairs and scales are not all of it.
  var hasMoreThanPairs: Bool { parts.contains { $0.method.input != nil || $0.method.term != nil } }

  /// Inputs and outputs, one after another, that all parts add the same to; 1 where they are to be added as they are.
  var shared: (inputs: Int, outputs: Int) {
    guard case .sum = combination, !parts.isEmpty, parts.allSatisfy({ $0.module.method.movesGroups }) else { return (1, 1) }
    return (
      parts.map { $0.module.method.sharedInputs($0.module.shape) }.reduce(0, Self.commonDivisor),
      parts.map { $0.module.method.sharedOutputs($0.module.shape) }.reduce(0, Self.commonDivisor)
    )
  }

  private static func commonDivisor(_ a: Int, _ b: Int) -> Int { b == 0 ? a : commonDivisor(b, a % b) }

  /// Throws where the parts would move groups of codes, and those of `item`'s tensor cannot be moved.
  func checkMoves(_ item: StreamJob.Item) throws {
    let source = item.replacement ?? item.source, shared = self.shared
    guard shared.inputs > 1, source.isPacked, source.encoding == item.target.encoding, let part = parts.first else { return }
    let reason =
      isInputsFirst == source.isTransposed
      ? item.target.encoding.codec.movingRefusal(item.target.shape, length: shared.inputs, rows: shared.outputs) : "its groups are not of inputs"
    guard let reason else { return }
    throw part.file.mismatch(
      part.module.path,
      "merges into zeros or offsets of groups, and \(tensor: source.name.text) is \(source.encoding.summary): \(reason); "
        + "merge into floats" + (part.module.method.foldsToLoRA ? ", or what 'adapter convert' makes of it, a plain LoRA adapter, by rounding" : ""))
  }

  /// Whether rows of tokens may be trained beside the factors: those of a head that shares the embedding's are the weight under them.
  var takesRows: Bool { !isInputsFirst && isSum && !parts.contains { $0.module.isConvolution } }

  /// The change of `item`'s tensor.
  ///
  /// - Throws: `.badInput` for factors that are no plain numbers
  func change(_ item: StreamJob.Item) throws -> any TensorChange {
    let source = item.replacement ?? item.source
    let isReadTransposed = source.isPacked ? source.isTransposed : item.target.isTransposed
    let rowsAreOutputs = isInputsFirst == isReadTransposed
    let shape = source.logicalShape
    guard let first = shape.first, let second = elementCount(of: Array(shape.dropFirst())) else {
      throw NibbleError.usage("nothing to merge into \(subject: item.source.name.text)")
    }
    let (inputs, outputs) = isInputsFirst ? (first, second) : (second, first)
    let lengths = StoredLengths(
      source: source, transposing: !source.isPacked && item.target.isTransposed != source.isTransposed,
      columns: rowsAreOutputs ? inputs : outputs, outputs: outputs, rowsAreOutputs: rowsAreOutputs)
    let own: [LowRankChange.Part]
    if case .sum = combination {
      own = try parts.map {
        .init(factors: $0.factors, tiles: $0.method.pooled, scales: try $0.method.scales(lengths), weight: $0.weight)
      }
    } else {
      own = try factors().map { .init(factors: $0) }
    }
    let pairs = LowRankChange(own, inputs: inputs, outputs: outputs, rowsAreOutputs: rowsAreOutputs, shared: shared)
    guard hasMoreThanPairs else { return pairs }
    let more = zip(parts, own).map {
      LayerChange.Part(input: $0.method.input, term: $0.method.term, scales: $1.scales, weight: $0.weight)
    }
    return LayerChange(pairs: pairs, parts: more, inputs: inputs, outputs: outputs, rowsAreOutputs: rowsAreOutputs)
  }
}
