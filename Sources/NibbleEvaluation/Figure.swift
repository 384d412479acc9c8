/// What a task says of a model: a number with its interval, which can be compared with another model's on the same items.
public struct Figure: Sendable {
  /// For people.
  public let label: String
  /// In JSON.
  public let key: String
  public let score: CorpusScore

  public init(_ label: String, _ key: String, _ score: CorpusScore) { (self.label, self.key, self.score) = (label, key, score) }
}
