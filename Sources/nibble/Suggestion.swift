/// The name that a mistyped one was probably meant to be.
enum Suggestion {
  /// - Parameter names: the only candidates
  /// - Returns: the one name that is near enough, or that `word` abbreviates; nil where none is, or two are equally near
  static func of(_ word: String, among names: [String]) -> String? {
    let letters = word.drop { $0 == "-" }
    guard letters.count >= 2 else { return nil }
    let limit = letters.count <= 5 ? 1 : letters.count <= 11 ? 2 : 3
    // What a name begins with is an abbreviation: `--top` is nearer to `--stop`, and means `--top-k` or `--top-p`.
    let longer = names.filter { $0.hasPrefix(word) }
    if longer.count == 1, letters.count >= 3 { return longer[0] }
    let near = (longer.isEmpty ? names : longer).map { ($0, distance(word, $0)) }.filter { $0.1 <= limit }
    guard let least = near.map(\.1).min() else { return nil }
    let nearest = near.filter { $0.1 == least }
    return nearest.count == 1 ? nearest[0].0 : nil
  }

  /// The number of letters to insert, drop, replace or swap with their neighbour that lead from one word to the other.
  static func distance(_ a: String, _ b: String) -> Int {
    let (a, b) = (Array(a), Array(b))
    var rows = [Array(0...b.count)]
    for i in a.indices {
      var row = [i + 1]
      for j in b.indices {
        var least = min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (a[i] == b[j] ? 0 : 1))
        if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { least = min(least, rows[i - 1][j - 1] + 1) }
        row.append(least)
      }
      rows.append(row)
    }
    return rows[a.count][b.count]
  }
}
