import NibbleCore

/// Reads a model's configuration, so that nothing absurd and nothing unimplemented gets past it.
package struct ConfigReader: Sendable {
  package let json: JSON
  /// The file, and which part of it.
  package let place: MessageText

  package init(_ json: JSON, place: MessageText) {
    self.json = json
    self.place = place
  }

  /// The value of `key`, nil for none or null.
  package subscript(key: String) -> JSON? {
    guard let value = json[key], value != JSON.null else { return nil }
    return value
  }

  /// Whether `key` is there, be it null: where it is not, transformers takes a default that may be another than null's.
  package func says(_ key: String) -> Bool { json[key] != nil }

  package func fail(_ reason: MessageText) -> NibbleError { .badInput("\(place): \(reason)") }

  func wrong(_ key: String, _ value: JSON, _ expected: String) -> NibbleError {
    fail("\(key: key) is \(quoted(value.text())), expected \(expected)")
  }

  /// A whole number in `range`; `fallback` where the key is missing, an error if that is nil.
  package func int(_ key: String, _ range: ClosedRange<Int>, default fallback: Int? = nil) throws -> Int {
    guard let value = self[key] else {
      guard let fallback else { throw fail("\(key: key) is missing") }
      return fallback
    }
    guard let number = value.int, range.contains(number) else {
      throw wrong(key, value, "a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// The same under a family's own name or under the usual one, which comes first.
  package func int(_ key: String, or usual: String, _ range: ClosedRange<Int>, default fallback: Int) throws -> Int {
    try int(self[usual] == nil ? key : usual, range, default: fallback)
  }

  /// A finite number above `minimum`.
  package func double(_ key: String, above minimum: Double, default fallback: Double? = nil) throws -> Double {
    guard let value = self[key] else {
      guard let fallback else { throw fail("\(key: key) is missing") }
      return fallback
    }
    guard let number = value.double, number.isFinite, number > minimum else {
      throw wrong(key, value, "a number above \(minimum)")
    }
    return number
  }

  package func bool(_ key: String, default fallback: Bool) throws -> Bool {
    guard let value = self[key] else { return fallback }
    guard let flag = value.bool else { throw wrong(key, value, "true or false") }
    return flag
  }

  package func string(_ key: String) throws -> String? {
    guard let value = self[key] else { return nil }
    guard let text = value.string else { throw wrong(key, value, "a text") }
    return text
  }

  /// A part of the configuration, nil for none or null.
  package func object(_ key: String) throws -> ConfigReader? {
    guard let value = self[key] else { return nil }
    guard value.members != nil else { throw wrong(key, value, "an object") }
    return ConfigReader(value, place: "\(place): \(key)")
  }

  /// Refuses keys that ask for arithmetic this model family has no code for.
  ///
  /// - Parameter harmless: the values that ask for nothing
  package func refuse(_ keys: [String], unless harmless: [JSON] = [.bool(false)]) throws {
    for key in keys {
      guard let value = self[key], !harmless.contains(value) else { continue }
      throw fail("\(key: key) = \(quoted(value.text())) is not implemented")
    }
  }
}
