import NibbleCore
import NibbleQuant

/// A few tensors in a safetensors file of their own: inputs and results of a diagnosis, an adapter.
package struct TensorFile {
  private let checkpoint: Checkpoint
  package let path: String

  /// Opens the safetensors file at `path`.
  package init(_ path: String) throws {
    self.path = path
    checkpoint = try Checkpoint.open(path)
    guard checkpoint.container == .safetensors else { throw NibbleError.badInput("\(path: path): not a .safetensors file") }
  }

  /// `__metadata__`, in the order of the file.
  package var metadata: [(key: String, value: String)] { checkpoint.metadata }

  /// The tensor `name` if there is one.
  package func tensor(_ name: String) -> StoredTensor? { checkpoint.tensor(ByteName(name)) }

  /// The whole numbers of an integer tensor.
  ///
  /// - Throws: `.badInput` for other types and more than 2²⁸ elements
  package func integers(_ tensor: StoredTensor) throws -> [Int] {
    let name = tensor.name.text
    let bytes = try bytes(tensor)
    func read<T: FixedWidthInteger>(_ type: T.Type) -> [Int] {
      bytes.withUnsafeBytes { raw in
        (0..<tensor.count).map { Int(truncatingIfNeeded: raw.loadUnaligned(fromByteOffset: $0 * T.bitWidth / 8, as: type)) }
      }
    }
    switch tensor.dtype {
    case .i64: return read(Int64.self)
    case .i32: return read(Int32.self)
    case .i16: return read(Int16.self)
    case .u8, .bool: return read(UInt8.self)
    case .i8: return read(Int8.self)
    default:
      throw NibbleError.badInput("\(path: path): \(tensor: name) is of \(tensor.dtype.rawValue), whole numbers were expected")
    }
  }

  /// The numbers of a tensor as float32.
  package func floats(_ tensor: StoredTensor) throws -> [Float] {
    guard tensor.dtype.isNumeric else {
      throw NibbleError.badInput("\(path: path): \(tensor: tensor.name.text) of \(tensor.dtype.rawValue) holds no numbers")
    }
    let bytes = try bytes(tensor)
    return [Float](unsafeUninitializedCapacity: tensor.count) { buffer, count in
      bytes.withUnsafeBytes { raw in
        if let from = raw.baseAddress, let to = buffer.baseAddress { Kernels.widen(tensor.dtype, from, count: tensor.count, to) }
      }
      count = tensor.count
    }
  }

  /// The bytes of a tensor.
  package func bytes(_ tensor: StoredTensor) throws -> [UInt8] {
    guard !tensor.isPacked, tensor.count <= 1 << 28, let section = tensor.section(.data) else {
      throw NibbleError.badInput("\(path: path): \(tensor: tensor.name.text) is packed or too large")
    }
    return try SectionReader(section, tensor.name.text).readWhole()
  }
}

extension TensorFile {
  /// A file of tensors being written, piece by piece. It appears whole, when it is finished, or not at all.
  package final class Writer {
    /// nil where it is part of a folder: the writer of the folder publishes it.
    private let staged: StagedOutput?
    private let file: OutputFile
    /// Where each tensor's next numbers go, and where it ends.
    private var places: [String: (next: Int, end: Int)] = [:]
    private let length: Int

    /// Begins a file of float32 tensors with these names and shapes.
    ///
    /// - Throws: `.usage` if together they are larger than any file, and what `StagedOutput` throws
    package convenience init(
      _ tensors: [(name: String, shape: [Int])], metadata: [(String, String)] = [], to path: String, force: Bool
    ) throws {
      let staged = try StagedOutput(path, .file, force: force)
      try self.init(tensors.map { ($0.name, .f32, $0.shape) }, metadata, staged, nil, path)
    }

    /// Begins the file `name` of a folder.
    package convenience init(
      _ tensors: [(name: String, shape: [Int])], metadata: [(String, String)], in folder: StagedOutput, _ name: String
    ) throws {
      try self.init(tensors.map { ($0.name, .f32, $0.shape) }, metadata, folder, name, folder.destination + "/" + name)
    }

    /// Begins the file `name` of a folder, with tensors of types of whole bytes.
    package convenience init(
      _ tensors: [(name: String, dtype: DType, shape: [Int])], in folder: StagedOutput, _ name: String
    ) throws {
      try self.init(tensors, [], folder, name, folder.destination + "/" + name)
    }

    private init(
      _ tensors: [(name: String, dtype: DType, shape: [Int])], _ metadata: [(String, String)], _ staged: StagedOutput, _ name: String?,
      _ path: String
    ) throws {
      var header: [(key: String, value: JSON)] = []
      if !metadata.isEmpty { header.append(("__metadata__", .object(metadata.map { ($0.0, JSON($0.1)) }))) }
      var at = 0
      for tensor in tensors {
        let size = tensor.shape.reduce(tensor.dtype.bitWidth / 8) { product, extent in
          let (size, overflow) = product.multipliedReportingOverflow(by: extent)
          return overflow ? Int.max : size
        }
        guard size < 1 << 60 - at else {
          throw NibbleError.usage("\(path: path): \(subject: tensor.name) of shape \(tensor.shape) is too large")
        }
        header.append((tensor.name, ["dtype": JSON(tensor.dtype.rawValue), "shape": JSON(tensor.shape), "data_offsets": JSON([at, at + size])]))
        places[tensor.name] = (at, at + size)
        at += size
      }
      var text = Array(JSON.object(header).text().utf8)
      text += Array(repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8)
      let data = 8 + text.count
      places = places.mapValues { ($0.next + data, $0.end + data) }
      length = data + at
      self.staged = name == nil ? staged : nil
      file = try staged.file(name, expectedSize: length)
      try file.write((0..<8).map { UInt8(truncatingIfNeeded: text.count >> (8 * $0)) } + text, at: 0)
    }

    /// Writes the next numbers of the tensor `name`.
    package func add(_ values: UnsafeBufferPointer<Float>, to name: String) throws {
      try add(UnsafeRawBufferPointer(values), to: name)
    }

    /// Writes the next bytes of the tensor `name`.
    package func add(_ bytes: UnsafeRawBufferPointer, to name: String) throws {
      guard let place = places[name], bytes.count <= place.end - place.next else {
        throw NibbleError(.failed, "\(path: file.path): \(bytes.count) bytes too many for \(quoted(name))")
      }
      try file.write(bytes, at: place.next)
      places[name]?.next += bytes.count
    }

    /// Writes the last and gives the file its name, or leaves that to the folder's end.
    package func finish() throws {
      try file.finish(length: length)
      try staged?.publish()
    }
  }
}
