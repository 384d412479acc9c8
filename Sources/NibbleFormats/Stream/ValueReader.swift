import NibbleCore
import NibbleQuant

/// Reads any numeric tensor, plain or packed, as float32 in chunks, checking checksums and taking the digest of its plain
/// bytes on the way.
final class ValueReader: @unchecked Sendable {
  let tensor: StoredTensor
  private let elements: ElementReader?
  private let codes: SectionReader?
  let decoder: PackedDecoder?
  private let digest = XXH3()

  /// - Parameter transposing: reads a plain matrix by columns; no digest is taken then
  init(_ tensor: StoredTensor, transposing: Bool = false) throws {
    self.tensor = tensor
    if tensor.isPacked {
      elements = nil
      codes = try SectionReader(tensor.sections[0], tensor.name.text)
      decoder = try PackedDecoder(tensor)
    } else {
      elements = try ElementReader(tensor, transposing: transposing)
      codes = nil
      decoder = nil
    }
  }

  /// Elements that are decoded together: runs begin at multiples of it.
  var grain: Int { decoder?.decoder.grain ?? 1 }

  /// The values of elements `start..<start + count` in storage order, and the bytes to admit.
  func read(
    _ start: Int, _ count: Int, into out: UnsafeMutablePointer<Float>, _ scratch: Scratch
  ) throws -> (plain: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer) {
    try read(start, count, as: .f32, into: UnsafeMutableRawPointer(out), scratch)
  }

  /// The same in F32, F16 or BF16; of a plain tensor in F32 only.
  func read(
    _ start: Int, _ count: Int, as dtype: DType, into out: UnsafeMutableRawPointer, _ scratch: Scratch
  ) throws -> (plain: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer) {
    if let codes, let decoder {
      let (plain, stored) = try decoder.readCodes(codes, start, count, scratch)
      decoder.decode(plain, start, count, dtype, out)
      return (plain, stored)
    }
    guard let elements else { return (.init(start: nil, count: 0), .init(start: nil, count: 0)) }
    let (plain, stored) = try elements.read(start, count, scratch)
    if let from = plain.baseAddress { Kernels.widen(tensor.dtype, from, count: count, out.assumingMemoryBound(to: Float.self)) }
    return (UnsafeRawBufferPointer(plain), stored)
  }

  /// Takes note of what `read` returned, in order.
  func admit(_ bytes: (plain: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer)) {
    (elements?.reader ?? codes)?.admit(bytes.stored)
    digest.update(bytes.plain)
  }

  /// Checks what was read against what the container says of it.
  func finish() throws -> Digest128? {
    if elements?.isTransposing == true { return nil }
    try (elements?.reader ?? codes)?.finish()
    for bytes in decoder?.sections ?? [] { digest.update(bytes) }
    if let expected = tensor.digest, expected != digest.digest128 {
      throw NibbleError.integrity(
        "\(path: tensor.sections[0].place): \(tensor: tensor.name.text): its digest is \(digest.digest128), the table says \(expected)"
      )
    }
    return digest.digest128
  }
}

extension TensorStream {
  /// Reads every byte of a tensor, checks what can be checked and hands on the values.
  ///
  /// - Parameter statistics: whether to look at the values; types without arithmetic are only hashed
  /// - Returns: the digest of the plain bytes and what the values are
  func scan(_ tensor: StoredTensor, statistics: Bool) throws -> (digest: Digest128, values: TensorStatistics?) {
    guard statistics, tensor.dtype.isNumeric else { return (try hash(tensor), nil) }
    let reader = try ValueReader(tensor)
    let chunk = Self.chunk(reader.grain)
    let chunks = ceilDivide(tensor.count, chunk)
    let found = PerChunk<TensorStatistics>(chunks)
    try forEachChunk(chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let count = min(chunk, tensor.count - index * chunk)
      guard let values = scratch.floats(Slot.left, count).baseAddress else { return }
      let bytes = try reader.read(index * chunk, count, into: values, scratch)
      var statistics = TensorStatistics()
      statistics.add(values, count: count)
      found.set(index, statistics)
      try turnstile.pass(index) {
        reader.admit(bytes)
        progress.value(bytes.plain.count)
      }
    }
    let digest = try reader.finish() ?? Digest128(high: 0, low: 0)
    try checkRest(tensor)
    return (digest, found.values.reduce(into: TensorStatistics()) { $0 += $1 })
  }

  /// Reads and checks every byte of a tensor without looking at values.
  func hash(_ tensor: StoredTensor) throws -> Digest128 {
    let digest = XXH3()
    for section in tensor.sections where section.kind != .stateText {
      try read(section, tensor.name.text, digest)
    }
    if let expected = tensor.digest, expected != digest.digest128 {
      throw NibbleError.integrity(
        "\(path: tensor.sections[0].place): \(tensor: tensor.name.text): its digest is \(digest.digest128), the table says \(expected)"
      )
    }
    try checkRest(tensor)
    return digest.digest128
  }

  private func checkRest(_ tensor: StoredTensor) throws {
    guard let state = tensor.section(.stateText) else { return }
    let text = try SectionReader(state, tensor.name.text).readWhole(limit: 1 << 20)
    let offset = try tensor.section(.nestedOffset).map { try SectionReader($0, tensor.name.text).readWhole() } ?? []
    try TensorTarget(keeping: tensor).checkState(text, offset: offset, state.place)
  }

  /// Reads and checks a section that is part of no tensor.
  func read(_ section: StoredSection, _ name: String, _ digest: XXH3) throws {
    let reader = try SectionReader(section, name)
    let chunk = Self.chunkBytes
    try forEachChunk(ceilDivide(section.plainLength, chunk), threads: threads, pool) {
      [progress = Unchecked(progress)] index, scratch, turnstile in
      let plain = scratch.bytes(Slot.input, min(chunk, section.plainLength - index * chunk))
      let stored = try reader.read(index * chunk, into: plain, scratch, slot: Slot.inputStored)
      try turnstile.pass(index) {
        reader.admit(stored)
        digest.update(UnsafeRawBufferPointer(plain))
        progress.value(plain.count)
      }
    }
    try reader.finish()
  }
}

extension StoredTensor {
  /// Calls `body` with every value in order, a chunk at a time, on this thread.
  ///
  /// - Parameter transposing: reads a plain matrix by columns
  package func forEachValues(
    transposing: Bool = false, _ body: (_ start: Int, _ values: UnsafePointer<Float>, _ count: Int, Scratch) throws -> Void
  ) throws {
    let scratch = Scratch()
    let reader = try ValueReader(self, transposing: transposing)
    let chunk = TensorStream.chunk(reader.grain)
    for start in stride(from: 0, to: count, by: chunk) {
      let count = min(chunk, self.count - start)
      let values = scratch.floatStart(TensorStream.Slot.left, count)
      reader.admit(try reader.read(start, count, into: values, scratch))
      try body(start, values, count, scratch)
    }
    _ = try reader.finish()
  }
}
