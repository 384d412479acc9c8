import NibbleCore
import NibbleQuant

/// A GGUF file as llama.cpp reads and writes them: metadata, then tensors. A model, one of its parts, or an adapter.
///
/// The format is `docs/gguf.md` of ggml; tensors follow one another as `gguf.cpp` there asks for. Everything is checked against the file
/// before it is used: counts, lengths, types, where data lies.
package struct GgufFile: Sendable {
  /// What metadata holds.
  package enum Value: Equatable, Sendable {
    case text(String)
    case whole(Int)
    case single(Float)
    case double(Double)
    case bool(Bool)
    case list(GgufList)
  }

  package struct Tensor: Sendable {
    package let name: String
    /// Rows first, as safetensors has it; the file has it the other way round.
    package let shape: [Int]
    package let type: GGMLType
    /// Where its bytes are.
    package let range: Range<Int>
  }

  package static let magic: [UInt8] = Array("GGUF".utf8)

  package var path: String { file.path }
  package let file: InputFile
  package private(set) var metadata: [String: Value] = [:]
  /// In the order of the file.
  package private(set) var tensors: [Tensor] = []

  private static let mostTensors = 1 << 18
  private static let mostKeys = 1 << 16
  private static let longestName = 1024

  /// - Throws: `.badInput` for anything that is not as it should be, with the place
  package init(_ path: String) throws { try self.init(InputFile(path)) }

  package init(_ file: InputFile) throws {
    self.file = file
    var reader = GgufReader(file)
    let start = try reader.bytes(min(4, file.size))
    guard start == Self.magic else {
      let other = SafetensorsHeader.foreignFormat(try file.bytes(at: 0, count: min(64, file.size)))
      throw NibbleError.badInput("\(path: path): \(other ?? "not a GGUF file: its first bytes are not the magic of one")")
    }
    let version = try reader.number()
    guard (2...3).contains(version) else {
      throw reader.fail(
        version > 0xFFFF ? "written for big-endian machines, which is not read," : "GGUF version \(version), where 2 and 3 are known,")
    }
    let tensorCount = try reader.count(), keyCount = try reader.count()
    guard tensorCount <= Self.mostTensors, keyCount <= Self.mostKeys else {
      throw reader.fail("\(tensorCount) tensors and \(keyCount) keys are more than any model has")
    }
    for _ in 0..<keyCount {
      let key = try reader.text("a key", limit: 1 << 16)
      guard metadata.updateValue(try reader.value(key), forKey: key) == nil else { throw reader.fail("\(key: key) is there twice") }
    }
    try readTensors(&reader, tensorCount)
  }

  private mutating func readTensors(_ reader: inout GgufReader, _ count: Int) throws {
    var names: Set<ByteName> = []
    var found: [(tensor: Tensor, offset: Int)] = []
    for _ in 0..<count {
      let name = try reader.text("the name of a tensor", limit: Self.longestName)
      guard !name.isEmpty else { throw reader.fail("a tensor without a name") }
      guard names.insert(ByteName(name)).inserted else { throw reader.fail("\(tensor: name) is there twice") }
      let rank = try reader.number()
      guard (1...4).contains(rank) else { throw reader.fail("\(tensor: name) has \(rank) dimensions, where 1 to 4 are known,") }
      var shape: [Int] = []
      for _ in 0..<rank { shape.insert(try reader.count(), at: 0) }
      let number = try reader.number()
      guard let type = GGMLType(number: number) else {
        throw reader.fail("\(tensor: name) is of ggml's type \(number), which is not read,")
      }
      guard shape.allSatisfy({ $0 > 0 }), let length = type.byteCount(shape), length <= 1 << 48 else {
        throw reader.fail("\(tensor: name) of the type \(type.name) cannot have the shape \(shape), found")
      }
      found.append((Tensor(name: name, shape: shape, type: type, range: 0..<length), try reader.count()))
    }
    let alignment = try alignment(reader)
    guard let start = aligned(reader.at, to: alignment) else { throw reader.fail("the header is too long") }
    var next = 0
    for (tensor, offset) in found {
      func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: path): \(tensor: tensor.name) \(reason)") }
      guard offset == next else {
        throw fail(
          offset % alignment != 0
            ? "begins at \(offset), which is no multiple of \(alignment)"
            : "begins at \(offset) of the data, expected \(next): it \(offset < next ? "overlaps the one before it" : "leaves a hole before it")")
      }
      guard start <= file.size, offset <= file.size - start, tensor.range.count <= file.size - start - offset else {
        throw fail("ends at byte \(start + offset + tensor.range.count), the file at \(file.size): it is cut")
      }
      let begin = start + offset
      tensors.append(Tensor(name: tensor.name, shape: tensor.shape, type: tensor.type, range: begin..<begin + tensor.range.count))
      // Lengths are below 2⁴⁸, and alignments below 2¹⁷.
      next = ceilDivide(offset + tensor.range.count, alignment) * alignment
    }
    // What follows the last tensor is at most the padding behind it, or that of the header.
    let end = start + next
    guard file.size <= max(end, start) else {
      throw NibbleError.badInput("\(path: path): \(file.size - end) bytes follow the last tensor, which ends at byte \(end)")
    }
  }

  private func alignment(_ reader: GgufReader) throws -> Int {
    let key = "general.alignment"
    guard let given = metadata[key] else { return 32 }
    guard let alignment = whole(key), (1...1 << 16).contains(alignment), alignment & (alignment - 1) == 0 else {
      throw NibbleError.badInput("\(path: path): \(key: key) is \(given.text), which is no power of two up to \(1 << 16)")
    }
    return alignment
  }
}

