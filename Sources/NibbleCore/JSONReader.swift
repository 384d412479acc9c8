/// Where and why a text is not the JSON we accept.
public struct JSONError: Error, Sendable {
  /// The byte at which reading stopped.
  public let offset: Int
  /// What is wrong there, as half a sentence.
  public let reason: String

  package init(offset: Int, reason: String) {
    self.offset = offset
    self.reason = reason
  }
}

/// A strict, forward-only JSON reader over bytes.
///
/// It builds no tree, so a header of a million tensors costs no more than what its caller keeps. It
/// refuses what Foundation lets pass: duplicate keys (compared as bytes), invalid UTF-8, lone surrogates,
/// and nesting deeper than `maximumDepth`.
package struct JSONReader {
  package static let maximumDepth = 64
  /// More keys than the longest header of the most tensors has.
  package static let maximumKeys = 2_000_000

  private let bytes: UnsafeRawBufferPointer
  private var at = 0
  private var depth = 0
  /// Accepts the `NaN` and `Infinity` that Python writes into configurations.
  private let allowsNonFinite: Bool

  /// Reads `bytes`, which must outlive the reader.
  package init(_ bytes: UnsafeRawBufferPointer, allowsNonFinite: Bool = false) {
    self.bytes = bytes
    self.allowsNonFinite = allowsNonFinite
  }

  package var offset: Int { at }

  package func error(_ reason: String, at offset: Int? = nil) -> JSONError {
    JSONError(offset: offset ?? at, reason: reason)
  }

  /// The first byte of the next value or punctuation, after white space; nil at the end.
  package mutating func peek() -> UInt8? {
    while at < bytes.count {
      switch bytes[at] {
      case 0x20, 0x09, 0x0A, 0x0D: at += 1
      default: return bytes[at]
      }
    }
    return nil
  }

  /// Checks that nothing but white space is left.
  package mutating func end() throws(JSONError) {
    if peek() != nil { throw error("something follows the end of the JSON text") }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard peek() == byte else { return false }
    at += 1
    return true
  }

  private mutating func expect(_ byte: UInt8) throws(JSONError) {
    guard take(byte) else {
      throw error("expected '\(Character(Unicode.Scalar(byte)))', found \(found())")
    }
  }

  private func found() -> String {
    guard at < bytes.count else { return "the end" }
    let byte = bytes[at]
    return (0x21...0x7E).contains(byte) ? "'\(Character(Unicode.Scalar(byte)))'" : "byte \(byte)"
  }

  private mutating func enter() throws(JSONError) {
    depth += 1
    if depth > Self.maximumDepth { throw error("nested deeper than \(Self.maximumDepth) levels") }
  }

  /// Reads an object; `member` is called after each key and must read the value.
  package mutating func object(_ member: (inout JSONReader, String) throws(JSONError) -> Void) throws(JSONError) {
    try expect(UInt8(ascii: "{"))
    try enter()
    defer { depth -= 1 }
    if take(UInt8(ascii: "}")) { return }
    var keys = Set<ByteName>()
    repeat {
      guard peek() == UInt8(ascii: "\"") else { throw error("expected a key, found \(found())") }
      let start = at
      let key = try string()
      guard keys.insert(ByteName(key)).inserted else { throw error("duplicate key \(quoted(key))", at: start) }
      guard keys.count <= Self.maximumKeys else { throw error("an object of more than \(Self.maximumKeys) keys") }
      try expect(UInt8(ascii: ":"))
      try member(&self, key)
    } while take(UInt8(ascii: ","))
    try expect(UInt8(ascii: "}"))
  }

  /// Reads an array; `element` is called for each element and must read it.
  package mutating func array(_ element: (inout JSONReader) throws(JSONError) -> Void) throws(JSONError) {
    try expect(UInt8(ascii: "["))
    try enter()
    defer { depth -= 1 }
    if take(UInt8(ascii: "]")) { return }
    repeat { try element(&self) } while take(UInt8(ascii: ","))
    try expect(UInt8(ascii: "]"))
  }

  /// Reads a whole number from 0 to `Int.max`, digits only.
  package mutating func count() throws(JSONError) -> Int {
    _ = peek()
    let start = at
    let text = try number()
    guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let value = Int(text) else {
      throw error("expected a whole number from 0 to \(Int.max), found \(quoted(text))", at: start)
    }
    return value
  }

  /// Reads a number and returns it as it is spelled.
  package mutating func number() throws(JSONError) -> String {
    _ = peek()
    let start = at
    func isDigit(_ at: Int) -> Bool { at < bytes.count && (0x30...0x39).contains(bytes[at]) }
    for word in ["NaN", "Infinity", "-Infinity"] where takeWord(word) {
      guard allowsNonFinite else { throw error("\(word) is not a JSON number", at: start) }
      return word
    }
    if at < bytes.count, bytes[at] == UInt8(ascii: "-") { at += 1 }
    guard isDigit(at) else {
      at = start
      throw error("expected a value, found \(found())")
    }
    if bytes[at] == UInt8(ascii: "0") {
      at += 1
    } else {
      while isDigit(at) { at += 1 }
    }
    if isDigit(at) { throw error("a number with a leading zero", at: start) }
    if at < bytes.count, bytes[at] == UInt8(ascii: ".") {
      at += 1
      guard isDigit(at) else { throw error("a number that ends in its point", at: start) }
      while isDigit(at) { at += 1 }
    }
    if at < bytes.count, bytes[at] | 0x20 == UInt8(ascii: "e") {
      at += 1
      if at < bytes.count, bytes[at] == UInt8(ascii: "+") || bytes[at] == UInt8(ascii: "-") { at += 1 }
      guard isDigit(at) else { throw error("a number without its exponent", at: start) }
      while isDigit(at) { at += 1 }
    }
    guard at - start <= 400 else { throw error("a number of \(at - start) characters", at: start) }
    return String(decoding: UnsafeRawBufferPointer(rebasing: bytes[start..<at]), as: UTF8.self)
  }

  /// Takes `true`, `false`, `null` or another bare word if it comes next.
  package mutating func takeWord(_ word: String) -> Bool {
    _ = peek()
    let length = word.utf8.count
    guard bytes.count - at >= length, bytes[at..<at + length].elementsEqual(word.utf8) else { return false }
    at += length
    return true
  }

  /// Reads a string.
  package mutating func string() throws(JSONError) -> String {
    try expect(UInt8(ascii: "\""))
    let start = at
    while at < bytes.count, bytes[at] != UInt8(ascii: "\""), bytes[at] != UInt8(ascii: "\\"), bytes[at] >= 0x20 {
      at += 1
    }
    if at < bytes.count, bytes[at] == UInt8(ascii: "\"") {
      let text = String(validating: bytes[start..<at], as: UTF8.self)
      guard let text else { throw error("a string that is not UTF-8", at: start) }
      at += 1
      return text
    }
    at = start
    return try escapedString(start)
  }

  private mutating func escapedString(_ start: Int) throws(JSONError) -> String {
    var units = [UInt8]()
    while at < bytes.count {
      let run = at
      while at < bytes.count, bytes[at] != UInt8(ascii: "\""), bytes[at] != UInt8(ascii: "\\"), bytes[at] >= 0x20 { at += 1 }
      units.append(contentsOf: bytes[run..<at])
      guard at < bytes.count else { break }
      let byte = bytes[at]
      at += 1
      switch byte {
      case UInt8(ascii: "\""):
        guard let text = String(validating: units, as: UTF8.self) else {
          throw error("a string that is not UTF-8", at: start)
        }
        return text
      case UInt8(ascii: "\\"): try escape(to: &units)
      default: throw error("a control character in a string", at: at - 1)
      }
    }
    throw error("a string without its end", at: start)
  }

  private mutating func escape(to units: inout [UInt8]) throws(JSONError) {
    guard at < bytes.count else { throw error("a string without its end") }
    let byte = bytes[at]
    at += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): units.append(byte)
    case UInt8(ascii: "b"): units.append(0x08)
    case UInt8(ascii: "f"): units.append(0x0C)
    case UInt8(ascii: "n"): units.append(0x0A)
    case UInt8(ascii: "r"): units.append(0x0D)
    case UInt8(ascii: "t"): units.append(0x09)
    case UInt8(ascii: "u"):
      var value = try hexUnit()
      if (0xD800..<0xDC00).contains(value) {
        guard at + 1 < bytes.count, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") else {
          throw error("half a surrogate pair")
        }
        at += 2
        let low = try hexUnit()
        guard (0xDC00..<0xE000).contains(low) else { throw error("half a surrogate pair") }
        value = 0x10000 + (value - 0xD800) << 10 + (low - 0xDC00)
      }
      guard let scalar = Unicode.Scalar(value) else { throw error("half a surrogate pair") }
      units.append(contentsOf: UTF8.encode(scalar) ?? .encodedReplacementCharacter)
    default: throw error("an unknown escape in a string", at: at - 1)
    }
  }

  private mutating func hexUnit() throws(JSONError) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<4 {
      guard at < bytes.count, let digit = Self.hexDigit(bytes[at]) else { throw error("a \\u escape without four hexadecimal digits") }
      value = value << 4 | digit
      at += 1
    }
    return value
  }

  private static func hexDigit(_ byte: UInt8) -> UInt32? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt32(byte - UInt8(ascii: "a")) + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): UInt32(byte - UInt8(ascii: "A")) + 10
    default: nil
    }
  }
}
