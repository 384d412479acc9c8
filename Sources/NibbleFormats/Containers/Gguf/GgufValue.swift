import NibbleCore

/// A value of a GGUF file's metadata, of the type it has there.
package enum GgufValue: Equatable, Sendable {
  case u8(UInt8)
  case u16(UInt16)
  case u32(UInt32)
  case i32(Int32)
  case u64(UInt64)
  case f32(Float)
  case bool(Bool)
  case text(String)
  case bytes([UInt8])
  case i32s([Int32])
  case f32s([Float])
  case bools([Bool])
  case texts([String])

  /// Its number in the file; 9 for lists.
  private var type: Int {
    switch self {
    case .u8: 0
    case .u16: 2
    case .u32: 4
    case .i32: 5
    case .f32: 6
    case .bool: 7
    case .text: 8
    case .u64: 10
    case .bytes, .i32s, .f32s, .bools, .texts: 9
    }
  }

  /// The number of a list's elements.
  private var elementType: Int {
    switch self {
    case .bytes: 0
    case .i32s: 5
    case .f32s: 6
    case .bools: 7
    default: 8
    }
  }

  /// Writes type and value.
  fileprivate func write(_ out: inout ByteWriter) {
    out.u32(type)
    func list(_ count: Int) {
      out.u32(elementType)
      out.u64(count)
    }
    switch self {
    case .u8(let value): out.u8(value)
    case .u16(let value): out.u16(Int(value))
    case .u32(let value): out.u32(Int(value))
    case .i32(let value): out.u32(Int(UInt32(bitPattern: value)))
    case .u64(let value): out.u64(value)
    case .f32(let value): out.u32(Int(value.bitPattern))
    case .bool(let value): out.u8(value ? 1 : 0)
    case .text(let value): out.ggufText(value)
    case .bytes(let values):
      list(values.count)
      out.append(values)
    case .i32s(let values):
      list(values.count)
      for value in values { out.u32(Int(UInt32(bitPattern: value))) }
    case .f32s(let values):
      list(values.count)
      for value in values { out.u32(Int(value.bitPattern)) }
    case .bools(let values):
      list(values.count)
      for value in values { out.u8(value ? 1 : 0) }
    case .texts(let values):
      list(values.count)
      for value in values { out.ggufText(value) }
    }
  }

  /// Whether a number by itself is one; scores of tokens may be NaN.
  var isFinite: Bool { if case .f32(let value) = self { value.isFinite } else { true } }

  /// Whether there is nothing to write: gguf-py leaves out empty texts and lists.
  fileprivate var isEmpty: Bool {
    switch self {
    case .text(let value): value.isEmpty
    case .bytes(let values): values.isEmpty
    case .i32s(let values): values.isEmpty
    case .f32s(let values): values.isEmpty
    case .bools(let values): values.isEmpty
    case .texts(let values): values.isEmpty
    default: false
    }
  }
}

/// The metadata of a GGUF file: keys in the order in which they were first set.
package struct GgufMetadata: Sendable {
  package private(set) var entries: [(key: String, value: GgufValue)] = []
  private var places: [String: Int] = [:]

  package init() {}

  package init(_ entries: [(key: String, value: GgufValue)]) {
    for (key, value) in entries { self[key] = value }
  }

  /// The value of a key. Setting one again keeps its place; nothing is set to an empty text or list.
  package subscript(key: String) -> GgufValue? {
    get { places[key].map { entries[$0].value } }
    set {
      guard let newValue, !newValue.isEmpty else { return }
      if let place = places[key] {
        entries[place].value = newValue
      } else {
        places[key] = entries.count
        entries.append((key, newValue))
      }
    }
  }

  /// Keys and values as the file has them.
  var encoded: EncodedMetadata {
    var out = ByteWriter()
    for (key, value) in entries {
      out.ggufText(key)
      value.write(&out)
    }
    return EncodedMetadata(count: entries.count, bytes: out.bytes)
  }
}

/// Metadata as a file has it.
struct EncodedMetadata: Sendable {
  /// Keys.
  let count: Int
  let bytes: [UInt8]
}

extension ByteWriter {
  /// Length in eight bytes, then UTF-8.
  mutating func ggufText(_ text: String) {
    u64(text.utf8.count)
    append(Array(text.utf8))
  }
}