// MARK: - Metadata

extension GgufFile {
  package func text(_ key: String) -> String? { if case .text(let text)? = metadata[key] { text } else { nil } }
  package func whole(_ key: String) -> Int? { if case .whole(let number)? = metadata[key] { number } else { nil } }
  package func bool(_ key: String) -> Bool? { if case .bool(let flag)? = metadata[key] { flag } else { nil } }
  package func list(_ key: String) -> GgufList? { if case .list(let list)? = metadata[key] { list } else { nil } }

  /// A number of any width.
  package func number(_ key: String) -> Double? {
    switch metadata[key] {
    case .whole(let number): Double(number)
    case .single(let number): Double(number)
    case .double(let number): number
    default: nil
    }
  }

  /// A number as a person would have written it: of a float32 the shortest decimal that rounds to it.
  package func decimal(_ key: String) -> Double? {
    if case .single(let number)? = metadata[key] { return Double(number.description) ?? Double(number) }
    return number(key)
  }
}

extension GgufFile.Value {
  /// For messages.
  var text: String {
    switch self {
    case .text(let text): quoted(text)
    case .whole(let number): String(number)
    case .single(let number): String(number)
    case .double(let number): String(number)
    case .bool(let flag): String(flag)
    case .list(let list): "a list of \(list.count)"
    }
  }
}

// MARK: - Lists

extension GgufFile {
  /// Texts of a list, checked to be UTF-8, as the bytes of all and where each lies.
  package struct Texts: Sendable {
    let bytes: [UInt8]
    let places: [Range<Int>]

    package var count: Int { places.count }
    package subscript(index: Int) -> ArraySlice<UInt8> { bytes[places[index]] }
  }

  private func wrong(_ key: String, _ expected: MessageText) -> NibbleError {
    .badInput("\(path: path): \(key: key) is \(metadata[key]?.text ?? "missing"), expected \(expected)")
  }

