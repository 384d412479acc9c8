import NibbleCore

/// Texts that a model wrote, each with the references it is judged by.
public struct ReferencedTexts: Sendable {
  public let predictions: [String]
  /// At least one a prediction.
  public let references: [[String]]

  /// - Throws: `.badInput` for no texts, for counts that differ, and for a text without a reference
  public init(_ predictions: [String], references: [[String]]) throws {
    guard predictions.count == references.count else {
      throw NibbleError.badInput("\(predictions.count) texts, but references for \(references.count)")
    }
    guard !predictions.isEmpty else { throw NibbleError.badInput("there are no texts to score") }
    if let place = references.firstIndex(where: \.isEmpty) {
      throw NibbleError.badInput("text \(place + 1) has no reference to be compared with")
    }
    (self.predictions, self.references) = (predictions, references)
  }

  private init(_ predictions: [String], _ references: [[String]]) { (self.predictions, self.references) = (predictions, references) }

  public var count: Int { predictions.count }

  /// The same texts written otherwise.
  func mapped(_ write: (String) -> String) -> ReferencedTexts {
    ReferencedTexts(predictions.map(write), references.map { $0.map(write) })
  }

  /// The same texts cut into words, equal words having equal numbers.
  func tokens(_ cut: (String) -> [String]) -> (predictions: [[Int]], references: [[[Int]]]) {
    var numbers: [ByteName: Int] = [:]
    func words(_ text: String) -> [Int] {
      cut(text).map { word in
        let next = numbers.count
        return numbers.own(ByteName(word), orNew: next)
      }
    }
    return (predictions.map(words), references.map { $0.map(words) })
  }
}

extension Dictionary {
  /// The value of `key`, which becomes `new` where it had none.
  mutating func own(_ key: Key, orNew new: Value) -> Value {
    if let own = self[key] { return own }
    self[key] = new
    return new
  }
}
