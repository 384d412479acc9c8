import NibbleCore
import NibbleQuant

/// A GGUF file, as llama.cpp reads and writes adapters in: metadata, then tensors.
///
/// Everything is checked against the file before it is used: counts, lengths, types, where data lies.
package struct GgufFile {
  /// What metadata holds; lists are skipped.
  package enum Value: Equatable {
    case text(String)
    case number(Double)
    case list
  }

  package struct Tensor {
    package let name: String
    /// Rows first, as safetensors has it; the file has it the other way round.
    package let shape: [Int]
    package let type: GGMLType
    fileprivate let range: Range<Int>
  }

  package static let magic: [UInt8] = Array("GGUF".utf8)

  package let path: String
  package private(set) var metadata: [String: Value] = [:]
  package private(set) var tensors: [Tensor] = []
  package let file: InputFile

  /// Where headers must end: adapters have some thousand short names.
  private static let longestHeader = 64 << 20
  private static let mostTensors = 1 << 18
  private static let mostKeys = 1 << 16

  /// - Throws: `.badInput` for anything that is not as it should be, with the place
  package init(_ path: String) throws {
    self.path = path
    file = try InputFile(path)
    var reader = ByteReader(try file.bytes(at: 0, count: min(file.size, Self.longestHeader)), place: "\(path: path)")
    guard try reader.take(4) == Self.magic else { throw NibbleError.badInput("\(path: path): not a GGUF file") }
    let version = try reader.u32()
    guard (2...3).contains(version) else {
      throw reader.fail(
        version > 0xFFFF
          ? "written for big-endian machines, which is not read" : "GGUF version \(version), where 2 and 3 are known")
    }
    let tensorCount = try reader.count(), keyCount = try reader.count()
    guard tensorCount <= Self.mostTensors, keyCount <= Self.mostKeys else {
      throw reader.fail("\(tensorCount) tensors and \(keyCount) keys are more than an adapter has")
    }
    for _ in 0..<keyCount {
      let key = try reader.ggufText()
      let type = try reader.u32()
      guard metadata.updateValue(try reader.ggufValue(type), forKey: key) == nil else {
        throw reader.fail("the key \(subject: key) is there twice")
      }
    }
    try readTensors(&reader, tensorCount)
  }

  private mutating func readTensors(_ reader: inout ByteReader, _ count: Int) throws {
    var found: [(name: String, shape: [Int], type: GGMLType, offset: Int, length: Int)] = []
    var names: Set<ByteName> = []
    for _ in 0..<count {
      let name = try reader.ggufText()
      guard names.insert(ByteName(name)).inserted else { throw reader.fail("the \(tensor: name) is there twice") }
      let rank = try reader.u32()
      guard (1...4).contains(rank) else { throw reader.fail("\(tensor: name) has \(rank) dimensions") }
      var shape: [Int] = []
      for _ in 0..<rank { shape.insert(try reader.count(), at: 0) }
      let number = try reader.u32()
      guard let type = GGMLType(number: number) else {
        throw reader.fail(
          "\(tensor: name) is of ggml's type \(number); read are \(GGMLType.all.map(\.name).joined(separator: ", "))")
      }
      guard shape.allSatisfy({ $0 > 0 }), let length = type.byteCount(shape), length <= 1 << 42 else { throw reader.fail("\(tensor: name) cannot have the shape \(shape)") }
      found.append((name, shape, type, try reader.count(), length))
    }
    var alignment = 32
    if let given = metadata["general.alignment"] {
      guard case .number(let value) = given, let whole = Int(exactly: value), (1...1 << 16).contains(whole),
        whole & (whole - 1) == 0
      else { throw reader.fail("\(key: "general.alignment") is no power of two") }
      alignment = whole
    }
    guard let data = aligned(reader.at, to: alignment) else { throw reader.fail("cut") }
    var end = 0
    for one in found.sorted(by: { $0.offset < $1.offset }) {
      func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: path): \(tensor: one.name) \(reason)") }
      guard one.offset % alignment == 0 else { throw fail("begins at \(one.offset), which is no multiple of \(alignment)") }
      guard one.offset >= end else { throw fail("overlaps the one before it") }
      guard data <= file.size, one.offset <= file.size - data, one.length <= file.size - data - one.offset else {
        throw fail("goes beyond the end of the file")
      }
      end = one.offset + one.length
    }
    tensors = found.map {
      Tensor(name: $0.name, shape: $0.shape, type: $0.type, range: data + $0.offset..<data + $0.offset + $0.length)
    }
  }

  package func text(_ key: String) -> String? { if case .text(let text)? = metadata[key] { text } else { nil } }
  package func number(_ key: String) -> Double? { if case .number(let number)? = metadata[key] { number } else { nil } }

  /// A tensor's numbers, row by row.
  package func floats(_ tensor: Tensor) throws -> [Float] {
    let bytes = try file.bytes(at: tensor.range.lowerBound, count: tensor.range.count)
    let count = elementCount(of: tensor.shape) ?? 0
    return [Float](unsafeUninitializedCapacity: count) { buffer, filled in
      bytes.withUnsafeBytes { raw in
        guard let from = raw.baseAddress, let to = buffer.baseAddress else { return }
        if let dtype = tensor.type.dtype {
          Kernels.widen(dtype, from, count: count, to)
        } else {
          Kernels.decode(tensor.type, from, from: 0, count: count, .f32, to)
        }
      }
      filled = count
    }
  }
}

extension ByteReader {
  fileprivate mutating func ggufText() throws -> String {
    let bytes = try take(try count())
    guard let text = String(validating: bytes, as: UTF8.self) else { throw fail("a text that is no UTF-8") }
    return text
  }

  fileprivate mutating func ggufValue(_ type: Int, depth: Int = 0) throws -> GgufFile.Value {
    switch type {
    case 0, 7: return .number(Double(try u8()))
    case 1: return .number(Double(Int8(bitPattern: try u8())))
    case 2: return .number(Double(try u16()))
    case 3: return .number(Double(Int16(truncatingIfNeeded: try u16())))
    case 4: return .number(Double(try u32()))
    case 5: return .number(Double(Int32(truncatingIfNeeded: try u32())))
    case 6: return .number(Double(Float(bitPattern: UInt32(try u32()))))
    case 8: return .text(try ggufText())
    case 10: return .number(Double(try u64()))
    case 11: return .number(Double(Int64(bitPattern: try u64())))
    case 12: return .number(Double(bitPattern: try u64()))
    case 9:
      guard depth < 4 else { throw fail("lists in lists in lists") }
      let inner = try u32()
      // Each takes a byte or more, so a count beyond the header is cut soon.
      for _ in 0..<(try count()) { _ = try ggufValue(inner, depth: depth + 1) }
      return .list
    default: throw fail("metadata of the type \(type)")
    }
  }
}
