import NibbleCore

/// How rows of a data set become questions. Each is that of EleutherAI's lm-evaluation-harness, so that figures compare.
public struct ChoiceStyle: Sendable {
  /// On the command line.
  public let name: String
  /// Keys that only rows of this kind have; none for a style that has to be named.
  let keys: Set<String>
  let read: @Sendable (ChoiceRow) throws -> ChoiceQuestion

  init(_ name: String, keys: Set<String> = [], _ read: @escaping @Sendable (ChoiceRow) throws -> ChoiceQuestion) {
    (self.name, self.keys, self.read) = (name, keys, read)
  }

  /// Every style; the first whose keys a row has is its own.
  public static let all: [ChoiceStyle] = [.mmlu, .hellaswag, .piqa, .winogrande, .boolq, .siqa, .openbookqa, .arc, .plain]

  public static func named(_ name: String) -> ChoiceStyle? { all.first { $0.name == name } }

  /// The style of rows like this one.
  ///
  /// - Throws: `.badInput` naming the keys of a row that is of none
  public static func of(_ row: JSON, place: String) throws -> ChoiceStyle {
    let keys = Set((row.members ?? []).map(\.key))
    guard let style = all.first(where: { !$0.keys.isEmpty && $0.keys.isSubset(of: keys) }) else {
      throw NibbleError.badInput(
        "\(path: place): keys \(keys.sorted().map(quoted).joined(separator: ", ")) fit no question with choices; \(.questionStyle) names one of \(all.map(\.name).joined(separator: ", "))")
    }
    return style
  }

  /// A row as a question.
  ///
  /// - Throws: `.badInput` naming the place, for keys that are missing and answers that are none of the choices
  public func question(_ row: JSON, place: String) throws -> ChoiceQuestion {
    let row = ChoiceRow(row: row, place: place)
    guard row.row.members != nil else { throw row.fail("a row is no JSON object") }
    return try read(row)
  }
}
