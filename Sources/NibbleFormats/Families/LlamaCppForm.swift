import NibbleCore

/// How the numbers of a tensor in llama.cpp's file come from those in Hugging Face's.
package enum LlamaCppForm: Equatable, Sendable {
  case same
  /// The two halves of each head, which are rotated together, lie row by row beside each other.
  case interleaved(heads: Int)
  /// Stored [in, out] in Hugging Face's file and [out, in] in llama.cpp's.
  case transposed
  /// The table lacks its first rows.
  case withoutFirst(rows: Int)
  /// One is added to each number.
  case plusOne
  /// Rows are heads of queries, keys and values by groups, parts[0] heads of queries and so on; in llama.cpp's file by kind.
  case gathered(groups: Int, parts: [Int])

  /// The order of bytes of a section with so many rows; nil for rows that no such heads have.
  static func gathered(_ groups: Int, _ parts: [Int], rows: Int, rowBytes: Int) -> SectionOrder? {
    let heads = groups.multipliedReportingOverflow(by: parts.reduce(0, +))
    guard groups > 0, !heads.overflow, heads.partialValue > 0, rows > 0, rows % heads.partialValue == 0 else { return nil }
    let head = rows / heads.partialValue * rowBytes
    return .gathered(.init(groups: groups, parts: parts.map { $0 * head }))
  }

  /// Whether so many rows are whole heads of two halves.
  package static func divides(rows: Int, heads: Int) -> Bool { heads > 0 && rows > 0 && rows % (2 * heads) == 0 }

  /// Where rows come from: entry i is the row of Hugging Face's tensor that is row i of llama.cpp's. nil for rows that no head divides.
  ///
  /// Row 2·j + h of a head is row j of its half h.
  package static func order(rows: Int, heads: Int) -> [Int]? {
    guard divides(rows: rows, heads: heads) else { return nil }
    let half = rows / heads / 2
    return (0..<rows).map { row in
      let (head, place) = row.quotientAndRemainder(dividingBy: 2 * half)
      return head * 2 * half + place % 2 * half + place / 2
    }
  }

  /// The way back: entry i is the row of llama.cpp's tensor that is row i of Hugging Face's.
  package static func orderBack(rows: Int, heads: Int) -> [Int]? {
    order(rows: rows, heads: heads).map { order in
      var back = [Int](repeating: 0, count: rows)
      for (row, from) in order.enumerated() { back[from] = row }
      return back
    }
  }
}
