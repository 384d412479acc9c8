import Foundation
import NibbleCore
import NibbleFormats

/// Writes safetensors files byte by byte, right or wrong, as a test wants them.
public struct SafetensorsBuilder {
  public var tensors: [(name: String, dtype: String, shape: [Int], data: [UInt8])] = []
  public var metadata: [(String, String)] = []

  public init() {}

  public mutating func add(_ name: String, _ dtype: String, _ shape: [Int], _ data: [UInt8]) {
    tensors.append((name, dtype, shape, data))
  }

  /// Adds float32 values.
  public mutating func add(_ name: String, _ shape: [Int], _ values: [Float]) {
    add(name, "F32", shape, values.flatMap { littleEndian($0.bitPattern) })
  }

  /// Adds normal random float32 values.
  public mutating func add(random name: String, _ shape: [Int], seed: UInt64 = 1) {
    var generator = Generator(seed &+ UInt64(name.utf8.reduce(0) { $0 &* 31 &+ Int($1) } & 0xFFFF))
    add(name, shape, (0..<shape.reduce(1, *)).map { _ in generator.normal() * 0.05 })
  }

  public var bytes: [UInt8] {
    var at = 0
    var members: [(key: String, value: JSON)] = []
    if !metadata.isEmpty { members.append(("__metadata__", .object(metadata.map { ($0.0, JSON($0.1)) }))) }
    for tensor in tensors {
      members.append(
        (
          tensor.name,
          ["dtype": JSON(tensor.dtype), "shape": JSON(tensor.shape), "data_offsets": [JSON(at), JSON(at + tensor.data.count)]]
        ))
      at += tensor.data.count
    }
    return Self.file(header: JSON.object(members).text(), data: tensors.flatMap(\.data))
  }

  /// A file with this header, whatever it says.
  public static func file(header: String, data: [UInt8] = [], length: UInt64? = nil) -> [UInt8] {
    file(header: Array(header.utf8), data: data, length: length)
  }

  public static func file(header: [UInt8], data: [UInt8] = [], length: UInt64? = nil) -> [UInt8] {
    littleEndian(length ?? UInt64(header.count)) + header + data
  }
}

public func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

/// The tensors of a small safetensors file, read with the header parser only.
public struct SmallSafetensors {
  public let header: SafetensorsHeader
  private let content: [UInt8]
  private var places: [String: SafetensorsHeader.Entry] = [:]

  public init(_ path: String) throws {
    header = try SafetensorsHeader(of: InputFile(path))
    content = try TestSupport.bytes(of: path)
    for entry in header.entries { places[entry.name.text] = entry }
  }

  public subscript(_ name: String) -> [UInt8]? { places[name].map { Array(content[$0.range]) } }
  public func entry(_ name: String) -> SafetensorsHeader.Entry? { places[name] }
  public var names: [String] { places.keys.sorted() }
  /// Everything by name: dtype, shape, bytes.
  public var all: [String: String] {
    places.mapValues { "\($0.dtype.rawValue) \($0.shape) \(content[$0.range].map { String($0) }.joined(separator: " "))" }
  }

  public func floats(_ name: String) -> [Float] {
    let raw = self[name] ?? []
    return stride(from: 0, to: raw.count, by: 4).map { at in
      Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(raw[at + $1]) << UInt32(8 * $1) })
    }
  }

  /// The JSON text under `__metadata__.info`.
  public func info() throws -> JSON {
    let text = header.metadata.first { $0.key == "info" }?.value ?? "{}"
    return try JSON.parse(text)
  }
}
