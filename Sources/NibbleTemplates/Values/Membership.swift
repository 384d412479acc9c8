/// Elements of a value, its length, and what is in it.
extension Value {
  /// Its elements one after another.
  ///
  /// - Throws: a type error for what cannot be iterated
  func elements() throws -> Elements {
    func over(_ count: Int, _ element: @escaping (Int) -> Value) -> Elements {
      var at = 0
      return {
        guard at < count else { return nil }
        defer { at += 1 }
        return element(at)
      }
    }
    switch self {
    case .undefined: return { nil }
    case .text(let text): return over(text.count) { .text(Text([text.scalars[$0]])) }
    case .list(let list), .tuple(let list): return over(list.items.count) { list.items[$0] }
    case .dict(let dict): return over(dict.count) { dict.keys[$0] }
    case .object(let object):
      if let elements = try object.elements() { return elements }
    default: break
    }
    throw TemplateError(.type, "'\(typeName)' object is not iterable")
  }

  /// All elements, counted as steps.
  func collected(_ budget: Budget) throws -> [Value] {
    if case .list(let list) = self {
      try budget.spend(list.items.count / 8)
      return list.items
    }
    var items: [Value] = []
    let next = try elements()
    while let item = try next() {
      try budget.spend()
      items.append(item)
    }
    return items
  }

  /// Python's `len`.
  func length() throws -> Int {
    switch self {
    case .undefined: return 0
    case .text(let text): return text.count
    case .list(let list), .tuple(let list): return list.items.count
    case .dict(let dict): return dict.count
    case .object(let object):
      if let length = object.length { return length }
    default: break
    }
    throw TemplateError(.type, "object of type '\(typeName)' has no len()")
  }

  /// Whether `len` knows it.
  var hasLength: Bool {
    switch self {
    case .undefined, .text, .list, .tuple, .dict: true
    case .object(let object): object.length != nil
    default: false
    }
  }

  /// Python's `value in self`.
  func contains(_ value: Value, _ budget: Budget) throws -> Bool {
    switch self {
    case .text(let text):
      guard case .text(let part) = value else {
        throw TemplateError(.type, "'in <string>' requires string as left operand, not \(value.typeName)")
      }
      return text.contains(part)
    case .dict(let dict): return try dict.value(value) != nil
    case .object(let object):
      if let answer = try object.contains(value) { return answer }
    default: break
    }
    guard let next = try? elements() else { throw TemplateError(.type, "argument of type '\(typeName)' is not iterable") }
    while let item = try next() {
      try budget.spend()
      if try item.isEqual(to: value) { return true }
    }
    return false
  }
}
