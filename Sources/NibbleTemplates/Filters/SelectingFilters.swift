/// `map`, `select` and their kin. They work when their elements are asked for, as Python's generators do.
enum SelectingFilters {
  static let all: [Text: Filters.Filter] = [
    "map": map,
    "select": { try select($0, $1, $2, byAttribute: false, keeps: true) },
    "reject": { try select($0, $1, $2, byAttribute: false, keeps: false) },
    "selectattr": { try select($0, $1, $2, byAttribute: true, keeps: true) },
    "rejectattr": { try select($0, $1, $2, byAttribute: true, keeps: false) },
  ]

  /// A generator over `value`; nothing is looked at before the first element is asked for.
  private static func generator(
    _ value: Value, _ renderer: Renderer, _ prepare: @escaping () throws -> (Value) throws -> Value?
  ) throws -> Value {
    var next: Elements?, work: ((Value) throws -> Value?)?
    return .object(
      try Generator(over: value) {
        if next == nil {
          guard value.isTrue else {
            next = { nil }
            return nil
          }
          work = try prepare()
          next = try value.elements()
        }
        guard let next, let work else { return nil }
        while let item = try next() {
          try renderer.budget.spend()
          if let result = try work(item) { return result }
        }
        return nil
      })
  }

  private static let map: Filters.Filter = { value, arguments, renderer in
    try generator(value, renderer) {
      if arguments.positional.isEmpty, let attribute = arguments.named.first(where: { $0.name == "attribute" })?.value {
        if let extra = arguments.named.first(where: { $0.name != "attribute" && $0.name != "default" }) {
          throw TemplateError(.value, "unexpected keyword argument '\(extra.name.string)'")
        }
        let path = AttributePath(attribute)
        let fallback = arguments.named.first { $0.name == "default" }.flatMap { $0.value.isNone ? nil : $0.value }
        return { try path.value(in: $0, renderer, fallback: fallback) }
      }
      guard let name = arguments.positional.first else { throw TemplateError(.value, "map requires a filter argument") }
      let filter = try name.onlyText("a filter's name")
      let rest = Arguments(positional: Array(arguments.positional.dropFirst()), named: arguments.named)
      return { try Filters.apply(filter, $0, rest, renderer) }
    }
  }

  private static func select(
    _ value: Value, _ arguments: Arguments, _ renderer: Renderer, byAttribute: Bool, keeps: Bool
  ) throws -> Value {
    try generator(value, renderer) {
      var given = arguments.positional[...]
      var path: AttributePath?
      if byAttribute {
        guard let attribute = given.popFirst() else { throw TemplateError(.value, "missing parameter for attribute name") }
        path = AttributePath(attribute)
      }
      let test = given.popFirst()
      let rest = Arguments(positional: Array(given), named: arguments.named)
      return { item in
        let subject = try path?.value(in: item, renderer) ?? item
        let holds = try test.map { try Tests.holds($0.onlyText("a test's name"), subject, rest, renderer) } ?? subject.isTrue
        return holds == keeps ? item : nil
      }
    }
  }
}
