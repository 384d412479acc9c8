import NibbleCore

/// Reads a list of labels out of what a model wrote, against the labels there are.
///
/// Labels may have commas and slashes in them ("Obfuscation, Intentional vagueness, Confusion"), so the text is not split blindly: at
/// its beginning and behind each comma or line end, the longest label that stands there whole is taken. What is no label is passed over
/// up to the next comma. Case counts, runs of white space are one space.
public struct LabelList: Sendable {
  /// The known labels, by number.
  public let labels: [String]
  /// As they are compared, the longest first.
  private let known: [(text: [Unicode.Scalar], label: Int)]

  /// - Throws: `.badInput` for no labels, an empty one, and two that are the same
  public init(_ labels: [String]) throws {
    guard !labels.isEmpty else { throw NibbleError.badInput("the list of labels is empty") }
    var seen: [[Unicode.Scalar]: Int] = [:]
    for (label, text) in labels.map(Self.folded).enumerated() {
      guard !text.isEmpty else { throw NibbleError.badInput("label \(label + 1) of the list is empty") }
      if let first = seen.updateValue(label, forKey: text) {
        throw NibbleError.badInput("labels \(first + 1) and \(label + 1) of the list are the same: \(quoted(labels[label]))")
      }
    }
    self.labels = labels
    known = seen.map { ($0.key, $0.value) }.sorted { $0.text.count > $1.text.count }
  }

  /// The number of each label that `text` lists, and what it lists that is none.
  public func read(_ text: String) -> (labels: Set<Int>, unknown: [String]) {
    let text = Self.folded(text)
    var found: Set<Int> = []
    var unknown: [String] = []
    var at = 0
    while at < text.count {
      if text[at] == " " || text[at] == "," {
        at += 1
      } else if let (label, end) = label(text, at: at) {
        found.insert(label)
        at = end
      } else {
        let end = text[at...].firstIndex(of: ",") ?? text.count
        unknown.append(String(taking: text[at..<end]))
        at = end
      }
    }
    return (found, unknown)
  }

  /// The longest label at a place that ends with the text or before a comma.
  private func label(_ text: [Unicode.Scalar], at start: Int) -> (label: Int, end: Int)? {
    for (name, label) in known where text[start...].starts(with: name) {
      let end = start + name.count
      if end == text.count || text[end] == "," { return (label, end) }
    }
    return nil
  }

  /// Line ends as commas; white space as single spaces, none at the ends and around commas.
  private static func folded(_ text: String) -> [Unicode.Scalar] {
    var folded: [Unicode.Scalar] = []
    var space = false
    for scalar in text.unicodeScalars {
      let scalar = scalar == "\n" ? "," : scalar
      if scalar.isPythonSpace { space = true; continue }
      if space, let last = folded.last, last != ",", scalar != "," { folded.append(" ") }
      space = false
      folded.append(scalar)
    }
    return folded
  }
}
