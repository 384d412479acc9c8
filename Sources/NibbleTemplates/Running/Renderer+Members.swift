/// What stands behind a dot and in brackets: Jinja looks for attributes first in one case, for elements first in the other.
extension Renderer {
  /// `owner.name`.
  func attribute(of owner: Value, _ name: Text) throws -> Value {
    if let found = try ownAttribute(of: owner, name) { return found }
    if case .dict(let dict) = owner, let value = dict[name] { return value }
    return .undefined(Undefined(owner, .text(name)))
  }

  /// `owner[key]`.
  func item(of owner: Value, _ key: Value) throws -> Value {
    if let found = try element(of: owner, key) { return found }
    if case .text(let name) = key, let found = try ownAttribute(of: owner, name) { return found }
    return .undefined(Undefined(owner, key))
  }

  private func element(of owner: Value, _ key: Value) throws -> Value? {
    func place(_ count: Int) -> Int? {
      guard let index = key.index else { return nil }
      let place = index < 0 ? index &+ count : index
      return (0..<count).contains(place) ? place : nil
    }
    switch owner {
    case .undefined(let undefined): throw undefined.error
    case .dict(let dict): return (try? dict.value(key)) ?? nil
    case .list(let list), .tuple(let list): return place(list.items.count).map { list.items[$0] }
    case .text(let text): return place(text.count).map { .text(Text([text.scalars[$0]])) }
    case .object(let object):
      do { return try object.item(key) } catch let error as TemplateError where error.kind == .type || error.kind == .lookup { return nil }
    default: return nil
    }
  }

  /// Methods and the like; nil for what the type has not.
  func ownAttribute(of owner: Value, _ name: Text) throws -> Value? {
    if case .undefined(let undefined) = owner { throw undefined.error }
    if case .object(let object) = owner { return try object.attribute(name, self) }
    if Self.unsafe[owner.typeName]?.contains(name) == true {
      return .undefined(Undefined("access to attribute '\(name.string)' of '\(owner.typeName)' object is unsafe."))
    }
    if owner.number != nil, let property = NumberMethods.properties[name] { return property(owner) }
    let method: Method? =
      switch owner {
      case .text: StringMethods.all[name]
      case .dict: CollectionMethods.ofDicts[name]
      case .list, .tuple: CollectionMethods.ofLists[name]
      case .int, .bool, .float: NumberMethods.all[name]
      default: nil
      }
    guard let method else { return nil }
    if case .float = owner, NumberMethods.onlyOfInts.contains(name) { return nil }
    if NumberMethods.onlyOfFloats.contains(name), owner.index != nil { return nil }
    return .object(Function(name.string, of: owner) { arguments, renderer in try method(owner, arguments, renderer) })
  }

  /// What the immutable sandbox does not give out.
  private static let unsafe: [String: Set<Text>] = [
    "list": ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"],
    "dict": ["clear", "pop", "popitem", "setdefault", "update"],
  ]
}

/// A method: what it is called on, and with what.
typealias Method = @Sendable (Value, Arguments, Renderer) throws -> Value
