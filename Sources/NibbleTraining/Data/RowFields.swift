import NibbleCore

/// The values of a row of training data. What is missing or no good is an error that names the row's place.
struct RowFields {
  let json: JSON
  let place: String

  /// - Throws: `.badInput` for a row that is no JSON object
  init(_ row: JSON, place: String) throws {
    (json, self.place) = (row, place)
    guard row.members != nil else { throw fail("a row is no JSON object") }
  }

  func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: place): \(reason)") }

  func has(_ key: String) -> Bool { json[key] != nil }

  /// - Throws: `.badInput` for a value that is no text, or none
  func text(_ key: String) throws -> String {
    guard let text = try textIfAny(key) else { throw fail("\(key: key) is missing") }
    return text
  }

  /// - Returns: nil for a value that is missing or null
  /// - Throws: `.badInput` for any other that is no text
  func textIfAny(_ key: String) throws -> String? {
    guard let value = json[key], value != .null else { return nil }
    guard let text = value.string else { throw fail("\(key: key) is not a text") }
    return text
  }

  /// - Throws: `.badInput` for a value that is no list of whole numbers, or none
  func numbers(_ key: String) throws -> [Int] {
    guard let numbers = try numbersIfAny(key) else { throw fail("\(key: key) is missing") }
    return numbers
  }

  /// - Returns: nil for a value that is missing or null
  /// - Throws: `.badInput` for any other that is no list of whole numbers
  func numbersIfAny(_ key: String) throws -> [Int]? {
    guard let value = json[key], value != .null else { return nil }
    guard let list = value.array?.map(\.int), !list.contains(nil) else { throw fail("\(key: key) is not a list of whole numbers") }
    return list.compactMap { $0 }
  }

  /// A label for each of `count` tokens or words.
  func check(labels: Int, of count: Int, _ things: MessageText) throws {
    guard labels == count else { throw fail("labels has \(labels) entries for \(count) \(things)") }
  }

  /// Of a row with the keys of no kind.
  func fitsNoKind(_ kinds: MessageText) -> NibbleError {
    guard json.members?.isEmpty == false else { return fail("a row without keys is no kind of row\(kinds)") }
    return fail("keys \((json.members ?? []).map(\.key).sorted().map(quoted).joined(separator: ", ")) fit no kind of row\(kinds)")
  }
}
