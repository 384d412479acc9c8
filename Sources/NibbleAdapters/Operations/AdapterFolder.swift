import NibbleCore
import NibbleFormats

/// An adapter about to be written as PEFT stores it.
package struct AdapterFolder {
  /// A tensor of `adapter_model.safetensors`.
  package struct Tensor {
    package var name: String
    package var shape: [Int]
    package var values: [Float]
    /// What it is copied from, where the values are not in hand.
    private var source: StoredTensor?

    package init(_ name: String, _ shape: [Int], _ values: [Float]) {
      (self.name, self.shape, self.values) = (name, shape, values)
    }

    /// A tensor as some other file has it, whatever its size.
    init(_ name: String, copying source: StoredTensor) {
      (self.name, shape, values, self.source) = (name, source.shape, [], source)
    }

    fileprivate func write(to file: TensorFile.Writer) throws {
      guard let source else { return try values.withUnsafeBufferPointer { try file.add($0, to: name) } }
      guard [.f32, .f16, .bf16].contains(source.dtype) else {
        throw NibbleError.badInput(
          "\(tensor: source.name.text) is of \(source.dtype.rawValue), which float32 does not hold")
      }
      try source.forEachValues { _, values, count, _ in
        try Interrupt.check()
        let values = UnsafeBufferPointer(start: values, count: count)
        guard values.allSatisfy(\.isFinite) else {
          throw NibbleError.quality("\(tensor: source.name.text) holds NaN or infinite values")
        }
        try file.add(values, to: name)
      }
    }
  }

  package var config: JSON
  package var tensors: [Tensor]
  package var binding: AdapterBinding?

  package init(config: JSON, tensors: [Tensor], binding: AdapterBinding?) {
    (self.config, self.tensors, self.binding) = (config, tensors, binding)
  }

  /// The file of tensors, and the program whose they are.
  var weightsName = "adapter_model.safetensors"
  var format = "pt"

  /// Files that a folder may hold which another adapter takes the place of.
  static let owns: @Sendable (String) -> Bool = {
    ["adapter_config.json", "adapter_model.safetensors", MLXLayout.weightsName, "README.md"].contains($0)
  }

  /// Throws if `path` cannot be written to.
  package static func check(_ path: String, force: Bool) throws {
    try StagedOutput.checkReplaceable(path, .folder(owns: owns), force: force)
  }

  /// Writes the folder, whole or not at all.
  ///
  /// - Throws: `.usage` for an existing output without `force`, `.cannotWrite`
  package func write(to path: String, force: Bool) throws {
    let staged = try StagedOutput(path, .folder(owns: Self.owns), force: force)
    do {
      try write(into: staged)
      try staged.publish()
    } catch {
      staged.discard()
      throw error
    }
  }

  /// Writes its files into a folder that is there, the configuration last.
  package func write(filesInto path: String) throws {
    let sorted = tensors.sorted { ByteName($0.name) < ByteName($1.name) }
    let file = try TensorFile.Writer(
      sorted.map { ($0.name, $0.shape) }, metadata: metadata, to: path + "/" + weightsName, force: true)
    for tensor in sorted { try tensor.write(to: file) }
    try file.finish()
    try TextFile.write(card, to: path + "/" + Self.cardName, force: true)
    try TextFile.write(
      String(decoding: config.fileBytes, as: UTF8.self), to: path + "/adapter_config.json", force: true)
  }

  private static let cardName = "README.md"

  private var card: String {
    let parameters = tensors.reduce(0) { $0 + (elementCount(of: $1.shape) ?? 0) }
    return AdapterCard(config: config, binding: binding, parameters: parameters, isMLX: format == "mlx").text
  }

  private var metadata: [(String, String)] {
    [("format", format)] + (binding.map { [(AdapterBinding.key, $0.text)] } ?? [])
  }

  /// Writes its files into a folder that is not published yet.
  package func write(into staged: StagedOutput) throws {
    let sorted = tensors.sorted { ByteName($0.name) < ByteName($1.name) }
    let file = try TensorFile.Writer(
      sorted.map { ($0.name, $0.shape) }, metadata: metadata, in: staged, weightsName)
    for tensor in sorted { try tensor.write(to: file) }
    try file.finish()
    for (name, bytes) in [(Self.cardName, Array(card.utf8)), ("adapter_config.json", config.fileBytes)] {
      let text = try staged.file(name, expectedSize: bytes.count)
      try text.write(bytes, at: 0)
      try text.finish(length: bytes.count)
    }
  }
}
