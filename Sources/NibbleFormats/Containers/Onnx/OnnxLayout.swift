import NibbleCore
import NibbleQuant

/// Where tensors lie in `model.onnx.data`, and the `model.onnx` that says so.
///
/// Packed matrices are what ONNX Runtime's `MatMulBnb4` (domain com.microsoft) takes: bitsandbytes' codes as they are, and one float32 scale a
/// block. Each has a node of its own, from the graph's input `<layer>.input` [rows, K] to its output `<layer>.output` [rows, N]; the graph is a
/// shelf of weights, not a model. Numbers of fields are those of onnx.proto.
struct OnnxLayout {
  /// A tensor of the file.
  struct Part {
    let name: String
    let type: Int
    let shape: [Int]
    let start: Int
    let length: Int
  }

  static let modelName = "model.onnx", dataName = "model.onnx.data"
  /// What onnxruntime's kernels have.
  static let blockSizes = [16, 32, 64, 128, 256]
  private static let alignment = 64

  /// The parts of each target: its elements, or its codes and scales.
  let parts: [[Part]]
  let dataLength: Int
  private let targets: [TensorTarget]

  init(_ targets: [TensorTarget]) {
    self.targets = targets
    var at = 0
    parts = targets.map { target in
      Self.tensors(of: target).map { name, type, shape, length in
        at = ceilDivide(at, Self.alignment) * Self.alignment
        defer { at += length }
        return Part(name: name, type: type, shape: shape, start: at, length: length)
      }
    }
    dataLength = at
  }

  private static func tensors(of target: TensorTarget) -> [(String, Int, [Int], Int)] {
    let name = target.name.text
    guard let codec = target.encoding.codec as? BlockCodec else {
      return [(name, type(of: target.dtype) ?? 0, target.shape, target.dtype.byteCount(of: target.count) ?? 0)]
    }
    let (codes, blocks) = (codec.codeBytes(target.count), codec.blocks(target.count))
    return [(name, 2, [codes], codes), (name + ".absmax", 1, [blocks], 4 * blocks)]
  }

  /// TensorProto.DataType; nil for what ONNX has none for.
  static func type(of dtype: DType) -> Int? {
    switch dtype {
    case .f32: 1
    case .u8: 2
    case .i8: 3
    case .i16: 5
    case .i32: 6
    case .i64: 7
    case .bool: 9
    case .f16: 10
    case .f64: 11
    case .bf16: 16
    default: nil
    }
  }

  /// The bytes of `model.onnx`.
  ///
  /// - Parameter metadata: kept in it by name
  func model(_ metadata: [(key: String, value: String)]) -> [UInt8] {
    var model = Protobuf()
    model.add(1, 10)
    model.add(2, "nibble")
    model.add(3, nibbleVersion)
    model.add(7) { graph in
      for target in targets where target.encoding.isPacked { graph.add(1) { Self.node(target, &$0) } }
      graph.add(2, "weights")
      for part in parts.joined() { graph.add(5) { Self.initializer(part, &$0) } }
      for target in targets where target.encoding.isPacked {
        let layer = Self.layer(target)
        graph.add(11) { Self.value(layer + ".input", columns: target.shape[1], &$0) }
        graph.add(12) { Self.value(layer + ".output", columns: target.shape[0], &$0) }
      }
    }
    for (domain, version) in [("", 21), ("com.microsoft", 1)] {
      model.add(8) {
        $0.add(1, domain)
        $0.add(2, version)
      }
    }
    for (key, value) in metadata {
      model.add(14) {
        $0.add(1, key)
        $0.add(2, value)
      }
    }
    return model.bytes
  }

  private static func layer(_ target: TensorTarget) -> String {
    let name = target.name.text
    return name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name
  }

  private static func node(_ target: TensorTarget, _ node: inout Protobuf) {
    let (name, layer) = (target.name.text, layer(target))
    for input in [layer + ".input", name, name + ".absmax"] { node.add(1, input) }
    node.add(2, layer + ".output")
    node.add(3, layer)
    node.add(4, "MatMulBnb4")
    let codec = target.encoding.codec as? BlockCodec
    // quant_type: 0 FP4, 1 NF4.
    for (key, value) in [
      ("K", target.shape[1]), ("N", target.shape[0]), ("block_size", codec?.blockSize ?? 0), ("quant_type", codec?.code == .nf4 ? 1 : 0),
    ] {
      node.add(5) {
        $0.add(1, key)
        $0.add(3, value)
        $0.add(20, 2)
      }
    }
    node.add(7, "com.microsoft")
  }

  private static func initializer(_ part: Part, _ tensor: inout Protobuf) {
    for dimension in part.shape { tensor.add(1, dimension) }
    tensor.add(2, part.type)
    tensor.add(8, part.name)
    for (key, value) in [("location", dataName), ("offset", "\(part.start)"), ("length", "\(part.length)")] {
      tensor.add(13) {
        $0.add(1, key)
        $0.add(2, value)
      }
    }
    tensor.add(14, 1)
  }

  /// A value of the graph: float32 [rows, columns].
  private static func value(_ name: String, columns: Int, _ value: inout Protobuf) {
    value.add(1, name)
    value.add(2) { type in
      type.add(1) { tensor in
        tensor.add(1, 1)
        tensor.add(2) { shape in
          shape.add(1) { $0.add(2, "rows") }
          shape.add(1) { $0.add(1, columns) }
        }
      }
    }
  }
}
