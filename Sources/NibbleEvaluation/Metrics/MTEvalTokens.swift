/// The words of a text as mteval-v13a's tokenizer for Western languages cuts them, in small letters: punctuation and symbols apart,
/// except an apostrophe, a hyphen that follows no digit, and a period or comma between digits.
///
/// An empty text is one empty word, as it is in the E2E challenge's Python port.
enum MTEvalTokens {
  static func cut(_ text: String) -> [String] {
    var text = ScalarText(text)
    // Line ends and entities of the files that the original reads.
    text.replace("<skipped>", "")
    text.replace("-\n", "")
    text.replace("\n", " ")
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] { text.replace(entity, character) }
    text = ScalarText(" " + text.string + " ")
    text.replace(isSymbol) { [" ", $0, " "] }
    text.replace({ !$0.isDigit }, isPoint) { [$0, " ", $1, " "] }
    text.replace(isPoint, { !$0.isDigit }) { [" ", $0, " ", $1] }
    text.replace(\.isDigit, { $0 == "-" }) { [$0, " ", $1, " "] }
    let words = text.words(between: \.isPythonSpace).map { $0.lowercased() }
    return words.isEmpty ? [""] : words
  }

  private static func isPoint(_ scalar: Unicode.Scalar) -> Bool { scalar == "." || scalar == "," }

  /// ASCII's punctuation and symbols without apostrophe, hyphen, period and comma; the space is one of them.
  private static func isSymbol(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar {
    case "{"..."~", "["..."`", " "..."&", "("..."+", ":"..."@", "/": true
    default: false
    }
  }
}
