import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

extension Matrix {
  /// The matrix a stored tensor holds, in place where products can be made with what lies there.
  ///
  /// - Parameter flattens: takes more than two dimensions too: all behind the first are one
  /// - Throws: `.badInput` for types products are not made with
  package init(_ tensor: StoredTensor, of mapped: MappedCheckpoint, isTransposed: Bool, flattens: Bool = false) throws {
    let name = tensor.name.text
    func fail(_ reason: MessageText) -> NibbleError {
      NibbleError.badInput("\(path: mapped.checkpoint.path): \(tensor: name) \(reason)")
    }
    guard tensor.shape.count == 2 || flattens && tensor.shape.count > 2, let columns = elementCount(of: Array(tensor.shape.dropFirst()))
    else { throw fail("is no matrix: its shape is \(tensor.shape)") }
    let rows = tensor.shape[0]
    if !tensor.isPacked {
      guard let section = tensor.section(.data),
        let matrix = Matrix(
          tensor.dtype, rows: rows, columns: columns, try mapped.bytes(section, name), isTransposed: isTransposed, owner: mapped)
      else { throw fail("of \(tensor.dtype.rawValue) cannot be multiplied with; F32, F16, BF16 and codes can") }
      self = matrix
      return
    }
    let sections = MappedSections(
      owner: mapped, inPlace: { kind in try tensor.section(kind).map { try mapped.bytes($0, name) } },
      number: { _ in try mapped.offset(of: tensor) })
    let inPlace = try (tensor.encoding.codec as? any InPlaceCodec)?.matrix(
      rows: rows, columns: columns, sections, isTransposed: isTransposed)
    self = try inPlace ?? Self(unpacking: 0..<rows, of: tensor, mapped, isTransposed: isTransposed)
  }

  /// Rows of a packed tensor, decoded into float32 in memory.
  init(unpacking rows: Range<Int>, of tensor: StoredTensor, _ mapped: MappedCheckpoint, isTransposed: Bool) throws {
    guard let columns = elementCount(of: Array(tensor.shape.dropFirst())) else {
      throw NibbleError.badInput("\(path: mapped.checkpoint.path): \(tensor: tensor.name.text) is no matrix")
    }
    let store = FloatStore(count: rows.count * columns)
    try mapped.decode(tensor, rows.lowerBound * columns..<rows.upperBound * columns, into: store.start)
    guard
      let matrix = Matrix(
        .f32, rows: rows.count, columns: columns, UnsafeRawBufferPointer(store.values), isTransposed: isTransposed, owner: store)
    else { throw NibbleError.badInput("\(path: mapped.checkpoint.path): \(tensor: tensor.name.text) is too large to unpack") }
    self = matrix
  }
}
