import NibbleCore
import NibbleQuant

/// Something that is added to a tensor's values on their way: what merging an adapter does.
///
/// Elements are counted in the order in which they are read: a packed tensor's as they are stored; of a plain tensor that is being
/// packed transposed, as they will be stored.
package protocol TensorChange: Sendable {
  /// The change of elements `start..<start + count`, whose values are `values`.
  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch)

  /// What spans the rows of the change, [rank, columns]; nil where nothing does.
  var rowSpace: RowSpace? { get }
}

/// Vectors that span the rows of a change. They live as long as the change.
package struct RowSpace {
  /// Whether rows are read by the layer's input: then they span what the adapter reads.
  package let isOfInputs: Bool
  package let start: UnsafePointer<Float>
  package let rank: Int
  package let columns: Int

  package init(_ start: UnsafePointer<Float>, rank: Int, columns: Int, isOfInputs: Bool) {
    self.isOfInputs = isOfInputs
    self.start = start
    self.rank = rank
    self.columns = columns
  }
}

extension TensorChange {
  package var rowSpace: RowSpace? { nil }

  /// Elements as they will be written: changed in float32, rounded once.
  ///
  /// - Parameters:
  ///   - base: what they were; afterwards, what would be written without the change
  ///   - isBaseRounded: whether that is the same
  ///   - meter: sees what became of the change
  func round(
    _ base: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, to dtype: DType, _ out: UnsafeMutableRawPointer,
    isBaseRounded: Bool, _ meter: ChangeMeter, _ scratch: Scratch
  ) -> ChangeMeter.Piece {
    let delta = scratch.floatStart(TensorStream.Slot.right, count)
    let written = scratch.floatStart(TensorStream.Slot.gathered, count)
    self.delta(base, start, count, into: delta, scratch)
    for i in 0..<count { written[i] = base[i] + delta[i] }
    if !isBaseRounded {
      Kernels.narrow(dtype, base, count: count, out)
      Kernels.widen(dtype, out, count: count, base)
    }
    Kernels.narrow(dtype, written, count: count, out)
    Kernels.widen(dtype, out, count: count, written)
    return meter.measure(start, count, base: base, written: written, delta: delta, scratch)
  }
}

/// Scratch slots that changes may use.
package enum ChangeSlot {
  package static let first = 12
}

extension TensorStream {
  /// Values of any kind into plain ones, changed in float32 and rounded once.
  func change(
    _ source: StoredTensor, by change: any TensorChange, as target: TensorTarget, into writer: SectionWriter
  ) throws -> TensorOutcome {
    if source.isTransposed != target.isTransposed, source.isPacked {
      return try unpack(source, target, into: writer, changedBy: change)
    }
    let reader = try ValueReader(source, whole, slot: Slot.restored)
    let digest = XXH3()
    let chunk = 2 * Self.chunkElements
    let chunks = ceilDivide(source.count, chunk)
    let dtype = target.dtype
    let meter = ChangeMeter(change)
    let measured = Unchecked(PerChunk<(ChangeMeter.Piece, Int)>(chunks))
    try forEachChunk(chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let count = min(chunk, source.count - index * chunk)
      let output = scratch.bytes(Slot.output, count * dtype.bitWidth / 8)
      guard let to = output.baseAddress else { return }
      let base = scratch.floatStart(Slot.left, count)
      let bytes = try reader.read(index * chunk, count, into: base, scratch)
      let isRounded = !source.isPacked && source.dtype == dtype
      let found = change.round(base, index * chunk, count, to: dtype, to, isBaseRounded: isRounded, meter, scratch)
      measured.value.set(index, (found, Kernels.countNonfinite(dtype, to, count: count)))
      try writer.send(UnsafeRawBufferPointer(output), index, turnstile, digest, scratch, slot: Slot.outputStored) {
        reader.admit(bytes)
        progress.value(bytes.plain.count)
      }
    }
    let sourceDigest = try reader.finish()
    try writer.finish(digest)
    var outcome = TensorOutcome(digest: digest.digest128, sourceDigest: sourceDigest ?? digest.digest128)
    let results = measured.value.values
    outcome.counts.nonfinite = results.reduce(0) { $0 + $1.1 }
    outcome.change = ChangeMeter.Piece.total(results.map(\.0))
    return outcome
  }
}
