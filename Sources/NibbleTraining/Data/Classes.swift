import NibbleCore

/// The classes of a classifier, as rows of data name them, or the outputs of a regression.
public struct Classes: Sendable {
  public let count: Int
  /// What they are called; empty where they are numbers.
  public let names: [String]
  /// Whether a text may have several.
  public let areMany: Bool
  /// Whether the model estimates `count` numbers: there are no classes then.
  public let areNumbers: Bool
  private let numbers: [String: Int]

  public init(_ count: Int, names: [String] = [], areMany: Bool = false, areNumbers: Bool = false) {
    (self.count, self.names, self.areMany, self.areNumbers) = (count, names, areMany, areNumbers)
    numbers = Dictionary(names.enumerated().map { ($1, $0) }) { first, _ in first }
  }

  /// The class that a number or a name stands for; nil for others.
  func number(_ label: JSON) -> Int? {
    if let name = label.string { return numbers[name] }
    return label.int.flatMap { (0..<count).contains($0) ? $0 : nil }
  }

  /// Why a label stands for none.
  func unknown(_ label: JSON?) -> MessageText {
    let text: MessageText =
      "label \(label.map { $0.string.map(quoted) ?? $0.text() } ?? "missing: it") is none of the model's \(count) classes"
    guard label?.string != nil else { return text }
    if names.isEmpty { return text + ", which are numbers; \(.labels) names them" }
    return text + ": \(names.prefix(4).map(quoted).joined(separator: ", "))\(names.count > 4 ? ", …" : "")"
  }
}
