import NibbleCore
import NibbleQuant

/// Writes GGUF files of float32 tensors: the header, whose length is known beforehand, then one tensor at a time.
package struct GgufWriter {
  package enum Value {
    case text(String)
    case whole(UInt32)
    case number(Float)
  }

  package struct Tensor {
    package let name: String
    /// Rows first.
    package let shape: [Int]
    /// Makes the numbers, row by row, when their turn comes.
    package let values: () throws -> [Float]

    package init(_ name: String, _ shape: [Int], _ values: @escaping () throws -> [Float]) {
      (self.name, self.shape, self.values) = (name, shape, values)
    }

    fileprivate var byteCount: Int { 4 * shape.reduce(1, *) }
  }

  private static let alignment = 32
  private let header: [UInt8]
  private let tensors: [Tensor]

  package init(_ metadata: [(key: String, value: Value)], _ tensors: [Tensor]) {
    self.tensors = tensors
    header = Self.header(metadata, tensors)
  }

  /// Bytes of the file.
  package var size: Int { tensors.reduce(header.count) { $0 + Self.padded($1.byteCount) } }

  /// Writes the file into a staged output.
  ///
  /// - Throws: what making a tensor's numbers throws, and `.cannotWrite`
  package func write(to staged: StagedOutput) throws {
    let file = try staged.file(expectedSize: size)
    try file.write(header, at: 0)
    var at = header.count
    for tensor in tensors {
      try Interrupt.check()
      let values = try tensor.values()
      guard 4 * values.count == tensor.byteCount else {
        throw NibbleError(
          .failed, "\(path: staged.destination): \(tensor: tensor.name) has \(values.count) numbers for \(tensor.shape)")
      }
      var bytes = [UInt8](unsafeUninitializedCapacity: Self.padded(tensor.byteCount)) { buffer, count in
        values.withUnsafeBytes { UnsafeMutableRawBufferPointer(buffer).copyMemory(from: $0) }
        count = tensor.byteCount
      }
      bytes += [UInt8](repeating: 0, count: Self.padded(bytes.count) - bytes.count)
      try file.write(bytes, at: at)
      at += bytes.count
    }
    try file.finish(length: at)
  }

  private static func padded(_ count: Int) -> Int { ceilDivide(count, alignment) * alignment }

  private static func header(_ metadata: [(key: String, value: Value)], _ tensors: [Tensor]) -> [UInt8] {
    var out = ByteWriter()
    func text(_ text: String) {
      out.u64(text.utf8.count)
      out.append(Array(text.utf8))
    }
    out.append(GgufFile.magic)
    out.u32(3)
    out.u64(tensors.count)
    out.u64(metadata.count)
    for (key, value) in metadata {
      text(key)
      switch value {
      case .text(let value):
        out.u32(8)
        text(value)
      case .whole(let value):
        out.u32(4)
        out.u32(Int(value))
      case .number(let value):
        out.u32(6)
        out.u32(Int(value.bitPattern))
      }
    }
    var offset = 0
    for tensor in tensors {
      text(tensor.name)
      out.u32(tensor.shape.count)
      for dimension in tensor.shape.reversed() { out.u64(dimension) }
      out.u32(GGMLType.f32.number)
      out.u64(offset)
      offset += padded(tensor.byteCount)
    }
    out.append([UInt8](repeating: 0, count: padded(out.bytes.count) - out.bytes.count))
    return out.bytes
  }
}
