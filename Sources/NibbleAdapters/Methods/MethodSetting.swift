import NibbleCore

/// A number that a method's configuration gives its modules beside rank and scale, such as the size of groups. `KEY_pattern`, an object
/// like `rank_pattern`, gives some modules others.
package struct MethodSetting: Sendable {
  /// In `adapter_config.json`.
  package let key: String
  /// Where the configuration does not say; nil if it has to.
  package let standard: Double?
  let range: ClosedRange<Double>
  /// The words that stand for 0, 1, and so on; nil for whole numbers.
  let words: [String]?

  /// A whole number.
  package init(_ key: String, standard: Double? = nil, _ range: ClosedRange<Int>) {
    (self.key, self.standard, words) = (key, standard, nil)
    self.range = Double(range.lowerBound)...Double(range.upperBound)
  }

  /// One of some words.
  package init(_ key: String, standard: Double? = nil, words: [String]) {
    (self.key, self.standard, range, self.words) = (key, standard, 0...Double(max(words.count - 1, 0)), words)
  }

  /// The key of the object with other modules' numbers.
  package var patternKey: String { key + "_pattern" }

  /// Whether configurations that nibble writes leave out the number that is assumed: PEFT, which has no other, does not know the key.
  package var isImplied: Bool { words != nil }

  /// What the configuration says; nil for what it cannot say.
  package func number(_ json: JSON) -> Double? {
    if let words { return json.string.flatMap(words.firstIndex).map(Double.init) }
    guard let number = json.double, range.contains(number), number == number.rounded() else { return nil }
    return number
  }

  /// As the configuration has it.
  package func json(_ number: Double) -> JSON {
    if let words, words.indices.contains(Int(number)) { return JSON(words[Int(number)]) }
    return JSON(Int(number))
  }

  /// For messages: what is expected.
  package var expected: String {
    words.map { $0.joined(separator: " or ") } ?? "a whole number from \(Int(range.lowerBound)) to \(Int(range.upperBound))"
  }
}

/// The numbers of one module, by key.
package typealias MethodSettings = [String: Double]
