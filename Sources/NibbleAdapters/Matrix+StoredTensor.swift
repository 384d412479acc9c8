import NibbleCompute
import NibbleCore
import NibbleFormats

extension Matrix {
  /// The matrix a stored tensor holds, in place.
  ///
  /// - Throws: `.badInput` for types products are not made with
  package init(_ tensor: StoredTensor, of mapped: MappedCheckpoint, isTransposed: Bool) throws {
    let name = tensor.name.text
    func fail(_ reason: String) -> NibbleError {
      NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) \(reason)")
    }
    guard tensor.shape.count == 2 else { throw fail("is no matrix: its shape is \(tensor.shape)") }
    let (rows, columns) = (tensor.shape[0], tensor.shape[1])
    guard let codec = tensor.encoding.codec else {
      guard let section = tensor.section(.data),
        let matrix = Matrix(
          tensor.dtype, rows: rows, columns: columns, try mapped.bytes(section, name), isTransposed: isTransposed, owner: mapped)
      else { throw fail("of \(tensor.dtype.rawValue) cannot be multiplied with; F32, F16, BF16 and 4-bit codes can") }
      self = matrix
      return
    }
    guard codec.blockSize >= 2, codec.blockSize % 2 == 0, let codes = tensor.section(.codes) else {
      throw fail("has blocks of \(codec.blockSize), which products are not made with")
    }
    let scales: Scales
    if let coded = tensor.section(.scaleCodes), let nested = tensor.section(.nestedScales) {
      scales = .coded(
        try mapped.bytes(coded, name), nested: try mapped.bytes(nested, name), offset: try mapped.offset(of: tensor))
    } else if let plain = tensor.section(.scales) {
      scales = .plain(try mapped.bytes(plain, name))
    } else {
      throw fail("has no scales")
    }
    guard
      let matrix = Matrix(
        codec, rows: rows, columns: columns, codes: try mapped.bytes(codes, name), scales, isTransposed: isTransposed,
        owner: mapped)
    else { throw fail("has sections of the wrong length") }
    self = matrix
  }
}
