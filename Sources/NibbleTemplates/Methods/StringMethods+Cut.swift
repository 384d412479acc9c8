/// Cutting strings up and joining them.
extension StringMethods {
  static let cuts = table([
    strip("strip", start: true, end: true), strip("lstrip", start: true, end: false), strip("rstrip", start: false, end: true),
    (
      "split",
      { owner, arguments, renderer in
        try split("split", owner, arguments, renderer, { $0.words(limit: $1) }, { $0.split($1, limit: $2) })
      }
    ),
    (
      "rsplit",
      { owner, arguments, renderer in
        try split("rsplit", owner, arguments, renderer, { $0.wordsFromRight(limit: $1) }, { $0.splitFromRight($1, limit: $2) })
      }
    ),
    (
      "splitlines",
      { owner, arguments, renderer in
        let keeps = try arguments.bound("splitlines", ["keepends"])[0]?.isTrue ?? false
        guard let text = owner.text else { return .none }
        return try pieces(text.lines(keepingEnds: keeps), text, renderer)
      }
    ),
    positional("partition", 1...1) { text, given, renderer in
      let separator = try nonEmpty(given[0])
      guard let at = text.find(separator) else { return try .tuple(of: [.text(text), .text(""), .text("")]) }
      return try .tuple(of: [.text(text[0..<at]), .text(separator), .text(text[at + separator.count..<text.count])])
    },
    positional("rpartition", 1...1) { text, given, renderer in
      let separator = try nonEmpty(given[0])
      guard let at = text.findLast(separator) else { return try .tuple(of: [.text(""), .text(""), .text(text)]) }
      return try .tuple(of: [.text(text[0..<at]), .text(separator), .text(text[at + separator.count..<text.count])])
    },
    positional("join", 1...1) { separator, given, renderer in
      let parts = try given[0].collected(renderer.budget)
      var out = Text()
      for (index, part) in parts.enumerated() {
        guard let text = part.text else {
          throw TemplateError(.type, "sequence item \(index): expected str instance, \(part.typeName) found")
        }
        if index > 0 { out += separator }
        out += text
        guard out.count <= Limits.text else { break }
      }
      try renderer.budget.spendText(out.count)
      return .text(out)
    },
  ])

  private static func nonEmpty(_ value: Value) throws -> Text {
    let text = try value.onlyText("a separator")
    guard !text.isEmpty else { throw TemplateError(.value, "empty separator") }
    return text
  }

  private static func pieces(_ pieces: [Text], _ whole: Text, _ renderer: Renderer) throws -> Value {
    try renderer.budget.spend(pieces.count)
    try renderer.budget.spendText(whole.count)
    return try .list(of: pieces.map { .text($0) })
  }

  private static func strip(_ name: String, start: Bool, end: Bool) -> (Text, Method) {
    positional(name, 0...1) { text, given, renderer in
      try renderer.budget.spendText(text.count)
      guard let first = given.first else { return .text(text.trimmed(start: start, end: end) { $0.isPythonSpace }) }
      if case .none = first { return .text(text.trimmed(start: start, end: end) { $0.isPythonSpace }) }
      let cut = Set(try first.onlyText("\(name) arg").scalars)
      return .text(text.trimmed(start: start, end: end) { cut.contains($0) })
    }
  }

  private static func split(
    _ name: String, _ owner: Value, _ arguments: Arguments, _ renderer: Renderer, _ words: (Text, Int) -> [Text],
    _ parts: (Text, Text, Int) -> [Text]
  ) throws -> Value {
    let given = try arguments.bound(name, ["sep", "maxsplit"])
    guard let text = owner.text else { return .none }
    let most = try given[1]?.wholeNumber("maxsplit") ?? -1
    let limit = most < 0 ? Int.max : most
    if let separator = given[0] {
      if case .none = separator { return try pieces(words(text, limit), text, renderer) }
      return try pieces(parts(text, nonEmpty(separator), limit), text, renderer)
    }
    return try pieces(words(text, limit), text, renderer)
  }
}
