/// The words of a text as the COCO caption scorer has them: cut as in the Penn Treebank, in small letters, without punctuation.
enum PTBTokens {
  static func cut(_ text: String) -> [String] { spaced(text.lowercased()) }

  /// Words that stand apart already.
  static func spaced(_ text: String) -> [String] { ScalarText(text).words(between: \.isPythonSpace) }
}
