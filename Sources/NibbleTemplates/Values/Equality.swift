/// Python's `==` and `<`.
extension Value {
  func isEqual(to other: Value) throws -> Bool {
    switch (self, other) {
    case (.undefined, .undefined), (.none, .none): return true
    case (.text(let a), .text(let b)): return a == b
    case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)):
      guard a !== b else { return true }
      guard a.items.count == b.items.count else { return false }
      for (x, y) in zip(a.items, b.items) where try !x.isSame(as: y) { return false }
      return true
    case (.dict(let a), .dict(let b)):
      guard a !== b else { return true }
      guard a.count == b.count else { return false }
      for (key, value) in a.pairs {
        guard let theirs = try b.value(key), try value.isSame(as: theirs) else { return false }
      }
      return true
    case (.object(let a), .object(let b)): return try a.isEqual(to: b)
    default: return order(to: other) == .same
    }
  }

  /// Equality of elements: what is the same object is equal, NaN too.
  private func isSame(as other: Value) throws -> Bool { try isEqual(to: other) }

  enum Order { case less, same, greater, none }

  /// How two numbers compare, exactly; `none` for NaN and what is no number.
  private func order(to other: Value) -> Order {
    if let a = index, let b = other.index { return a < b ? .less : a == b ? .same : .greater }
    if case .float(let a) = self, case .float(let b) = other { return Self.order(a, b) }
    if let a = index, case .float(let b) = other { return Self.order(a, b) }
    if case .float(let a) = self, let b = other.index {
      switch Self.order(b, a) {
      case .less: return .greater
      case .greater: return .less
      case let order: return order
      }
    }
    return .none
  }

  private static func order(_ a: Double, _ b: Double) -> Order { a < b ? .less : a == b ? .same : a > b ? .greater : .none }

  /// An int's value may lie between two doubles.
  private static func order(_ a: Int, _ b: Double) -> Order {
    if b.isNaN { return .none }
    if b >= 0x1p63 { return .less }
    if b < -0x1p63 { return .greater }
    let whole = b.rounded(.towardZero)
    let limit = Int(whole)
    if a != limit { return a < limit ? .less : .greater }
    return b == whole ? .same : b > whole ? .less : .greater
  }

  /// Python's `<`.
  ///
  /// - Throws: a type error for what has no order
  func isLess(than other: Value) throws -> Bool {
    switch (self, other) {
    case (.undefined(let undefined), _), (_, .undefined(let undefined)): throw undefined.error
    case (.text(let a), .text(let b)): return a < b
    case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)):
      for (x, y) in zip(a.items, b.items) where try !x.isEqual(to: y) { return try x.isLess(than: y) }
      return a.items.count < b.items.count
    default:
      guard number != nil, other.number != nil else { throw Self.unordered("<", self, other) }
      return order(to: other) == .less
    }
  }

  /// Python's `<=`, which is not `not >` where NaN is.
  func isAtMost(_ other: Value) throws -> Bool {
    if number != nil, other.number != nil {
      let order = order(to: other)
      return order == .less || order == .same
    }
    guard typeName == other.typeName || isUndefined || other.isUndefined else { throw Self.unordered("<=", self, other) }
    return try !other.isLess(than: self)
  }

  private static func unordered(_ sign: String, _ a: Value, _ b: Value) -> TemplateError {
    TemplateError(.type, "'\(sign)' not supported between instances of '\(a.typeName)' and '\(b.typeName)'")
  }

  /// Python's `is`.
  func isIdentical(to other: Value) -> Bool {
    switch (self, other) {
    case (.none, .none): true
    case (.bool(let a), .bool(let b)): a == b
    case (.int(let a), .int(let b)): a == b
    case (.float(let a), .float(let b)): a == b
    case (.text(let a), .text(let b)): a == b
    case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)): a === b || a.items.isEmpty && b.items.isEmpty && isTuple
    case (.dict(let a), .dict(let b)): a === b
    case (.object(let a), .object(let b)): a === b
    default: false
    }
  }

  private var isTuple: Bool { if case .tuple = self { true } else { false } }
}
