import NibbleCore
import NibbleQuant

/// Elements on their way to the encoder: as they are stored, or in float32 with something added to them.
final class ElementFeed: Sendable {
  /// The type of the elements that come out.
  let dtype: DType
  let change: (any TensorChange)?
  private let source: StoredTensor
  private let elements: ElementReader?
  private let values: ValueReader?
  private let hash = Unchecked(XXH3())

  /// - Parameters:
  ///   - transposing: whether elements come by columns
  ///   - wanted: what codes that nothing is added to are decoded into: F32, F16 or BF16
  init(_ source: StoredTensor, transposing: Bool, changedBy change: (any TensorChange)?, as wanted: DType) throws {
    self.source = source
    self.change = change
    if change == nil, !source.isPacked {
      dtype = source.dtype
      elements = try ElementReader(source, transposing: transposing)
      values = nil
    } else {
      dtype = change == nil ? wanted : .f32
      elements = nil
      values = try ValueReader(source, transposing: transposing)
    }
  }

  /// What decodes a packed source.
  var decoder: (any TensorDecoder)? { values?.decoder?.decoder }
  /// The plain bytes of the sections behind the codes of a packed source.
  var sections: [[UInt8]]? { values?.decoder?.sections }
  /// Elements that are decoded together: runs begin at multiples of it.
  var grain: Int { values?.grain ?? 1 }

  /// What `read` gives.
  struct Piece {
    /// The elements to be encoded.
    var x: UnsafeMutableRawPointer?
    /// To be handed to `admit`, in order.
    var plain, stored: UnsafeRawBufferPointer
    /// In float32: what the elements were, and what was added.
    var base, delta: UnsafeMutablePointer<Float>?
  }

  /// Elements `start..<start + count` in packing order.
  func read(_ start: Int, _ count: Int, _ scratch: Scratch) throws -> Piece {
    if let elements {
      let (x, stored) = try elements.read(start, count, scratch)
      return Piece(x: x.baseAddress, plain: UnsafeRawBufferPointer(x), stored: stored)
    }
    let base = scratch.floatStart(TensorStream.Slot.left, count)
    guard let bytes = try values?.read(start, count, as: dtype, into: UnsafeMutableRawPointer(base), scratch) else {
      let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
      return Piece(plain: nothing, stored: nothing)
    }
    guard let change else { return Piece(x: UnsafeMutableRawPointer(base), plain: bytes.plain, stored: bytes.stored, base: base) }
    let delta = scratch.floatStart(TensorStream.Slot.right, count)
    let changed = scratch.floatStart(TensorStream.Slot.changed, count)
    change.delta(base, start, count, into: delta, scratch)
    for index in 0..<count { changed[index] = base[index] + delta[index] }
    return Piece(x: UnsafeMutableRawPointer(changed), plain: bytes.plain, stored: bytes.stored, base: base, delta: delta)
  }

  /// Takes note of what `read` returned.
  func admit(_ piece: Piece) {
    if let elements {
      elements.reader.admit(piece.stored)
      hash.value.update(piece.plain)
    } else {
      values?.admit((piece.plain, piece.stored))
    }
  }

  /// The digest of all that was admitted. A transposing reader went by columns, so the bytes are hashed in another pass.
  func finish(_ scratch: Scratch) throws -> Digest128 {
    if let values, let digest = try values.finish() { return digest }
    if let elements, !elements.isTransposing {
      try elements.reader.finish()
      return hash.value.digest128
    }
    let section = source.sections[0]
    let reader = try SectionReader(section, source.name.text)
    let inOrder = XXH3()
    for start in stride(from: 0, to: section.plainLength, by: TensorStream.chunkBytes) {
      let plain = scratch.bytes(TensorStream.Slot.strip, min(TensorStream.chunkBytes, section.plainLength - start))
      reader.admit(try reader.read(start, into: plain, scratch, slot: TensorStream.Slot.inputStored))
      inOrder.update(UnsafeRawBufferPointer(plain))
    }
    try reader.finish()
    return inOrder.digest128
  }
}
