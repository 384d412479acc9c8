import NibbleCore
import NibbleQuant

/// The content identity of a checkpoint: one hash over its tensors in name order, the same for any container and
/// any sharding. Specified in `formats/nbl/README.md`.
package struct IdentityHasher {
  private var tensors: [(name: ByteName, bytes: [UInt8])] = []

  package init() {}

  /// Adds a tensor.
  package mutating func add(_ name: ByteName, _ dtype: DType, _ shape: [Int], _ encoding: WeightEncoding, _ digest: Digest128) {
    var bytes = ByteWriter()
    bytes.text(name.text)
    bytes.u8(dtype.tableCode)
    bytes.u32(shape.count)
    for dimension in shape { bytes.u64(dimension) }
    bytes.u16(Int(encoding.kind.number))
    encoding.codec.writeIdentity(&bytes)
    bytes.digest(digest)
    tensors.append((name, bytes.bytes))
  }

  /// The identity of what was added.
  package var identity: Digest128 {
    let hash = XXH3()
    for tensor in tensors.sorted(by: { $0.name < $1.name }) { hash.update(tensor.bytes) }
    return hash.digest128
  }
}
