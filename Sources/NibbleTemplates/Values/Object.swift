/// A value with a class of its own. What a subclass does not say, it does not do.
class Object {
  var typeName: String { "object" }
  /// Levels of values within it.
  var depth: Int { 0 }
  var isTrue: Bool { true }
  var isCallable: Bool { false }
  /// Its number of elements, where it has one.
  var length: Int? { nil }

  /// What `str` and `repr` give.
  func describe() throws -> Text { Text("<\(typeName) object>") }
  /// What stands behind a dot; nil for what it has not.
  func attribute(_ name: Text, _ renderer: Renderer) throws -> Value? { nil }
  /// What stands in brackets.
  func item(_ key: Value) throws -> Value { throw TemplateError(.type, "'\(typeName)' object is not subscriptable") }
  func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    throw TemplateError(.type, "'\(typeName)' object is not callable")
  }
  /// Its elements one after another; nil for what cannot be iterated.
  func elements() throws -> Elements? { nil }
  func isEqual(to other: Object) throws -> Bool { self === other }
  func contains(_ value: Value) throws -> Bool? { nil }
}

/// Gives the next element; nil after the last.
typealias Elements = () throws -> Value?

/// What Python calls a generator: its elements come once.
final class Generator: Object {
  private let next: Elements
  private let sourceDepth: Int

  /// - Parameter source: what its elements come from
  /// - Throws: a limit, for generators over generators too deep
  init(over source: Value, _ next: @escaping Elements) throws {
    self.next = next
    sourceDepth = try Limits.depth(around: [source])
  }

  override var typeName: String { "generator" }
  override var depth: Int { sourceDepth }
  override func elements() -> Elements? { next }
}

/// A method or a global function.
final class Function: Object {
  let name: String
  private let owner: Value
  private let body: (Arguments, Renderer) throws -> Value

  init(_ name: String, of owner: Value = .none, _ body: @escaping (Arguments, Renderer) throws -> Value) {
    (self.name, self.owner, self.body) = (name, owner, body)
  }

  override var typeName: String { "builtin_function_or_method" }
  override var depth: Int { owner.depth + 1 }
  override var isCallable: Bool { true }
  override func describe() -> Text { Text("<function \(name)>") }
  override func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value { try body(arguments, renderer) }
}

/// `range(…)`.
final class NumberRange: Object {
  let start: Int, step: Int
  let count: Int

  /// - Throws: a step of zero, more elements than the sandbox allows
  init(_ start: Int, _ end: Int, _ step: Int) throws {
    guard step != 0 else { throw TemplateError(.value, "range() arg 3 must not be zero") }
    let (span, hasOverflown) = step > 0 ? end.subtractingReportingOverflow(start) : start.subtractingReportingOverflow(end)
    let stride = step.magnitude
    let count = span <= 0 && !hasOverflown ? 0 : hasOverflown ? UInt.max : (UInt(span) - 1) / stride + 1
    guard count <= UInt(Limits.range) else {
      throw TemplateError(.limit, "a range of more than \(Limits.range) numbers")
    }
    (self.start, self.step, self.count) = (start, step, Int(count))
  }

  private init(start: Int, step: Int, count: Int) { (self.start, self.step, self.count) = (start, step, count) }

  override var typeName: String { "range" }
  override var isTrue: Bool { count > 0 }
  override var length: Int? { count }
  var end: Int { start &+ step &* count }
  /// A range's own end is not always a multiple of its step away, and `repr` shows it.
  var shownEnd: Int?

  override func describe() -> Text {
    let end = shownEnd ?? self.end
    return Text(step == 1 ? "range(\(start), \(end))" : "range(\(start), \(end), \(step))")
  }
  subscript(index: Int) -> Value { .int(start &+ step &* index) }
  override func item(_ key: Value) throws -> Value {
    guard let index = key.index else { throw TemplateError(.type, "range indices must be integers or slices, not \(key.typeName)") }
    let at = index < 0 ? index &+ count : index
    guard (0..<count).contains(at) else { throw TemplateError(.lookup, "range object index out of range") }
    return self[at]
  }
  /// The elements at these places, which follow each other by `step`.
  func slice(_ slice: Slice) -> NumberRange {
    let places = slice.places(of: count)
    let first = places.first.map { start &+ step &* $0 } ?? start &+ step &* slice.firstPlace(of: count)
    return NumberRange(start: first, step: step &* slice.step, count: places.count)
  }
  override func elements() -> Elements? {
    var at = 0
    return { [self] in
      guard at < count else { return nil }
      defer { at += 1 }
      return self[at]
    }
  }
  override func isEqual(to other: Object) -> Bool {
    guard let other = other as? NumberRange, count == other.count else { return false }
    return count == 0 || start == other.start && (count == 1 || step == other.step)
  }
  override func contains(_ value: Value) -> Bool? {
    let whole: Int? = if case .float(let number) = value { Int(exactly: number) } else { value.index }
    guard let whole, count > 0 else { return false }
    let (offset, hasOverflown) = whole.subtractingReportingOverflow(start)
    guard !hasOverflown, offset % step == 0 else { return false }
    return (0..<count).contains(offset / step)
  }
}
