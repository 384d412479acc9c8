import NibbleCore

/// Reads the header of a GGUF file field by field, a piece of the file at a time: a vocabulary is walked through, not kept.
struct GgufReader {
  let file: InputFile
  /// Where the header must end.
  private let end: Int
  private var piece: [UInt8] = []
  /// Where in the file `piece` begins.
  private var pieceStart = 0
  /// The place in the file.
  private(set) var at = 0
  /// Bytes of texts that were kept in memory.
  private var kept = 0

  /// Headers of models with the largest vocabularies there are have some 20 MB.
  private static let longest = 256 << 20
  /// Names, keys and texts are kept, and stay far below this.
  private static let mostKept = 64 << 20
  private static let pieceLength = 256 << 10

  init(_ file: InputFile) {
    self.file = file
    end = min(file.size, Self.longest)
  }

  func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: file.path): \(reason) at byte \(at)") }

  private func check(_ count: Int) throws {
    guard count >= 0, count <= end - at else {
      throw fail(end < file.size ? "the header is longer than the \(Self.longest) bytes that are read" : "the file is cut: the header goes on")
    }
  }

  /// Makes sure that the next `count` bytes are in `piece`.
  private mutating func need(_ count: Int) throws {
    try check(count)
    guard at < pieceStart || count > pieceStart + piece.count - at else { return }
    piece = try file.bytes(at: at, count: min(max(count, Self.pieceLength), end - at))
    pieceStart = at
  }

  mutating func integer<T: FixedWidthInteger>(_ type: T.Type) throws -> T {
    let width = MemoryLayout<T>.size
    try need(width)
    defer { at += width }
    return piece.withUnsafeBytes { T(littleEndian: $0.loadUnaligned(fromByteOffset: at - pieceStart, as: type)) }
  }

  /// A 32-bit number.
  mutating func number() throws -> Int { Int(try integer(UInt32.self)) }

  /// A 64-bit number that fits an `Int`.
  mutating func count() throws -> Int {
    let value = try integer(UInt64.self)
    guard let count = Int(exactly: value) else { throw fail("the number \(value)") }
    return count
  }

  mutating func bytes(_ count: Int) throws -> [UInt8] {
    try need(count)
    defer { at += count }
    return Array(piece[at - pieceStart..<at - pieceStart + count])
  }

  mutating func skip(_ count: Int) throws {
    try check(count)
    at += count
  }

  /// A text that is kept.
  ///
  /// - Parameters:
  ///   - what: for messages
  ///   - limit: bytes it may have
  mutating func text(_ what: MessageText, limit: Int = mostKept) throws -> String {
    let count = try count()
    guard count <= limit, count <= Self.mostKept - kept else { throw fail("\(what) of \(count) bytes") }
    kept += count
    guard let text = String(validating: try bytes(count), as: UTF8.self) else { throw fail("\(what) that is no UTF-8") }
    return text
  }
}

/// What a value of a GGUF file's metadata is. Raw values are those of files.
package enum GgufKind: Int, Sendable {
  case u8 = 0, i8, u16, i16, u32, i32, f32, bool, text, list, u64, i64, f64

  /// Bytes of one; nil for what has no fixed width.
  var width: Int? {
    switch self {
    case .u8, .i8, .bool: 1
    case .u16, .i16: 2
    case .u32, .i32, .f32: 4
    case .u64, .i64, .f64: 8
    case .text, .list: nil
    }
  }
}

/// A list in a GGUF file's metadata: where it lies. Vocabularies have 256 thousand texts, and are read when they are asked for.
package struct GgufList: Sendable, Equatable {
  package let kind: GgufKind
  package let count: Int
  /// Of its entries, in the file.
  let range: Range<Int>
}

extension GgufReader {
  mutating func kind(_ what: MessageText) throws -> GgufKind {
    let number = try number()
    guard let kind = GgufKind(rawValue: number) else { throw fail("\(what) is of an unknown type, \(number),") }
    return kind
  }

  mutating func value(_ key: String) throws -> GgufFile.Value {
    switch try kind("\(key: key)") {
    case .u8: return .whole(Int(try integer(UInt8.self)))
    case .i8: return .whole(Int(try integer(Int8.self)))
    case .u16: return .whole(Int(try integer(UInt16.self)))
    case .i16: return .whole(Int(try integer(Int16.self)))
    case .u32: return .whole(Int(try integer(UInt32.self)))
    case .i32: return .whole(Int(try integer(Int32.self)))
    case .i64: return .whole(Int(try integer(Int64.self)))
    case .u64:
      let value = try integer(UInt64.self)
      return Int(exactly: value).map { .whole($0) } ?? .double(Double(value))
    case .f32: return .single(Float(bitPattern: try integer(UInt32.self)))
    case .f64: return .double(Double(bitPattern: try integer(UInt64.self)))
    case .bool: return .bool(try integer(UInt8.self) != 0)
    case .text: return .text(try text("\(key: key)"))
    case .list: return .list(try list(key, depth: 0))
    }
  }

  private mutating func list(_ key: String, depth: Int) throws -> GgufList {
    guard depth < 4 else { throw fail("\(key: key) has lists in lists in lists") }
    let (kind, count) = (try kind("\(key: key)"), try count())
    let start = at
    if let width = kind.width {
      let (bytes, overflow) = count.multipliedReportingOverflow(by: width)
      guard !overflow else { throw fail("\(key: key) has \(count) entries") }
      try skip(bytes)
    } else {
      // Each takes eight bytes or more, so a count beyond the file is cut soon.
      for _ in 0..<count {
        if kind == .text { try skip(try self.count()) } else { _ = try list(key, depth: depth + 1) }
      }
    }
    return GgufList(kind: kind, count: count, range: start..<at)
  }
}
