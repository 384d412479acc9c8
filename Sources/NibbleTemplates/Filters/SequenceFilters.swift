/// Filters on sequences.
enum SequenceFilters {
  static let all: [Text: Filters.Filter] = [
    "list": { value, arguments, renderer in
      _ = try arguments.bound("list", [])
      return try .list(of: value.collected(renderer.budget))
    },
    "first": { value, arguments, renderer in
      _ = try arguments.bound("first", [])
      return try value.elements()() ?? .undefined(Undefined("No first item, sequence was empty."))
    },
    "last": { value, arguments, renderer in
      _ = try arguments.bound("last", [])
      if case .object(let object) = value, object is Generator || (object as? DictView) == nil && object.length == nil {
        throw TemplateError(.type, "'\(value.typeName)' object is not reversible")
      }
      return try value.collected(renderer.budget).last ?? .undefined(Undefined("No last item, sequence was empty."))
    },
    "random": Filters.refused("'random' is not supported: a template's text must be the same every time"),
    "join": { value, arguments, renderer in
      let given = try arguments.bound("join", ["d", "attribute"])
      let separator = try given[0]?.str(renderer.budget) ?? ""
      let path = AttributePath(given[1] ?? .none)
      var out = Text(), isFirst = true
      let next = try value.elements()
      while let item = try next() {
        try renderer.budget.spend()
        if !isFirst { out += separator }
        isFirst = false
        out += try path.value(in: item, renderer).str(renderer.budget)
        guard out.count <= Limits.text else { break }
      }
      try renderer.budget.spendText(out.count)
      return .text(out)
    },
    "reverse": { value, arguments, renderer in
      _ = try arguments.bound("reverse", [])
      if case .text(let text) = value { return .text(Text(text.scalars.reversed())) }
      let items = try value.collected(renderer.budget)
      // What cannot be gone through backwards comes as a list.
      if case .object(let object) = value, object is Generator { return try .list(of: items.reversed()) }
      return try generator(value, items.reversed())
    },
    "items": { value, arguments, renderer in
      _ = try arguments.bound("items", [])
      if value.isUndefined { return try generator(value, []) }
      guard case .dict(let dict) = value else { throw TemplateError(.type, "can only get item pairs from a mapping") }
      return try generator(value, dict.pairs.map { try .tuple(of: [$0.key, $0.value]) })
    },
    "batch": { value, arguments, renderer in
      let given = try arguments.bound("batch", ["linecount", "fill_with"], required: 1)
      let count = try given[0]?.wholeNumber("linecount") ?? 0
      var rows: [[Value]] = [], row: [Value] = []
      for item in try value.collected(renderer.budget) {
        if row.count == count {
          rows.append(row)
          row = []
        }
        row.append(item)
      }
      if !row.isEmpty {
        if let fill = given[1], !fill.isNone, row.count < count {
          try renderer.budget.spendRepeated(1, times: count, isText: false)
          row += [Value](repeating: fill, count: count - row.count)
        }
        rows.append(row)
      }
      return try generator(value, rows.map { try .list(of: $0) })
    },
    "slice": { value, arguments, renderer in
      let given = try arguments.bound("slice", ["slices", "fill_with"], required: 1)
      let items = try value.collected(renderer.budget), slices = try given[0]?.wholeNumber("slices") ?? 0
      guard slices != 0 else { throw TemplateError(.arithmetic, "integer division or modulo by zero") }
      try renderer.budget.spendRepeated(1, times: slices, isText: false)
      let (each, longer) = items.count.quotientAndRemainder(dividingBy: max(1, slices))
      var rows: [Value] = [], at = 0
      for number in 0..<max(0, slices) {
        let end = at + each + (number < longer ? 1 : 0)
        var row = Array(items[at..<end])
        if let fill = given[1], !fill.isNone, number >= longer { row.append(fill) }
        rows.append(try .list(of: row))
        at = end
      }
      return try generator(value, rows)
    },
    "sort": { value, arguments, renderer in
      let given = try arguments.bound("sort", ["reverse", "case_sensitive", "attribute"])
      let paths = AttributePath.list(given[2] ?? .none), heedsCase = given[1]?.isTrue ?? false
      let items = try value.collected(renderer.budget).map { item in
        (key: try paths.map { try key($0, item, heedsCase, renderer) }, item: item)
      }
      try renderer.budget.spend(items.count * 16)
      return try .list(of: Sorting.sorted(items, descending: given[0]?.isTrue ?? false, areLists: true))
    },
    "dictsort": { value, arguments, renderer in
      let given = try arguments.bound("dictsort", ["case_sensitive", "by", "reverse"])
      let by = try given[1]?.onlyText("by") ?? "key"
      guard by == "key" || by == "value" else { throw TemplateError(.value, "you can only sort by either \"key\" or \"value\"") }
      if case .undefined(let undefined) = value { throw undefined.error }
      guard case .dict(let dict) = value else { throw TemplateError(.type, "'\(value.typeName)' object has no attribute 'items'") }
      let heedsCase = given[0]?.isTrue ?? false
      try renderer.budget.spend(dict.count * 16)
      let items = dict.pairs.map { pair in
        (key: [heedsCase ? (by == "key" ? pair.key : pair.value) : Sorting.ignoringCase(by == "key" ? pair.key : pair.value)], item: pair)
      }
      return try .list(of: Sorting.sorted(items, descending: given[2]?.isTrue ?? false).map { try .tuple(of: [$0.key, $0.value]) })
    },
    "unique": { value, arguments, renderer in
      let given = try arguments.bound("unique", ["case_sensitive", "attribute"])
      let path = AttributePath(given[1] ?? .none), heedsCase = given[0]?.isTrue ?? false
      let next = try value.elements()
      var seen = Set<Key>()
      return .object(
        try Generator(over: value) {
          while let item = try next() {
            try renderer.budget.spend()
            if seen.insert(try Key(key(path, item, heedsCase, renderer))).inserted { return item }
          }
          return nil
        })
    },
    "groupby": { value, arguments, renderer in
      let given = try arguments.bound("groupby", ["attribute", "default", "case_sensitive"], required: 1)
      let path = AttributePath(given[0] ?? .none), heedsCase = given[2]?.isTrue ?? false
      let fallback = given[1].flatMap { $0.isNone ? nil : $0 }
      func plain(_ item: Value) throws -> Value { try path.value(in: item, renderer, fallback: fallback) }
      func own(_ item: Value) throws -> Value { heedsCase ? try plain(item) : Sorting.ignoringCase(try plain(item)) }
      let items = try value.collected(renderer.budget).map { (key: [try own($0)], item: $0) }
      try renderer.budget.spend(items.count * 16)
      var groups: [(key: Value, items: [Value])] = []
      for item in try Sorting.sorted(items) {
        let key = try own(item)
        if let last = groups.indices.last, try groups[last].key.isEqual(to: key) {
          groups[last].items.append(item)
        } else {
          groups.append((key, [item]))
        }
      }
      return try .list(of: groups.map { .object(try Group(heedsCase ? $0.key : plain($0.items[0]), .list(of: $0.items))) })
    },
    "min": { value, arguments, renderer in try extreme(value, arguments, renderer, "min") { try $0.isLess(than: $1) } },
    "max": { value, arguments, renderer in try extreme(value, arguments, renderer, "max") { try $1.isLess(than: $0) } },
    "sum": { value, arguments, renderer in
      let given = try arguments.bound("sum", ["attribute", "start"])
      let path = AttributePath(given[0] ?? .none)
      var sum = given[1] ?? .int(0)
      if case .text = sum { throw TemplateError(.type, "sum() can't sum strings [use ''.join(seq) instead]") }
      for item in try value.collected(renderer.budget) { sum = try Operator.add(sum, path.value(in: item, renderer), renderer) }
      return sum
    },
  ]

