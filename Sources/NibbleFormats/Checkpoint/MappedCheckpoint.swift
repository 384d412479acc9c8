import NibbleCore
import NibbleQuant
import Synchronization

/// A checkpoint whose tensors are used where they lie, in mapped files; those that a patch changes lie in pages of their own.
package final class MappedCheckpoint: @unchecked Sendable {
  package let checkpoint: Checkpoint
  private let maps: [ObjectIdentifier: MappedFile]
  private let overlay: PatchOverlay?
  /// By where the originals lie.
  private let orderedCopies = Mutex<[UInt: OrderedBytes]>([:])
  /// Of sections that are put together of others.
  private let composedCopies = Mutex<[ObjectIdentifier: OrderedBytes]>([:])
  /// Copies of the sections of tensors that are in memory, at places that stay.
  private var copies: [ByteName: UnsafeMutableRawBufferPointer] = [:]

  /// Maps the files of `checkpoint`; touches no tensor.
  ///
  /// - Parameter readsAhead: whether all of it is going to be read soon
  package init(_ checkpoint: Checkpoint, readsAhead: Bool = true) throws {
    self.checkpoint = checkpoint
    var maps: [ObjectIdentifier: MappedFile] = [:]
    overlay = try PatchOverlay(checkpoint)
    for file in checkpoint.files {
      maps[ObjectIdentifier(file)] = try overlay?.map(of: file) ?? file.map(readsAhead: readsAhead)
    }
    self.maps = maps
    for tensor in checkpoint.tensors {
      guard let section = tensor.section(.data), case .memory(let bytes) = section.source else { continue }
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 64)
      copy.copyBytes(from: bytes)
      copies[tensor.name] = copy
    }
  }

  deinit { for copy in copies.values { copy.deallocate() } }

  /// The bytes of a section. They live as long as this object.
  ///
  /// - Throws: `.badInput` for compressed sections, which cannot be used in place
  package func bytes(_ section: StoredSection, _ name: String) throws -> UnsafeRawBufferPointer {
    guard section.compression == .none else {
      throw NibbleError.badInput(
        "\(path: section.place): \(tensor: name) is compressed and cannot be used in place; "
          + "unpack the file with 'nibble convert \(section.place) -o OUT.nbl'")
    }
    if case .patched(let patched) = section.source, let bytes = overlay?.bytes(patched, count: section.storedLength) {
      return bytes
    }
    if case .memory = section.source, section.kind == .data, let copy = copies[ByteName(name)] { return UnsafeRawBufferPointer(copy) }
    if case .composed(let composed) = section.source { return try copy(of: composed, section, name) }
    guard case .file(let file, let offset) = section.source, let map = maps[ObjectIdentifier(file)],
      offset >= 0, offset <= map.bytes.count, section.storedLength <= map.bytes.count - offset
    else { throw NibbleError.badInput("\(path: checkpoint.path): \(tensor: name) lies outside its file") }
    let bytes = UnsafeRawBufferPointer(rebasing: map.bytes[offset..<offset + section.storedLength])
    return section.order.map { ordered(bytes, $0, count: section.plainLength) } ?? bytes
  }

  /// What is put together, in the order in which it is used, made once.
  private func copy(of composed: ComposedBytes, _ section: StoredSection, _ name: String) throws -> UnsafeRawBufferPointer {
    let place = ObjectIdentifier(composed)
    if let known = composedCopies.withLock({ $0[place] }) { return UnsafeRawBufferPointer(known.bytes) }
    let copy = try OrderedBytes(SectionReader(section, name).readWhole())
    let kept = composedCopies.withLock { copies in
      if let other = copies[place] { return other }
      copies[place] = copy
      return copy
    }
    return UnsafeRawBufferPointer(kept.bytes)
  }

  /// A copy in the order in which the bytes are used, made once.
  private func ordered(_ bytes: UnsafeRawBufferPointer, _ order: SectionOrder, count: Int) -> UnsafeRawBufferPointer {
    guard let start = bytes.baseAddress else { return bytes }
    let place = UInt(bitPattern: start)
    if let known = orderedCopies.withLock({ $0[place] }) { return UnsafeRawBufferPointer(known.bytes) }
    let copy = OrderedBytes(bytes, order, count: count)
    // Who comes first has it.
    let kept = orderedCopies.withLock { copies in
      if let other = copies[place] { return other }
      copies[place] = copy
      return copy
    }
    return UnsafeRawBufferPointer(kept.bytes)
  }

  private final class OrderedBytes: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ stored: UnsafeRawBufferPointer, _ order: SectionOrder, count: Int) {
      bytes = .allocate(byteCount: count, alignment: 64)
      order.fill(bytes, from: 0, of: stored)
    }

    init(_ made: [UInt8]) {
      bytes = .allocate(byteCount: made.count, alignment: 64)
      bytes.copyBytes(from: made)
    }

    deinit { bytes.deallocate() }
  }

  /// Lets go of the memory that reading a tensor took.
  package func release(_ tensor: StoredTensor) {
    guard overlay == nil else { return }  // what a patch changed is nowhere else
    for section in tensor.sections {
      if case .file(let file, let offset) = section.source {
        maps[ObjectIdentifier(file)]?.release(offset..<offset + section.storedLength)
      }
    }
  }

  /// Elements of a packed tensor as float32, read where their codes lie.
  ///
  /// - Parameter range: begins with what the codec decodes together
  package func decode(_ tensor: StoredTensor, _ range: Range<Int>, into out: UnsafeMutablePointer<Float>) throws {
    let name = tensor.name.text
    guard let codes = tensor.sections.first else {
      throw NibbleError.badInput("\(path: checkpoint.path): \(tensor: name) has no codes")
    }
    let bytes = try bytes(codes, name)
    let decoder = try PackedDecoder(tensor)
    let place = decoder.decoder.codes(range.lowerBound, range.count)
    guard place.upperBound <= bytes.count, range.lowerBound % decoder.decoder.grain == 0 else {
      throw NibbleError.badInput("\(path: checkpoint.path): \(tensor: name) has too few codes")
    }
    decoder.decode(
      UnsafeRawBufferPointer(rebasing: bytes[place]), range.lowerBound, range.count, .f32, UnsafeMutableRawPointer(out))
  }

  /// The value a double-quantized tensor's scales are relative to.
  package func offset(of tensor: StoredTensor) throws -> Float {
    guard let section = tensor.section(.nestedOffset) else { return 0 }
    let bytes = try SectionReader(section, tensor.name.text).readWhole(limit: 4)
    guard bytes.count == 4 else { throw NibbleError.badInput("\(path: section.place): \(tensor: tensor.name.text): no offset") }
    let value = Float(bitPattern: (0..<4).reduce(0) { $0 | UInt32(bytes[$1]) << (8 * $1) })
    guard value.isFinite else {
      throw NibbleError.badInput("\(path: section.place): \(tensor: tensor.name.text): the offset of its scales is \(value)")
    }
    return value
  }

  /// A plain tensor's numbers, widened to float32.
  package func floats(_ tensor: StoredTensor) throws -> [Float] {
    guard !tensor.isPacked, [.f32, .f16, .bf16, .f64].contains(tensor.dtype), let section = tensor.section(.data) else {
      throw NibbleError.badInput(
        "\(path: checkpoint.path): \(tensor: tensor.name.text) of \(tensor.isPacked ? "4-bit codes" : tensor.dtype.rawValue) "
          + "where plain F32, F16 or BF16 numbers are needed")
    }
    let bytes = try bytes(section, tensor.name.text)
    guard let start = bytes.baseAddress, bytes.count == tensor.count * tensor.dtype.bitWidth / 8 else { return [] }
    return [Float](unsafeUninitializedCapacity: tensor.count) { buffer, count in
      if let to = buffer.baseAddress { Kernels.widen(tensor.dtype, start, count: tensor.count, to) }
      count = tensor.count
    }
  }
}
