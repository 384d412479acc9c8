import NibbleCore
import NibbleQuant

/// What a tensor is to become.
public struct TensorTarget: Sendable {
  /// Its name.
  public var name: ByteName
  /// The type of its elements, before packing.
  public var dtype: DType
  /// As it will be stored.
  public var shape: [Int]
  /// Whether the model's own tensor is the transpose.
  public var isTransposed: Bool
  /// How its elements are stored.
  public var encoding: WeightEncoding
  package var foreign: ForeignLayout
  /// How much each column counts in the search for scales, of several matrices one after another; nil where all count alike.
  package var importance: [Float]?
  /// Kept verbatim from a bitsandbytes file.
  var stateText: StoredSection?

  /// The tensor as it is.
  public init(keeping source: StoredTensor) {
    name = source.name
    dtype = source.dtype
    shape = source.shape
    isTransposed = source.isTransposed
    encoding = source.encoding
    foreign = source.foreign
    stateText = source.section(.stateText)
  }

  /// The tensor as a container holds it: as it is or, where it is coded as other programs' files are and has no place there, its elements.
  init(keeping source: StoredTensor, in container: any Container) {
    self.init(keeping: source)
    if source.encoding.kind.isForeign, !container.takes(source.encoding, beside: []) { becomePlain(source) }
  }

  /// The model's own tensor, element by element.
  mutating func becomePlain(_ source: StoredTensor) {
    (encoding, stateText, foreign) = (.plain, nil, ForeignLayout())
    (shape, isTransposed) = (source.logicalShape, false)
  }

  var count: Int { elementCount(of: shape) ?? 0 }

  /// Its values will not be the source's: what was kept verbatim of them counts no longer.
  package mutating func becomesNew() { stateText = nil }

  /// Kinds and plain lengths of its sections.
  var sections: [SectionLength] {
    var sections = encoding.codec.sections(dtype, shape)
    if let stateText { sections.append((.stateText, stateText.plainLength)) }
    return sections
  }
}

/// What became of a tensor on its way.
package struct TensorOutcome: Sendable {
  /// Of the plain bytes written.
  package var digest = Digest128(high: 0, low: 0)
  /// Of the plain bytes read.
  package var sourceDigest = Digest128(high: 0, low: 0)
  package var counts = EncodeCounts()
  /// Set where values were changed: packed or cast.
  package var squaredError: Double?
  package var squaredSignal = 0.0
  /// Where a change was wanted.
  package var change: ChangeSums?
  /// Whether that moved groups of codes and touched none.
  package var isMoved = false

  /// ‖written − read‖ / ‖read‖.
  package var relativeError: Double? {
    // Squares beyond float32 leave nothing to compare: NaN, which no limit lets pass.
    squaredError.map { !$0.isFinite || !squaredSignal.isFinite ? .nan : $0 == 0 ? 0 : ($0 / squaredSignal).squareRoot() }
  }
}

/// The one way tensors go: read in chunks, transformed on all cores, hashed and written in order.
///
/// Memory is a few chunks a thread and, for packed tensors, the scales of the tensor in hand.
final class TensorStream {
  /// Elements of a chunk: small enough for a core's second-level cache, a multiple of every block size, and as codes
  /// half a frame.
  static let chunkElements = 1 << 18
  static let chunkBytes = 2 * frameLength

  /// Scratch slots of a thread; each also uses the one or two behind it. Codecs use those from 30 on.
  enum Slot {
    static let input = 0, inputStored = 1, output = 3, outputStored = 4, left = 7, right = 8, gathered = 9, changed = 10,
      restored = 11, projected = 14
    /// Of the thread that holds the tensor.
    static let strip = 25
  }

  let threads: Int
  let rules: EncodingRules
  let search: ScaleSearch
  let offsets: OffsetSearch
  let pool = ScratchPool()
  let whole = Scratch()
  /// Told how many source bytes were dealt with, in order.
  let progress: (Int) -> Void

  init(
    threads: Int, rules: EncodingRules = .nearest, search: ScaleSearch = .absmax, offsets: OffsetSearch = .init(),
    progress: @escaping (Int) -> Void
  ) {
    self.threads = threads
    self.rules = rules
    self.search = search
    self.offsets = offsets
    self.progress = progress
  }

  /// Sends `source` on its way into `writers`, one for each section of `target`.
  func send(
    _ source: StoredTensor, changedBy change: (any TensorChange)? = nil, isShaped: Bool = false, decided: DecidedCodes? = nil,
    as target: TensorTarget, into writers: [SectionWriter]
  ) throws -> TensorOutcome {
    var outcome: TensorOutcome
    if change == nil, source.encoding == target.encoding, source.dtype == target.dtype, source.isTransposed == target.isTransposed {
      outcome = try copy(source, into: writers)
    } else if source.isPacked, source.isTransposed != target.isTransposed {
      outcome = try unpackTurned(source, target, into: writers[0], changedBy: change)
    } else {
      outcome = try encode(source, changedBy: change, isShaped: isShaped, decided: decided, as: target, into: writers)
    }
    if let state = target.stateText, let writer = writers.last, writer.kind == .stateText {
      try write(state, writer, source.name.text)
    }
    if let expected = source.digest, expected != outcome.sourceDigest {
      throw NibbleError.integrity(
        "\(path: source.sections[0].place): \(tensor: source.name.text): its digest is \(outcome.sourceDigest), "
          + "the table says \(expected)")
    }
    return outcome
  }

  /// Writes a section that is not part of a tensor's digest.
  func write(_ section: StoredSection, _ writer: SectionWriter, _ name: String) throws {
    let digest = XXH3()
    try copy(section, writer, digest, name)
  }

  /// - Parameter dtype: of the elements, to count those that are not finite
  @discardableResult
  private func copy(
    _ section: StoredSection, _ writer: SectionWriter, _ digest: XXH3, _ name: String, dtype: DType? = nil
  ) throws -> Int {
    let reader = try SectionReader(section, name)
    let chunk = Self.chunkBytes
    let chunks = ceilDivide(section.plainLength, chunk)
    let nonfinite = PerChunk<Int>(chunks)
    try forEachChunk(chunks, threads: threads, pool) {
      [progress = Unchecked(progress)] index, scratch, turnstile in
      let count = min(chunk, section.plainLength - index * chunk)
      let plain = scratch.bytes(Slot.input, count)
      let stored = try reader.read(index * chunk, into: plain, scratch, slot: Slot.inputStored)
      if let dtype, let base = plain.baseAddress {
        nonfinite.set(index, Kernels.countNonfinite(dtype, base, count: count * 8 / dtype.bitWidth))
      }
      try writer.send(UnsafeRawBufferPointer(plain), index, turnstile, digest, scratch, slot: Slot.outputStored) {
        reader.admit(stored)
        progress.value(count)
      }
    }
    try reader.finish()
    try writer.finish(digest)
    return nonfinite.values.reduce(0, +)
  }

  /// Plain bytes stay what they are.
  private func copy(_ source: StoredTensor, into writers: [SectionWriter]) throws -> TensorOutcome {
    let digest = XXH3()
    var outcome = TensorOutcome()
    for (section, writer) in zip(source.sections, writers) where section.kind != .stateText {
      outcome.counts.nonfinite += try copy(
        section, writer, digest, source.name.text, dtype: section.kind == .data ? source.dtype : nil)
    }
    outcome.digest = digest.digest128
    outcome.sourceDigest = outcome.digest
    return outcome
  }
}
