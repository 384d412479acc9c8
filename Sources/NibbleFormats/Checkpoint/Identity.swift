import NibbleCore
import NibbleQuant

/// The content identity of a checkpoint: one hash over its tensors in name order, the same for any container and
/// any sharding. Specified in `formats/nbl/README.md`.
package struct IdentityHasher {
  private let hash = XXH3()

  package init() {}

  /// Adds a tensor; names must come in ascending byte order.
  package mutating func add(_ name: ByteName, _ dtype: DType, _ shape: [Int], _ encoding: Encoding, _ digest: Digest128) {
    var bytes = ByteWriter()
    bytes.text(name.text)
    bytes.u8(dtype.tableCode)
    bytes.u32(shape.count)
    for dimension in shape { bytes.u64(dimension) }
    switch encoding {
    case .plain: bytes.u16(0)
    case .packed(let codec):
      bytes.u16(codec.code.tableCode)
      bytes.u32(codec.blockSize)
      bytes.u32(codec.nested?.blockSize ?? 0)
      bytes.append(codec.codebook.bytes)
      if let nested = codec.nested { bytes.append(nested.codebook.bytes) }
    case .int8: bytes.u16(3)
    }
    bytes.digest(digest)
    hash.update(bytes.bytes)
  }

  /// The identity of what was added.
  package var identity: Digest128 { hash.digest128 }
}

extension DType {
  /// The number of this type in `.nbl` tables and identities.
  var tableCode: UInt8 { UInt8(DType.allCases.firstIndex(of: self) ?? 0) }

  init?(tableCode: UInt8) {
    guard Int(tableCode) < DType.allCases.count else { return nil }
    self = DType.allCases[Int(tableCode)]
  }
}

extension BlockCodec.Code {
  var tableCode: Int { self == .nf4 ? 1 : 2 }
}
