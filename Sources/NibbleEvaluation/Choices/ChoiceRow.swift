import NibbleCore

/// A row with a question, in the shapes that data sets of choices have.
struct ChoiceRow {
  let row: JSON
  let place: String

  func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: place): \(reason)") }

  /// A text, under the first of these keys that is there.
  func text(_ keys: String...) throws -> String {
    for key in keys {
      if let text = row[key]?.string { return text }
      if row[key] != nil { throw fail("\(key: key) is no text") }
    }
    throw fail("a row without \(keys.map(quoted).joined(separator: " or "))")
  }

  /// `choices`: a list of texts, or an object whose `text` is one.
  func choices() throws -> [String] {
    guard let list = row["choices"]?.array ?? row["choices"]?["text"]?.array else { throw fail("a row without a list 'choices'") }
    return try checked(list.map(\.string))
  }

  /// The texts under these keys.
  func choices(_ keys: String...) throws -> [String] { try checked(keys.map { row[$0]?.string }, keys) }

  private func checked(_ texts: [String?], _ keys: [String] = ["choices"]) throws -> [String] {
    guard texts.count >= 2, !texts.contains(nil) else { throw fail("\(keys.map(quoted).joined(separator: ", ")) are not two texts or more") }
    return texts.compactMap { $0 }
  }

  /// The number of the right choice: a number from `first` on, a letter, or the label that `choices` gives it.
  func answer(_ count: Int, from first: Int = 0) throws -> Int {
    let keys = ["answer", "answerKey", "label", "gold"]
    guard let key = keys.first(where: { row[$0] != nil && row[$0] != .null }), let value = row[key] else {
      throw fail("a row without \(keys.map(quoted).joined(separator: " or "))")
    }
    let labels = row["choices"]?["label"]?.array?.map(\.string) ?? []
    let said = value.string.map { trimmed($0) }
    let number = value.int.map { $0 - first }
      ?? said.flatMap { said in
        labels.firstIndex(of: said) ?? Int(said).map { $0 - first } ?? Self.letter(said)
      }
    guard let number, (0..<count).contains(number) else {
      throw fail("\(key: key) \(value.text()) is none of the \(count) choices")
    }
    return number
  }

  private static func letter(_ text: String) -> Int? {
    let scalars = Array(text.unicodeScalars)
    guard scalars.count == 1, ("A"..."Z").contains(scalars[0]) else { return nil }
    return Int(scalars[0].value) - 65
  }
}

/// A text without the white space around it, as Python strips it.
func trimmed(_ text: String) -> String {
  var scalars = Substring(text).unicodeScalars
  while let first = scalars.first, first.isPythonSpace { scalars.removeFirst() }
  while let last = scalars.last, last.isPythonSpace { scalars.removeLast() }
  return String(scalars)
}
