/// `namespace(…)`: the one value that a template can change, from within loops too.
final class Namespace: Object {
  private var attributes: [(name: Text, value: Value)] = []
  private var deepest = 1

  /// - Throws: names that begin with an underscore, which transformers refuses
  init(_ attributes: [(name: Text, value: Value)], _ renderer: Renderer) throws {
    super.init()
    for (name, value) in attributes { try set(name, value) }
    renderer.keep(self)
  }

  override var typeName: String { "Namespace" }
  override var depth: Int { deepest }

  func set(_ name: Text, _ value: Value) throws {
    guard name.scalars.first != "_" else {
      throw TemplateError(.value, "a namespace cannot have the attribute '\(name.string)', which begins with an underscore")
    }
    deepest = max(deepest, try Limits.depth(around: [value]))
    if let index = attributes.firstIndex(where: { $0.name == name }) {
      attributes[index].value = value
    } else {
      attributes.append((name, value))
    }
  }

  func clear() { attributes = [] }

  override func attribute(_ name: Text, _ renderer: Renderer) -> Value? { attributes.first { $0.name == name }?.value }

  override func describe() throws -> Text {
    // A namespace may hold itself, and its text would have no end.
    guard !isDescribing else { throw TemplateError(.limit, "a namespace that holds itself has no text") }
    isDescribing = true
    defer { isDescribing = false }
    let dict = try Dict(attributes.map { (.text($0.name), $0.value) })
    return Text("<Namespace ") + (try Value.dict(dict).repr(Budget())) + ">"
  }
  private var isDescribing = false
}

/// `cycler(…)`: its values in turn.
final class Cycler: Object {
  private let items: [Value]
  private let itemDepth: Int
  private var at = 0

  init(_ items: [Value]) throws {
    guard !items.isEmpty else { throw TemplateError(.type, "at least one item has to be provided") }
    self.items = items
    itemDepth = try Limits.depth(around: items)
  }

  override var typeName: String { "Cycler" }
  override var depth: Int { itemDepth }

  override func attribute(_ name: Text, _ renderer: Renderer) throws -> Value? {
    switch name.string {
    case "current": return items[at]
    case "items": return try .tuple(of: items)
    case "pos": return .int(at)
    case "next":
      return .object(
        Function("next") { [self] _, _ in
          defer { at = (at + 1) % items.count }
          return items[at]
        })
    case "reset":
      return .object(
        Function("reset") { [self] _, _ in
          at = 0
          return .none
        })
    default: return nil
    }
  }
}

/// `joiner(…)`: nothing at first, then always its separator.
final class Joiner: Object {
  private let separator: Value
  private var isUsed = false
  init(_ separator: Value) { self.separator = separator }
  override var typeName: String { "Joiner" }
  override var depth: Int { separator.depth + 1 }
  override var isCallable: Bool { true }
  override func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    _ = try arguments.bound("joiner", [])
    defer { isUsed = true }
    return isUsed ? separator : .text("")
  }
}
