/// What a template may use up. A template comes with a model from somewhere; it must neither hang nor fill memory.
enum Limits {
  /// Characters of a template's source.
  static let source = 4 << 20
  /// Operators and brackets from the root of an expression to its leaves.
  static let syntaxDepth = 250
  /// Brackets, unary operators and tags that are open at a time while a template is parsed.
  static let nesting = 100
  /// Values within values.
  static let valueDepth = 300
  /// Expressions and statements in evaluation at a time: macros that call themselves.
  static let callDepth = 3000
  /// Expressions evaluated and elements visited.
  static let steps = 10_000_000
  /// Characters of one text.
  static let text = 16 << 20
  /// Characters of all texts together, the intermediate ones too.
  static let allText = 1 << 28
  /// Numbers of a range, as in Jinja's sandbox.
  static let range = 100_000
  /// Digits after a point that a format may ask for, and columns of a field.
  static let field = 1 << 16

  /// The depth of a container of these values.
  ///
  /// - Throws: a limit
  static func depth(around values: [Value]) throws -> Int {
    var deepest = 0
    for value in values { deepest = max(deepest, value.depth) }
    guard deepest < valueDepth else { throw TemplateError(.limit, "values nested deeper than \(valueDepth) levels") }
    return deepest + 1
  }
}

/// What is left of the limits while a template is rendered.
final class Budget {
  private var steps = Limits.steps
  private var text = Limits.allText
  private(set) var depth = 0

  /// Takes `count` steps.
  func spend(_ count: Int = 1) throws {
    steps -= count
    if steps < 0 { throw TemplateError(.limit, "more than \(Limits.steps) steps") }
  }

  /// Takes a text of `count` characters that is about to be made.
  func spendText(_ count: Int) throws {
    guard count <= Limits.text else { throw TemplateError(.limit, "a text of more than \(Limits.text) characters") }
    text -= count
    if text < 0 { throw TemplateError(.limit, "texts of more than \(Limits.allText) characters together") }
  }

  /// Checks that `count` elements or characters, `times` times, stay within the limits, before they are made.
  func spendRepeated(_ count: Int, times: Int, isText: Bool) throws {
    let (total, hasOverflown) = max(0, times).multipliedReportingOverflow(by: count)
    guard !hasOverflown else { throw TemplateError(.limit, "a repetition of \(times) times") }
    if isText { try spendText(total) } else { try spend(total) }
  }

  func enter() throws {
    depth += 1
    if depth > Limits.callDepth { throw TemplateError(.limit, "calls nested deeper than \(Limits.callDepth) levels") }
  }

  func leave() { depth -= 1 }
}
