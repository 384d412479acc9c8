/// Writes GGUF files byte by byte, right or wrong, as a test wants them.
public struct GgufBuilder {
  public enum Value {
    case text(String)
    case u32(UInt32)
    case f32(Float)
    case bool(Bool)
    case texts([String])
    case i32s([Int32])
    case floats([Float])
    /// A type and the bytes of the value.
    case raw(UInt32, [UInt8])

    var bytes: [UInt8] {
      switch self {
      case .text(let text): littleEndian(UInt32(8)) + GgufBuilder.text(text)
      case .u32(let number): littleEndian(UInt32(4)) + littleEndian(number)
      case .f32(let number): littleEndian(UInt32(6)) + littleEndian(number.bitPattern)
      case .bool(let flag): littleEndian(UInt32(7)) + [flag ? 1 : 0]
      case .texts(let texts): Self.list(8, texts.count) + texts.flatMap(GgufBuilder.text)
      case .i32s(let numbers): Self.list(5, numbers.count) + numbers.flatMap { littleEndian($0) }
      case .floats(let numbers): Self.list(6, numbers.count) + numbers.flatMap { littleEndian($0.bitPattern) }
      case .raw(let type, let bytes): littleEndian(type) + bytes
      }
    }

    public static func list(_ type: UInt32, _ count: Int) -> [UInt8] { littleEndian(UInt32(9)) + littleEndian(type) + littleEndian(UInt64(count)) }
  }

  public struct Tensor {
    public var name: String
    /// Rows first.
    public var shape: [UInt64]
    public var type: UInt32
    public var data: [UInt8]
    /// nil for where it belongs.
    public var offset: UInt64?

    public init(name: String, shape: [UInt64], type: UInt32, data: [UInt8]) {
      (self.name, self.shape, self.type, self.data) = (name, shape, type, data)
    }
  }

  public var magic = Array("GGUF".utf8)
  public var version: UInt32 = 3
  public var keys: [(name: String, value: Value)] = []
  public var tensors: [Tensor] = []
  public var tensorCount: UInt64?
  public var keyCount: UInt64?
  public var alignment = 32
  /// Behind all.
  public var tail: [UInt8] = []

  public init() {}

  public static func text(_ text: String) -> [UInt8] { littleEndian(UInt64(text.utf8.count)) + Array(text.utf8) }

  public mutating func add(_ name: String, _ shape: [Int], _ values: [Float]) {
    tensors.append(Tensor(name: name, shape: shape.map { UInt64($0) }, type: 0, data: values.flatMap { littleEndian($0.bitPattern) }))
  }

  /// Sets a key, or takes it away.
  public subscript(key: String) -> Value? {
    get { keys.first { $0.name == key }?.value }
    set {
      if let place = keys.firstIndex(where: { $0.name == key }) {
        if let newValue { keys[place].value = newValue } else { keys.remove(at: place) }
      } else if let newValue {
        keys.append((key, newValue))
      }
    }
  }

  private func padding(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: (alignment - count % alignment) % alignment) }

  public var bytes: [UInt8] {
    var bytes = magic + littleEndian(version) + littleEndian(tensorCount ?? UInt64(tensors.count)) + littleEndian(keyCount ?? UInt64(keys.count))
    for (key, value) in keys { bytes += Self.text(key) + value.bytes }
    var data: [UInt8] = []
    for tensor in tensors {
      bytes += Self.text(tensor.name) + littleEndian(UInt32(tensor.shape.count))
      bytes += tensor.shape.reversed().flatMap { littleEndian($0) } + littleEndian(tensor.type) + littleEndian(tensor.offset ?? UInt64(data.count))
      data += tensor.data
      data += padding(data.count)
    }
    return bytes + padding(bytes.count) + data + tail
  }
}
