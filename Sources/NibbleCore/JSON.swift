/// A JSON value that keeps the order of keys and the spelling of numbers, so that a configuration comes
/// out as it went in.
public enum JSON: Sendable, Equatable {
  case null
  case bool(Bool)
  /// A number as it is spelled.
  case number(String)
  case string(String)
  case array([JSON])
  case object([(key: String, value: JSON)])

  public static func == (a: JSON, b: JSON) -> Bool {
    switch (a, b) {
    case (.null, .null): true
    case (.bool(let x), .bool(let y)): x == y
    case (.number(let x), .number(let y)): x == y
    case (.string(let x), .string(let y)): ByteName(x) == ByteName(y)
    case (.array(let x), .array(let y)): x == y
    case (.object(let x), .object(let y)):
      x.count == y.count && zip(x, y).allSatisfy { ByteName($0.key) == ByteName($1.key) && $0.value == $1.value }
    default: false
    }
  }

  /// Parses a whole text; Python's `NaN` and `Infinity` are accepted as numbers.
  public static func parse(_ bytes: [UInt8]) throws(JSONError) -> JSON { try parse(bytes, allowsNonFinite: true) }

  /// Parses a whole text.
  public static func parse(_ text: String) throws(JSONError) -> JSON { try parse(Array(text.utf8)) }

  package static func parse(_ bytes: [UInt8], allowsNonFinite: Bool) throws(JSONError) -> JSON {
    try parse(bytes[...], allowsNonFinite: allowsNonFinite)
  }

  package static func parse(_ bytes: ArraySlice<UInt8>, allowsNonFinite: Bool) throws(JSONError) -> JSON {
    try bytes.withUnsafeBufferPointer { buffer throws(JSONError) in
      var reader = JSONReader(UnsafeRawBufferPointer(buffer), allowsNonFinite: allowsNonFinite)
      let value = try JSON(reading: &reader)
      try reader.end()
      return value
    }
  }

  package init(reading reader: inout JSONReader) throws(JSONError) {
    switch reader.peek() {
    case UInt8(ascii: "{"):
      var members: [(key: String, value: JSON)] = []
      try reader.object { reader, key throws(JSONError) in
        members.append((key, try JSON(reading: &reader)))
      }
      self = .object(members)
    case UInt8(ascii: "["):
      var elements: [JSON] = []
      try reader.array { reader throws(JSONError) in elements.append(try JSON(reading: &reader)) }
      self = .array(elements)
    case UInt8(ascii: "\""): self = .string(try reader.string())
    case UInt8(ascii: "t") where reader.takeWord("true"): self = .bool(true)
    case UInt8(ascii: "f") where reader.takeWord("false"): self = .bool(false)
    case UInt8(ascii: "n") where reader.takeWord("null"): self = .null
    default: self = .number(try reader.number())
    }
  }

  /// The value of `key`, nil if this is no object or has no such key.
  public subscript(key: String) -> JSON? {
    guard case .object(let members) = self else { return nil }
    return members.first { ByteName($0.key) == ByteName(key) }?.value
  }

  /// The text of a string, nil for anything else; and so on for the other kinds.
  public var string: String? { if case .string(let text) = self { text } else { nil } }
  /// The value of `true` or `false`.
  public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
  /// A number that is whole and fits.
  public var int: Int? { if case .number(let text) = self { Int(text) } else { nil } }
  /// A number, to the nearest Double.
  public var double: Double? { if case .number(let text) = self { Double(text) } else { nil } }
  /// The elements of an array.
  public var array: [JSON]? { if case .array(let elements) = self { elements } else { nil } }
  /// The members of an object, in order.
  public var members: [(key: String, value: JSON)]? { if case .object(let members) = self { members } else { nil } }

  /// This object with `key` set to `value`, in its old place or at the end.
  public func setting(_ key: String, to value: JSON) -> JSON {
    guard case .object(var members) = self else { return self }
    if let index = members.firstIndex(where: { ByteName($0.key) == ByteName(key) }) {
      members[index].value = value
    } else {
      members.append((key, value))
    }
    return .object(members)
  }

  /// This object without `key`.
  public func removing(_ key: String) -> JSON {
    guard case .object(let members) = self else { return self }
    return .object(members.filter { ByteName($0.key) != ByteName(key) })
  }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  public init(stringLiteral text: String) { self = .string(text) }
  public init(integerLiteral value: Int) { self = .number(String(value)) }
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  public init(arrayLiteral elements: JSON...) { self = .array(elements) }
  public init(dictionaryLiteral members: (String, JSON)...) { self = .object(members.map { ($0.0, $0.1) }) }

  /// A whole number; and so on for the other kinds.
  public init(_ value: Int) { self = .number(String(value)) }
  public init(_ value: UInt64) { self = .number(String(value)) }
  /// The shortest decimal that reads back as `value`; null for NaN and infinities, which JSON cannot say.
  public init(_ value: Double) { self = value.isFinite ? .number("\(value)") : .null }
  public init(_ text: String) { self = .string(text) }
  public init(_ text: String?) { self = text.map { .string($0) } ?? .null }
  public init(_ elements: [String]) { self = .array(elements.map { .string($0) }) }
  public init(_ elements: [Int]) { self = .array(elements.map { JSON($0) }) }
}
