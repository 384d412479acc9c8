import NibbleCore
import Synchronization

/// A pattern for the end of a module's path, as keys of `rank_pattern` are: `(.*\.)?(KEY)$`. Names need no search.
enum ModulePattern: Sendable {
  /// Bytes, nil for any one.
  case name([UInt8?])
  case pattern(Pattern)

  init(_ key: String) throws {
    var bytes: [UInt8?] = []
    var isEscaped = false
    for byte in key.utf8 {
      let isWord = (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x5F
      switch byte {
      case 0x2E:
        bytes.append(isEscaped ? byte : nil)
        isEscaped = false
      case 0x5C where !isEscaped: isEscaped = true
      case _ where isWord && !isEscaped: bytes.append(byte)
      default:
        self = .pattern(try Pattern(ofFile: #"^(.*\.)?(\#(key))$"#, lineAnchors: false))
        return
      }
    }
    guard !isEscaped else {
      self = .pattern(try Pattern(ofFile: #"^(.*\.)?(\#(key))$"#, lineAnchors: false))
      return
    }
    self = .name(bytes)
  }

  func matches(_ path: String) throws -> Bool {
    switch self {
    case .pattern(let pattern): return try pattern.isFound(in: path)
    case .name(let bytes):
      let own = Array(path.utf8)
      guard own.count >= bytes.count else { return false }
      let start = own.count - bytes.count
      guard start == 0 || own[start - 1] == 0x2E else { return false }
      return bytes.indices.allSatisfy { bytes[$0] == nil && own[start + $0] != 0x0A || bytes[$0] == own[start + $0] }
    }
  }
}

/// Values by pattern: the first pattern that is found decides. All questions together are answered in bounded time.
final class PatternTable: Sendable {
  /// The file and the key.
  private let place: MessageText
  private let rows: [(pattern: ModulePattern, value: Double)]
  private let nanoseconds = Atomic<Int>(0)
  private static let limit = 10_000_000_000

  init(place: MessageText, _ rows: [(pattern: ModulePattern, value: Double)]) {
    self.place = place
    self.rows = rows
  }

  /// - Throws: `.badInput` when the patterns have taken longer than any sensible ones would
  func value(of path: String) throws -> Double? {
    guard !rows.isEmpty else { return nil }
    // A busy machine is no reason to refuse a file.
    let started = threadSeconds()
    defer { nanoseconds.wrappingAdd(Int((threadSeconds() - started) * 1e9), ordering: .relaxed) }
    for (index, row) in rows.enumerated() {
      let found: Bool
      do { found = try row.pattern.matches(path) } catch let error as NibbleError {
        throw NibbleError.badInput("\(place): \(error.text)")
      }
      if found { return row.value }
      guard index % 16 != 0 || nanoseconds.load(ordering: .relaxed) + Int((threadSeconds() - started) * 1e9) < Self.limit else {
        throw NibbleError.badInput("\(place): its patterns take too long to match")
      }
    }
    return nil
  }
}
