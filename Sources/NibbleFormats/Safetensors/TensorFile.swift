import NibbleCore
import NibbleQuant

/// A few tensors in a safetensors file of their own: inputs and results of a diagnosis, an adapter.
package struct TensorFile {
  /// A tensor in memory.
  package struct Tensor {
    package var name: String
    package var dtype: DType
    package var shape: [Int]
    package var bytes: [UInt8]

    /// float32 numbers.
    package init(_ name: String, _ shape: [Int], _ values: UnsafeBufferPointer<Float>) {
      self.name = name
      dtype = .f32
      self.shape = shape
      bytes = Array(UnsafeRawBufferPointer(values))
    }
  }

  private let checkpoint: Checkpoint
  package let path: String

  /// Opens the safetensors file at `path`.
  package init(_ path: String) throws {
    self.path = path
    checkpoint = try Checkpoint.open(path)
    guard checkpoint.container == .safetensors else { throw NibbleError.badInput("\(path): not a .safetensors file") }
  }

  /// The tensor `name` if there is one.
  package func tensor(_ name: String) -> StoredTensor? { checkpoint.tensor(ByteName(name)) }

  /// The whole numbers of an integer tensor.
  ///
  /// - Throws: `.badInput` for other types and more than 2²⁸ elements
  package func integers(_ tensor: StoredTensor) throws -> [Int] {
    let name = tensor.name.text
    let bytes = try bytes(tensor)
    func read<T: FixedWidthInteger>(_ type: T.Type) -> [Int] {
      bytes.withUnsafeBytes { raw in (0..<tensor.count).map { Int(truncatingIfNeeded: raw.loadUnaligned(fromByteOffset: $0 * T.bitWidth / 8, as: type)) } }
    }
    switch tensor.dtype {
    case .i64: return read(Int64.self)
    case .i32: return read(Int32.self)
    case .i16: return read(Int16.self)
    case .u8, .bool: return read(UInt8.self)
    case .i8: return read(Int8.self)
    default:
      throw NibbleError.badInput("\(path): tensor \(quoted(name)) is of \(tensor.dtype.rawValue), whole numbers were expected")
    }
  }

  /// The numbers of a tensor as float32.
  package func floats(_ tensor: StoredTensor) throws -> [Float] {
    guard tensor.dtype.isNumeric else {
      throw NibbleError.badInput("\(path): tensor \(quoted(tensor.name.text)) of \(tensor.dtype.rawValue) holds no numbers")
    }
    let bytes = try bytes(tensor)
    return [Float](unsafeUninitializedCapacity: tensor.count) { buffer, count in
      bytes.withUnsafeBytes { raw in
        if let from = raw.baseAddress, let to = buffer.baseAddress { Kernels.widen(tensor.dtype, from, count: tensor.count, to) }
      }
      count = tensor.count
    }
  }

  private func bytes(_ tensor: StoredTensor) throws -> [UInt8] {
    guard tensor.encoding == .plain, tensor.count <= 1 << 28, let section = tensor.section(.data) else {
      throw NibbleError.badInput("\(path): tensor \(quoted(tensor.name.text)) is packed or too large")
    }
    return try SectionReader(section, tensor.name.text).readWhole()
  }

  /// Writes `tensors` to the file `path`, which appears whole or not at all.
  package static func write(_ tensors: [Tensor], metadata: [(String, String)] = [], to path: String, force: Bool) throws {
    let staged = try StagedOutput(path, .file, force: force)
    var header: [(key: String, value: JSON)] = []
    if !metadata.isEmpty { header.append(("__metadata__", .object(metadata.map { ($0.0, JSON($0.1)) }))) }
    var at = 0
    for tensor in tensors {
      header.append(
        (
          tensor.name,
          ["dtype": JSON(tensor.dtype.rawValue), "shape": JSON(tensor.shape), "data_offsets": JSON([at, at + tensor.bytes.count])]
        ))
      at += tensor.bytes.count
    }
    var text = Array(JSON.object(header).text().utf8)
    text += Array(repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8)
    let file = try staged.file(expectedSize: 8 + text.count + at)
    try file.write((0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text, at: 0)
    var place = 8 + text.count
    for tensor in tensors {
      try file.write(tensor.bytes, at: place)
      place += tensor.bytes.count
    }
    try file.finish(length: place)
    try staged.publish()
  }
}
