import NibbleCore
import NibbleEvaluation

/// A file of training data: rows as JSON Lines or as one JSON array, or a plain text.
public enum RowFile {
  /// One thing a file holds.
  public enum Item {
    /// A row; its keys tell what kind it is.
    case row(JSON)
    /// A text without a row around it, of any length.
    case text(String)
  }

  /// Calls `body` with each row, or each text of a `.txt` file, and its place.
  ///
  /// A text file is one text, or several divided by lines that say `<|endoftext|>`.
  ///
  /// - Throws: `.badInput` naming file and line
  public static func forEach(_ path: String, _ body: (Item, _ place: String) throws -> Void) throws {
    if path.lowercased().hasSuffix(".txt") {
      for document in try Documents(path).documents { try body(.text(document.text), document.place) }
    } else {
      try JSONLines.forEachRow(path, advice: advice) { try body(.row($0), $1) }
    }
  }

  private static let advice: MessageText = #"""
    ; a row is a JSON object on a line of its own, such as {"text": "…"} or {"prompt": "…", "completion": "…"}; plain text goes into a .txt file
    """#
}
