/// The methods of lists, tuples and dictionaries that change nothing.
enum CollectionMethods {
  static let ofLists: [Text: Method] = [
    "count": { owner, arguments, renderer in
      let wanted = try arguments.onlyPositional("count", 1...1)[0]
      return .int(try items(owner, renderer).reduce(0) { try $0 + ($1.isEqual(to: wanted) ? 1 : 0) })
    },
    "index": { owner, arguments, renderer in
      let given = try arguments.onlyPositional("index", 1...3)
      let items = try items(owner, renderer)
      let bounds = Slice(
        start: try given.count > 1 ? given[1].wholeNumber("a bound") : nil, stop: try given.count > 2 ? given[2].wholeNumber("a bound") : nil
      ).bounds(of: items.count)
      for place in bounds.start..<max(bounds.start, bounds.end) where try items[place].isEqual(to: given[0]) { return .int(place) }
      throw TemplateError(.value, "the value is not in the list")
    },
    "copy": { owner, arguments, renderer in
      guard case .list = owner else { throw TemplateError(.type, "a tuple has no copy()") }
      return try .list(of: items(owner, renderer))
    },
  ]

  private static func items(_ owner: Value, _ renderer: Renderer) throws -> [Value] { try owner.collected(renderer.budget) }

  static let ofDicts: [Text: Method] = [
    "get": { owner, arguments, _ in
      let given = try arguments.onlyPositional("get", 1...2)
      guard case .dict(let dict) = owner else { return .none }
      return try dict.value(given[0]) ?? (given.count > 1 ? given[1] : .none)
    },
    "keys": { owner, arguments, _ in try view(owner, arguments, .keys) },
    "values": { owner, arguments, _ in try view(owner, arguments, .values) },
    "items": { owner, arguments, _ in try view(owner, arguments, .items) },
    "copy": { owner, arguments, _ in
      _ = try arguments.onlyPositional("copy", 0...0)
      guard case .dict(let dict) = owner else { return .none }
      return .dict(try Dict(dict.pairs.map { ($0.key, $0.value) }))
    },
    "fromkeys": { _, arguments, renderer in
      let given = try arguments.onlyPositional("fromkeys", 1...2)
      return .dict(try Dict(given[0].collected(renderer.budget).map { ($0, given.count > 1 ? given[1] : .none) }))
    },
  ]

  private static func view(_ owner: Value, _ arguments: Arguments, _ kind: DictView.Kind) throws -> Value {
    _ = try arguments.onlyPositional(kind.rawValue, 0...0)
    guard case .dict(let dict) = owner else { return .none }
    return .object(DictView(dict, kind))
  }
}

/// What `keys()`, `values()` and `items()` of a dictionary give.
final class DictView: Object {
  enum Kind: String { case keys, values, items }
  private let dict: Dict
  private let kind: Kind

  init(_ dict: Dict, _ kind: Kind) { (self.dict, self.kind) = (dict, kind) }

  override var typeName: String { "dict_\(kind.rawValue)" }
  override var depth: Int { dict.depth + 1 }
  override var isTrue: Bool { dict.count > 0 }
  override var length: Int? { dict.count }
  override func elements() throws -> Elements? {
    var at = 0
    return { [self] in
      guard at < dict.count else { return nil }
      defer { at += 1 }
      return try element(at)
    }
  }
  func element(_ at: Int) throws -> Value {
    switch kind {
    case .keys: dict.keys[at]
    case .values: dict.values[at]
    case .items: try .tuple(of: [dict.keys[at], dict.values[at]])
    }
  }
  override func describe() throws -> Text {
    let items = try (0..<dict.count).map { try element($0) }
    return Text("\(typeName)(") + (try Value.list(of: items).repr(Budget())) + ")"
  }
  override func contains(_ value: Value) throws -> Bool? { kind == .keys ? try dict.value(value) != nil : nil }
  override func isEqual(to other: Object) throws -> Bool {
    guard let other = other as? DictView, kind != .values, kind == other.kind, dict.count == other.dict.count else { return self === other }
    for (key, value) in dict.pairs {
      guard let theirs = try other.dict.value(key), try kind == .keys || value.isEqual(to: theirs) else { return false }
    }
    return true
  }
}
