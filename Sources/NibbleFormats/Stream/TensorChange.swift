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
  package let start: UnsafePointer<Float>
  package let rank: Int
  package let columns: Int

  package init(_ start: UnsafePointer<Float>, rank: Int, columns: Int) {
    self.start = start
    self.rank = rank
    self.columns = columns
  }
}

extension TensorChange {
  package var rowSpace: RowSpace? { nil }
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
    guard source.isTransposed == target.isTransposed else {
      throw NibbleError.usage(
        "tensor \(quoted(source.name.text)) is packed transposed; merging it into a plain one is not implemented: dequantize the base first")
    }
    let reader = try ValueReader(source, whole, slot: Slot.restored)
    let digest = XXH3()
    let chunk = 2 * Self.chunkElements
    let chunks = ceilDivide(source.count, chunk)
    let dtype = target.dtype
    let measured = Unchecked(PerChunk<(ChangeSums, Int)>(chunks))
    try forEachChunk(chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let count = min(chunk, source.count - index * chunk)
      let output = scratch.bytes(Slot.output, count * dtype.bitWidth / 8)
      guard let base = scratch.floats(Slot.left, count).baseAddress, let delta = scratch.floats(Slot.right, count).baseAddress,
        let written = scratch.floats(Slot.gathered, count).baseAddress, let to = output.baseAddress
      else { return }
      let bytes = try reader.read(index * chunk, count, into: base, scratch)
      change.delta(base, index * chunk, count, into: delta, scratch)
      for i in 0..<count { written[i] = base[i] + delta[i] }
      Kernels.narrow(dtype, written, count: count, to)
      Kernels.widen(dtype, to, count: count, written)
      if source.isPacked || source.dtype != dtype {
        // What would be written without the change.
        let plain = scratch.bytes(Slot.moments, count * dtype.bitWidth / 8)
        if let plain = plain.baseAddress {
          Kernels.narrow(dtype, base, count: count, plain)
          Kernels.widen(dtype, plain, count: count, base)
        }
      }
      measured.value.set(
        index,
        (
          ChangeKernels.measure(base: base, written: written, delta: delta, count: count),
          Kernels.countNonfinite(dtype, to, count: count)
        ))
      try writer.send(UnsafeRawBufferPointer(output), index, turnstile, digest, scratch, slot: Slot.outputStored) {
        reader.admit(bytes)
        progress.value(bytes.plain.count)
      }
    }
    let sourceDigest = try reader.finish()
    try writer.finish(digest)
    var outcome = TensorOutcome(digest: digest.digest128, sourceDigest: sourceDigest ?? digest.digest128)
    var sums = ChangeSums()
    for (part, nonfinite) in measured.value.values {
      sums += part
      outcome.counts.nonfinite += nonfinite
    }
    outcome.change = sums
    return outcome
  }
}
