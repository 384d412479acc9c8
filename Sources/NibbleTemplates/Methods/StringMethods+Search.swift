/// Looking for parts of a string.
extension StringMethods {
  static let searches = table([
    search("find") { .int($0 ?? -1) } _: { $0.find($1, from: $2, to: $3) },
    search("rfind") { .int($0 ?? -1) } _: { $0.findLast($1, from: $2, to: $3) },
    search("index") { try found($0) } _: { $0.find($1, from: $2, to: $3) },
    search("rindex") { try found($0) } _: { $0.findLast($1, from: $2, to: $3) },
    positional("count", 1...3) { text, given, _ in
      let part = try given[0].onlyText("count()'s argument")
      let (start, end) = try bounds(given, text.count)
      return .int(start <= text.count ? text.occurrences(of: part, from: start, to: end) : 0)
    },
    affix("startswith") { text, part, start, end in start + part.count <= end && text.matches(part, at: start) },
    affix("endswith") { text, part, start, end in end - part.count >= start && text.matches(part, at: end - part.count) },
    positional("removeprefix", 1...1) { text, given, _ in
      let part = try given[0].onlyText("removeprefix()'s argument")
      return .text(text.hasPrefix(part) ? text[part.count..<text.count] : text)
    },
    positional("removesuffix", 1...1) { text, given, _ in
      let part = try given[0].onlyText("removesuffix()'s argument")
      return .text(!part.isEmpty && text.hasSuffix(part) ? text[0..<text.count - part.count] : text)
    },
    positional("replace", 2...3) { text, given, renderer in
      let old = try given[0].onlyText("replace()'s first argument"), new = try given[1].onlyText("replace()'s second argument")
      let limit = try given.count > 2 ? given[2].wholeNumber("replace()'s count") : -1
      return .text(try replaced(text, old, new, limit, renderer.budget))
    },
  ])

  /// Each `old` as `new`, the result's size checked before it is made. A limit below zero is none.
  static func replaced(_ text: Text, _ old: Text, _ new: Text, _ limit: Int, _ budget: Budget) throws -> Text {
    let limit = limit < 0 ? Int.max : limit
    if new.count > old.count {
      let found = min(limit, old.isEmpty ? text.count + 1 : text.occurrences(of: old))
      try budget.spendRepeated(new.count - old.count, times: found, isText: true)
    }
    try budget.spendText(text.count)
    return text.replacing(old, with: new, limit: limit)
  }

  private static func found(_ place: Int?) throws -> Value {
    guard let place else { throw TemplateError(.value, "substring not found") }
    return .int(place)
  }

  private static func bounds(_ given: [Value], _ count: Int) throws -> (start: Int, end: Int) {
    func bound(_ index: Int) throws -> Int? {
      guard index < given.count else { return nil }
      if case .none = given[index] { return nil }
      return try given[index].wholeNumber("a bound of a search")
    }
    return Slice(start: try bound(1), stop: try bound(2)).bounds(of: count)
  }

  private static func search(
    _ name: String, _ answer: @escaping @Sendable (Int?) throws -> Value,
    _ find: @escaping @Sendable (Text, Text, Int, Int) -> Int?
  ) -> (Text, Method) {
    positional(name, 1...3) { text, given, _ in
      let part = try given[0].onlyText("\(name)()'s argument")
      let (start, end) = try bounds(given, text.count)
      return try answer(start <= end ? find(text, part, start, end) : nil)
    }
  }

  private static func affix(_ name: String, _ holds: @escaping @Sendable (Text, Text, Int, Int) -> Bool) -> (Text, Method) {
    positional(name, 1...3) { text, given, _ in
      let (start, end) = try bounds(given, text.count)
      guard case .tuple(let list) = given[0] else {
        let part = try given[0].onlyText("\(name)'s first argument")
        return .bool(start <= text.count && holds(text, part, start, end))
      }
      let parts = try list.items.map { try $0.onlyText("\(name)'s first argument") }
      return .bool(start <= text.count && parts.contains { holds(text, $0, start, end) })
    }
  }
}