  /// - Throws: `.badInput` for a key that is missing or holds something else, and for texts that are no UTF-8
  package func texts(_ key: String) throws -> Texts {
    guard let list = list(key), list.kind == .text else { throw wrong(key, "a list of texts") }
    let bytes = try file.bytes(at: list.range.lowerBound, count: list.range.count)
    var places: [Range<Int>] = []
    places.reserveCapacity(list.count)
    try bytes.withUnsafeBytes { raw in
      var at = 0
      for index in 0..<list.count {
        guard at + 8 <= raw.count,
          let length = Int(exactly: UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: at, as: UInt64.self))),
          length <= raw.count - at - 8
        else { throw NibbleError.badInput("\(path: path): changed while it was read") }
        at += 8
        guard String(validating: raw[at..<at + length], as: UTF8.self) != nil else {
          throw NibbleError.badInput("\(path: path): entry \(index) of \(key: key) is no UTF-8")
        }
        places.append(at..<at + length)
        at += length
      }
    }
    return Texts(bytes: bytes, places: places)
  }

  /// Whole numbers of a list.
  package func wholes(_ key: String) throws -> [Int] {
    guard let list = list(key) else { throw wrong(key, "a list of whole numbers") }
    switch list.kind {
    case .u8: return try numbers(list, UInt8.self) { Int($0) }
    case .i8: return try numbers(list, Int8.self) { Int($0) }
    case .u16: return try numbers(list, UInt16.self) { Int($0) }
    case .i16: return try numbers(list, Int16.self) { Int($0) }
    case .u32: return try numbers(list, UInt32.self) { Int($0) }
    case .i32: return try numbers(list, Int32.self) { Int($0) }
    case .i64: return try numbers(list, Int64.self) { Int($0) }
    case .u64: return try numbers(list, UInt64.self) { Int(clamping: $0) }
    default: throw wrong(key, "a list of whole numbers")
    }
  }

  /// Numbers of a list as float32.
  package func floats(_ key: String) throws -> [Float] {
    guard let list = list(key) else { throw wrong(key, "a list of numbers") }
    switch list.kind {
    case .f32: return try numbers(list, UInt32.self) { Float(bitPattern: $0) }
    case .i32: return try numbers(list, Int32.self) { Float($0) }
    default: throw wrong(key, "a list of numbers")
    }
  }

  /// Bytes of a list of them.
  package func bytes(_ key: String) throws -> [UInt8] {
    guard let list = list(key), list.kind.width == 1 else { throw wrong(key, "a list of bytes") }
    return try file.bytes(at: list.range.lowerBound, count: list.range.count)
  }

  private func numbers<T: FixedWidthInteger, R>(_ list: GgufList, _ type: T.Type, _ convert: (T) -> R) throws -> [R] {
    let bytes = try file.bytes(at: list.range.lowerBound, count: list.range.count)
    return bytes.withUnsafeBytes { raw in
      (0..<list.count).map { convert(T(littleEndian: raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: type))) }
    }
  }
}

// MARK: - Numbers

extension GgufFile {
  /// A tensor's numbers, row by row, as float32.
  ///
  /// - Throws: `.badInput` for tensors of more than 2²⁸ numbers
  package func floats(_ tensor: Tensor) throws -> [Float] {
    guard let count = elementCount(of: tensor.shape), count <= 1 << 28 else {
      throw NibbleError.badInput("\(path: path): \(tensor: tensor.name) of shape \(tensor.shape) is too large")
    }
    var values: [Float] = []
    values.reserveCapacity(count)
    try StoredTensor(tensor, in: self).forEachValues { _, x, count, _ in values.append(contentsOf: UnsafeBufferPointer(start: x, count: count)) }
    return values
  }
}

extension StoredTensor {
  /// A tensor of a GGUF file as it lies there, under the name that it has there.
  init(_ tensor: GgufFile.Tensor, in file: GgufFile) {
    let encoding = tensor.type.encoding
    let kind = encoding.codec.sections(tensor.type.elementType, tensor.shape).first?.kind ?? .data
    self.init(
      ByteName(tensor.name), tensor.type.elementType, tensor.shape,
      sections: [StoredSection(kind, in: file.file, at: tensor.range.lowerBound, count: tensor.range.count)])
    self.encoding = encoding
  }
}
