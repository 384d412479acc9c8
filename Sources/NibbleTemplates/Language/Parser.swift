/// Turns tokens into a syntax tree, by the grammar of Jinja's own parser.
struct Parser {
  private let tokens: [Token]
  private var at = 0
  private var depth = 0
  /// Loops around the current place, within the same macro.
  var loops = 0
  /// For each macro around the current place, which of the names that its call may bring it speaks of.
  var macroNames: [Set<Text>] = []
  var blocks: Set<Text> = []

  init(_ tokens: [Token]) { self.tokens = tokens }

  /// - Throws: a syntax error with its line
  static func parse(_ tokens: [Token]) throws -> [Statement] {
    var parser = Parser(tokens)
    let body = try parser.body(until: [])
    try Checker.check(body)
    return body
  }

  // MARK: Tokens

  var current: Token { tokens[at] }
  var following: Token { tokens[min(at + 1, tokens.count - 1)] }

  @discardableResult
  mutating func next() -> Token {
    defer { if at < tokens.count - 1 { at += 1 } }
    return tokens[at]
  }

  mutating func skip(operator spelling: Text) -> Bool {
    guard current.isOperator(spelling) else { return false }
    next()
    return true
  }

  mutating func skip(name: Text) -> Bool {
    guard current.isName(name) else { return false }
    next()
    return true
  }

  @discardableResult
  mutating func expect(operator spelling: Text) throws -> Token {
    guard current.isOperator(spelling) else { throw unexpected("'\(spelling.string)'") }
    return next()
  }

  @discardableResult
  mutating func expect(_ kind: Token.Kind, _ what: String) throws -> Token {
    guard current.kind == kind else { throw unexpected(what) }
    return next()
  }

  mutating func expect(name: Text) throws {
    guard current.isName(name) else { throw unexpected("'\(name.string)'") }
    next()
  }

  func unexpected(_ wanted: String) -> TemplateError { fail("expected \(wanted), found \(found)") }

  var found: String {
    switch current.kind {
    case .name, .integer, .float, .op: "'\(current.text.string)'"
    default: current.description
    }
  }

  func fail(_ message: String, line: Int? = nil) -> TemplateError { TemplateError(.syntax, message, line: line ?? current.line) }

  /// Runs `body` one level deeper.
  mutating func nested<R>(_ body: (inout Parser) throws -> R) throws -> R {
    depth += 1
    defer { depth -= 1 }
    guard depth <= Limits.nesting else {
      throw TemplateError(.limit, "more than \(Limits.nesting) brackets, operators and tags open at a time", line: current.line)
    }
    return try body(&self)
  }

  // MARK: Bodies

  /// Statements up to a tag of `ends`, which becomes the current token, or up to the end of the template.
  mutating func body(until ends: [Text]) throws -> [Statement] {
    var body: [Statement] = []
    while true {
      let token = current
      switch token.kind {
      case .data:
        next()
        body.append(Statement(kind: .data(token.text), line: token.line))
      case .variableBegin:
        next()
        let value = try tuple()
        try expect(.variableEnd, "end of print statement")
        body.append(Statement(kind: .print([value]), line: token.line))
      case .blockBegin:
        next()
        if current.kind == .name, ends.contains(current.text) { return body }
        body.append(try nested { try $0.statement(ends) })
        try expect(.blockEnd, "end of statement block")
      case .end:
        guard ends.isEmpty else {
          throw fail("the template ends where one of \(ends.map { "'\($0.string)'" }.joined(separator: ", ")) is due")
        }
        return body
      default: throw fail("unexpected \(found)")
      }
    }
  }

  /// The rest of a tag, and what follows up to a tag of `ends`.
  mutating func block(until ends: [Text]) throws -> [Statement] {
    _ = skip(operator: ":")
    try expect(.blockEnd, "end of statement block")
    return try body(until: ends)
  }

  /// The same, and past the name of the tag that ends it.
  mutating func block(through end: Text) throws -> [Statement] {
    let body = try block(until: [end])
    next()
    return body
  }
}
