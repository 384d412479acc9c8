import NibbleCore
import NibbleQuant

/// Writes a GGUF file of float32 tensors that are made one at a time: an adapter.
package struct GgufWriter {
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

  private let layout: GgufLayout
  private let tensors: [Tensor]

  package init(_ metadata: [(key: String, value: GgufValue)], _ tensors: [Tensor]) {
    self.tensors = tensors
    layout = GgufLayout(
      GgufMetadata(metadata).encoded,
      tensors.map { .init(name: $0.name, shape: $0.shape, type: GGMLType.f32.number, length: $0.byteCount) })
  }

  /// Bytes of the file.
  package var size: Int { layout.size }

  /// Writes the file into a staged output.
  ///
  /// - Throws: what making a tensor's numbers throws, and `.cannotWrite`
  package func write(to staged: StagedOutput) throws {
    let output = try GgufOutput(staged, name: nil, layout.shards[0])
    for tensor in tensors {
      try Interrupt.check()
      let values = try tensor.values()
      guard 4 * values.count == tensor.byteCount else {
        throw NibbleError(
          .failed, "\(path: staged.destination): \(tensor: tensor.name) has \(values.count) numbers for \(tensor.shape)")
      }
      let start = try output.cursor.align()
      try values.withUnsafeBytes { try output.cursor.file.write($0, at: start) }
      _ = output.cursor.advance(tensor.byteCount)
      try output.close()
    }
    _ = try output.finish()
  }
}
