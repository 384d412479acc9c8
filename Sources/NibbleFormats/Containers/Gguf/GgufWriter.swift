import NibbleCore

/// Writes GGUF files of float32 tensors.
package enum GgufWriter {
  package enum Value {
    case text(String)
    case whole(UInt32)
    case number(Float)
  }

  /// - Parameter tensors: with shapes rows first
  package static func bytes(
    _ metadata: [(key: String, value: Value)], _ tensors: [(name: String, shape: [Int], values: [Float])]
  ) -> [UInt8] {
    var bytes = GgufFile.magic
    func little<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { bytes += $0 } }
    func text(_ text: String) {
      little(UInt64(text.utf8.count))
      bytes += text.utf8
    }
    func align() { bytes += [UInt8](repeating: 0, count: (32 - bytes.count % 32) % 32) }
    little(UInt32(3))
    little(UInt64(tensors.count))
    little(UInt64(metadata.count))
    for (key, value) in metadata {
      text(key)
      switch value {
      case .text(let value):
        little(UInt32(8))
        text(value)
      case .whole(let value):
        little(UInt32(4))
        little(value)
      case .number(let value):
        little(UInt32(6))
        little(value.bitPattern)
      }
    }
    var offset = 0
    for tensor in tensors {
      text(tensor.name)
      little(UInt32(tensor.shape.count))
      for dimension in tensor.shape.reversed() { little(UInt64(dimension)) }
      little(UInt32(GgufType.f32.rawValue))
      little(UInt64(offset))
      offset += (4 * tensor.values.count + 31) / 32 * 32
    }
    for tensor in tensors {
      align()
      tensor.values.withUnsafeBytes { bytes += $0 }
    }
    align()
    return bytes
  }
}
