/// Python's `textwrap.wrap`, with white space kept as it is.
struct WordWrap {
  let width: Int
  let breaksWords: Bool
  let breaksHyphens: Bool

  /// - Throws: a value error for a width without room
  func lines(_ text: Text) throws -> [Text] {
    guard width > 0 else { throw TemplateError(.value, "invalid width \(width) (must be > 0)") }
    var chunks = chunks(text)[...]
    var lines: [Text] = []
    while !chunks.isEmpty {
      var line: [Text] = [], length = 0
      if !lines.isEmpty, let first = chunks.first, first.trimmed.isEmpty { chunks.removeFirst() }
      while let next = chunks.first, length + next.count <= width {
        line.append(next)
        length += next.count
        chunks.removeFirst()
      }
      if let next = chunks.first, next.count > width {
        // None may be left: then an empty piece ends the line, and what stands before it keeps its space.
        let room = width - length
        if breaksWords {
          var end = room
          if breaksHyphens, next.count > room, let hyphen = next[0..<room].findLast("-"), hyphen > 0,
            next.scalars[..<hyphen].contains(where: { $0 != "-" })
          {
            end = hyphen + 1
          }
          line.append(next[0..<end])
          chunks[chunks.startIndex] = next[end..<next.count]
        } else if line.isEmpty {
          line.append(next)
          chunks.removeFirst()
        }
      }
      if let last = line.last, last.trimmed.isEmpty { line.removeLast() }
      if !line.isEmpty { lines.append(line.reduce(into: Text()) { $0 += $1 }) }
    }
    return lines
  }

  /// Words, the white space between them, and words cut behind hyphens between letters.
  private func chunks(_ text: Text) -> [Text] {
    var chunks: [Text] = [], start = 0
    func isSpace(_ scalar: Unicode.Scalar) -> Bool { ["\t", "\n", "\u{B}", "\u{C}", "\r", " "].contains(scalar) }
    for index in 1..<max(1, text.count) {
      let before = text.scalars[index - 1], here = text.scalars[index]
      var isEnd = isSpace(before) != isSpace(here)
      if breaksHyphens, before == "-", index - start > 2, here.isPythonAlpha, index + 1 < text.count,
        text.scalars[index - 2].isPythonAlpha, text.scalars[index - 3].isPythonAlpha || index - start > 3
      {
        isEnd = isEnd || text.scalars[index + 1].isPythonWord
      }
      if isEnd {
        chunks.append(text[start..<index])
        start = index
      }
    }
    return start < text.count ? chunks + [text[start..<text.count]] : chunks
  }
}
