/// The filters of Jinja: what stands behind `|`.
enum Filters {
  typealias Filter = @Sendable (Value, Arguments, Renderer) throws -> Value

  private static let all: [Text: Filter] = TextFilters.all.merging(SequenceFilters.all) { a, _ in a }
    .merging(SelectingFilters.all) { a, _ in a }.merging(NumberFilters.all) { a, _ in a }
    .merging(ValueFilters.all) { a, _ in a }.merging(MarkupFilters.all) { a, _ in a }

  static func exists(_ name: Text) -> Bool { all[name] != nil }

  static func apply(_ name: Text, _ value: Value, _ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    guard let filter = all[name] else { throw TemplateError(.value, "no filter named '\(name.string)'") }
    return try filter(value, arguments, renderer)
  }

  /// A filter that is refused by name.
  static func refused(_ reason: String) -> Filter { { _, _, _ in throw TemplateError(.value, reason) } }
}

/// Filters on any value.
enum ValueFilters {
  static let all: [Text: Filters.Filter] = [
    "default": fallback, "d": fallback,
    "string": { value, arguments, renderer in
      _ = try arguments.bound("string", [])
      return .text(try value.str(renderer.budget))
    },
    "length": length, "count": length,
    "attr": { value, arguments, renderer in
      let name = try arguments.bound("attr", ["name"], required: 1)[0]?.onlyText("attribute name") ?? ""
      return try renderer.ownAttribute(of: value, name) ?? .undefined(Undefined(value, .text(name)))
    },
    "tojson": { value, arguments, renderer in
      let given = try arguments.bound("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])
      return .text(try JSONText(ensureASCII: given[0], indent: given[1], separators: given[2], sortKeys: given[3], renderer.budget).text(value))
    },
    "pprint": { value, arguments, renderer in
      // Wider values are laid out over lines, which no chat template asks for.
      let text = try value.sortedByKeys().repr(renderer.budget)
      guard text.count <= 80 else { throw TemplateError(.value, "'pprint' of more than 80 columns is not supported") }
      return .text(text)
    },
  ]

  private static let fallback: Filters.Filter = { value, arguments, _ in
    let given = try arguments.bound("default", ["default_value", "boolean"])
    let takes = value.isUndefined || (given[1]?.isTrue ?? false) && !value.isTrue
    return takes ? given[0] ?? .text("") : value
  }

  private static let length: Filters.Filter = { value, arguments, _ in
    _ = try arguments.bound("len", [])
    return .int(try value.length())
  }
}

extension Value {
  /// With the members of all dictionaries in the order of their keys, as `pprint` shows them.
  fileprivate func sortedByKeys() throws -> Value {
    switch self {
    case .list(let list): return try .list(of: list.items.map { try $0.sortedByKeys() })
    case .tuple(let list): return try .tuple(of: list.items.map { try $0.sortedByKeys() })
    case .dict(let dict):
      let pairs = try Sorting.sorted(dict.pairs.map { (key: [$0.key], item: $0) })
      return .dict(try Dict(pairs.map { ($0.key, try $0.value.sortedByKeys()) }))
    default: return self
    }
  }
}