  private static func key(_ path: AttributePath, _ item: Value, _ heedsCase: Bool, _ renderer: Renderer) throws -> Value {
    let value = try path.value(in: item, renderer)
    return heedsCase ? value : Sorting.ignoringCase(value)
  }

  static func generator(_ source: Value, _ items: [Value]) throws -> Value {
    var at = 0
    return .object(
      try Generator(over: .list(of: items)) {
        guard at < items.count else { return nil }
        defer { at += 1 }
        return items[at]
      })
  }

  private static func extreme(
    _ value: Value, _ arguments: Arguments, _ renderer: Renderer, _ name: String, _ isBetter: (Value, Value) throws -> Bool
  ) throws -> Value {
    let given = try arguments.bound(name, ["case_sensitive", "attribute"])
    let path = AttributePath(given[1] ?? .none), heedsCase = given[0]?.isTrue ?? false
    var best: (key: Value, item: Value)?
    for item in try value.collected(renderer.budget) {
      let key = try key(path, item, heedsCase, renderer)
      if let found = best, try !isBetter(key, found.key) { continue }
      best = (key, item)
    }
    return best?.item ?? .undefined(Undefined("No aggregated item, sequence was empty."))
  }
}

extension Value {
  var isNone: Bool { if case .none = self { true } else { false } }
}

/// What `groupby` gives: a pair with names for its parts.
final class Group: Object {
  private let pair: List
  init(_ grouper: Value, _ items: Value) throws { pair = try List([grouper, items]) }
  override var typeName: String { "tuple" }
  override var depth: Int { pair.depth }
  override var length: Int? { 2 }
  override func describe() throws -> Text { try Value.tuple(pair).repr(Budget()) }
  override func attribute(_ name: Text, _ renderer: Renderer) -> Value? { name == "grouper" ? pair.items[0] : name == "list" ? pair.items[1] : nil }
  override func item(_ key: Value) throws -> Value {
    guard let index = key.index, (-2..<2).contains(index) else { throw TemplateError(.lookup, "tuple index out of range") }
    return pair.items[index < 0 ? index + 2 : index]
  }
  override func elements() throws -> Elements? { try Value.tuple(pair).elements() }
}
