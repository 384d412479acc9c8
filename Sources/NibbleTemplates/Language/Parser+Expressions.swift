extension Parser {
  mutating func expression(withConditional: Bool = true) throws -> Expression {
    try nested { try withConditional ? $0.conditionalExpression() : $0.or() }
  }

  private mutating func conditionalExpression() throws -> Expression {
    let line = current.line
    var value = try or()
    while skip(name: "if") {
      let test = try or()
      let otherwise = skip(name: "else") ? try nested { try $0.conditionalExpression() } : nil
      value = try Expression(.conditional(test: test, then: value, otherwise: otherwise), line: line)
    }
    return value
  }

  private mutating func or() throws -> Expression {
    var left = try and()
    while skip(name: "or") { left = try Expression(.or(left, try and()), line: left.line) }
    return left
  }

  private mutating func and() throws -> Expression {
    var left = try not()
    while skip(name: "and") { left = try Expression(.and(left, try not()), line: left.line) }
    return left
  }

  private mutating func not() throws -> Expression {
    guard current.isName("not") else { return try comparison() }
    let line = next().line
    return try Expression(.not(try nested { try $0.not() }), line: line)
  }

  private mutating func comparison() throws -> Expression {
    let first = try sum()
    var rest: [(sign: Comparison, Expression)] = []
    while true {
      if current.kind == .op, let sign = Comparison(rawValue: current.text.string) {
        next()
        rest.append((sign, try sum()))
      } else if skip(name: "in") {
        rest.append((.within, try sum()))
      } else if current.isName("not"), following.isName("in") {
        next()
        next()
        rest.append((.without, try sum()))
      } else {
        return rest.isEmpty ? first : try Expression(.comparison(first, rest), line: first.line)
      }
    }
  }

  private mutating func sum() throws -> Expression {
    var left = try concatenation()
    while current.isOperator("+") || current.isOperator("-") {
      let sign: Operator = next().text == "+" ? .add : .subtract
      left = try Expression(.arithmetic(sign, left, try concatenation()), line: left.line)
    }
    return left
  }

  private mutating func concatenation() throws -> Expression {
    var parts = [try product()]
    while skip(operator: "~") { parts.append(try product()) }
    return parts.count == 1 ? parts[0] : try Expression(.concatenation(parts), line: parts[0].line)
  }

  private mutating func product() throws -> Expression {
    var left = try power()
    while current.kind == .op, let sign = Operator(rawValue: current.text.string),
      [.multiply, .divide, .floorDivide, .modulo].contains(sign)
    {
      next()
      left = try Expression(.arithmetic(sign, left, try power()), line: left.line)
    }
    return left
  }

  private mutating func power() throws -> Expression {
    var left = try unary()
    while skip(operator: "**") { left = try Expression(.arithmetic(.power, left, try unary()), line: left.line) }
    return left
  }

  private mutating func unary(withFilters: Bool = true) throws -> Expression {
    let token = current
    var value: Expression
    if token.isOperator("-") || token.isOperator("+") {
      next()
      let operand = try nested { try $0.unary(withFilters: false) }
      value = try Expression(token.text == "-" ? .negative(operand) : .positive(operand), line: token.line)
    } else {
      value = try primary()
    }
    value = try postfix(value)
    return withFilters ? try filtered(value) : value
  }

  private mutating func primary() throws -> Expression {
    let token = current
    switch token.kind {
    case .name:
      next()
      return try Expression(name(token.text), line: token.line)
    case .string:
      var text = next().text
      while current.kind == .string { text += next().text }
      return try Expression(.constant(.text(text)), line: token.line)
    case .integer: return try Expression(.constant(.int(NumberToken.int(next().text, line: token.line))), line: token.line)
    case .float: return try Expression(.constant(.float(Double(next().text.string) ?? .infinity)), line: token.line)
    case .op where token.text == "(":
      next()
      let value = try nested { try $0.tuple(isInBrackets: true) }
      try expect(operator: ")")
      return value
    case .op where token.text == "[":
      next()
      return try Expression(.list(try list(until: "]")), line: token.line)
    case .op where token.text == "{":
      next()
      return try Expression(.dict(try dict()), line: token.line)
    default: throw fail("expected an expression, found \(found)")
    }
  }

  private mutating func name(_ name: Text) -> Expression.Kind {
    switch name {
    case "true", "True": return .constant(.bool(true))
    case "false", "False": return .constant(.bool(false))
    case "none", "None": return .constant(.none)
    default:
      if ["caller", "kwargs", "varargs"].contains(name) { for index in macroNames.indices { macroNames[index].insert(name) } }
      return .name(name)
    }
  }

  /// Expressions up to `end`, which is passed over.
  private mutating func list(until end: Text) throws -> [Expression] {
    var items: [Expression] = []
    while !current.isOperator(end) {
      if !items.isEmpty { try expect(operator: ",") }
      if current.isOperator(end) { break }
      items.append(try expression())
    }
    try expect(operator: end)
    return items
  }

  private mutating func dict() throws -> [(key: Expression, value: Expression)] {
    var pairs: [(key: Expression, value: Expression)] = []
    while !current.isOperator("}") {
      if !pairs.isEmpty { try expect(operator: ",") }
      if current.isOperator("}") { break }
      let key = try expression()
      try expect(operator: ":")
      pairs.append((key, try expression()))
    }
    next()
    return pairs
  }

  /// One expression, or several with commas, which make a tuple.
  mutating func tuple(withConditional: Bool = true, until end: Text? = nil, isInBrackets: Bool = false) throws -> Expression {
    let line = current.line
    var items: [Expression] = [], isTuple = false
    while true {
      if !items.isEmpty { try expect(operator: ",") }
      if [.variableEnd, .blockEnd].contains(current.kind) || current.isOperator(")") || end.map({ current.isName($0) }) == true { break }
      items.append(try expression(withConditional: withConditional))
      guard current.isOperator(",") else { break }
      isTuple = true
    }
    if !isTuple {
      if let only = items.first { return only }
      guard isInBrackets else { throw unexpected("an expression") }
    }
    return try Expression(.tuple(items), line: line)
  }

  // MARK: Behind an expression

  private mutating func postfix(_ value: Expression) throws -> Expression {
    var value = value
    while current.kind == .op {
      switch current.text {
      case ".": value = try member(of: value)
      case "[": value = try subscripted(value)
      case "(": value = try Expression(.call(value, try arguments()), line: value.line)
      default: return value
      }
    }
    return value
  }

  private mutating func member(of owner: Expression) throws -> Expression {
    next()
    let token = next()
    if token.kind == .name { return try Expression(.attribute(owner, token.text), line: token.line) }
    guard token.kind == .integer else { throw fail("expected a name or a number behind the dot", line: token.line) }
    let key = try Expression(.constant(.int(NumberToken.int(token.text, line: token.line))), line: token.line)
    return try Expression(.item(owner, key), line: token.line)
  }

  private mutating func subscripted(_ owner: Expression) throws -> Expression {
    let line = next().line
    var keys: [Expression] = []
    while !current.isOperator("]") {
      if !keys.isEmpty { try expect(operator: ",") }
      let start = current.isOperator(":") ? nil : try expression()
      guard current.isOperator(":") else {
        if let start { keys.append(start) }
        continue
      }
      next()
      func isEnd() -> Bool { current.isOperator("]") || current.isOperator(",") }
      let stop = current.isOperator(":") || isEnd() ? nil : try expression()
      let step = skip(operator: ":") && !isEnd() ? try expression() : nil
      guard keys.isEmpty, current.isOperator("]") else { throw fail("a slice among several subscripts") }
      next()
      return try Expression(.slice(owner, start: start, stop: stop, step: step), line: line)
    }
    next()
    let key = keys.count == 1 ? keys[0] : try Expression(.tuple(keys), line: line)
    return try Expression(.item(owner, key), line: line)
  }

  private mutating func filtered(_ value: Expression) throws -> Expression {
    var value = value
    while true {
      if current.isOperator("|") {
        value = try filters(on: value, isFirstInline: false)
      } else if current.isName("is") {
        value = try test(on: value)
      } else if current.isOperator("(") {
        value = try Expression(.call(value, try arguments()), line: value.line)
      } else {
        return value
      }
    }
  }

  /// Filters one after another.
  ///
  /// - Parameter isFirstInline: the first has no `|` before it
  mutating func filters(on input: Expression?, isFirstInline: Bool) throws -> Expression {
    var value = input, isInline = isFirstInline
    while isInline || current.isOperator("|") {
      if !isInline { next() }
      isInline = false
      let line = current.line
      let name = try dottedName("a filter's name")
      let arguments = current.isOperator("(") ? try arguments() : CallArguments()
      value = try Expression(.filter(value, name, arguments), line: line)
    }
    guard let value else { throw unexpected("a filter") }
    return value
  }

  private mutating func dottedName(_ what: String) throws -> Text {
    var name = try expect(.name, what).text
    while skip(operator: ".") { name += "." + (try expect(.name, what).text) }
    return name
  }

  private mutating func test(on input: Expression) throws -> Expression {
    let line = next().line
    let isNegated = skip(name: "not")
    let name = try dottedName("a test's name")
    var given = CallArguments()
    if current.isOperator("(") {
      given = try arguments()
    } else if isTestArgument {
      if current.isName("is") { throw fail("tests with 'is' cannot follow each other") }
      given.positional = [try postfix(try primary())]
    }
    let test = try Expression(.test(input, name, given), line: line)
    return isNegated ? try Expression(.not(test), line: line) : test
  }

  private var isTestArgument: Bool {
    switch current.kind {
    case .name: !["else", "or", "and"].contains(current.text)
    case .string, .integer, .float: true
    case .op: current.text == "[" || current.text == "{"
    default: false
    }
  }

  private mutating func arguments() throws -> CallArguments {
    let line = try expect(operator: "(").line
    var given = CallArguments(), isFirst = true
    func check(_ holds: Bool) throws { if !holds { throw fail("arguments of a call in an order Python does not allow", line: line) } }
    while !current.isOperator(")") {
      if !isFirst {
        try expect(operator: ",")
        if current.isOperator(")") { break }
      }
      isFirst = false
      if skip(operator: "*") {
        try check(given.spread == nil && given.namedSpread == nil)
        given.spread = try expression()
      } else if skip(operator: "**") {
        try check(given.namedSpread == nil)
        given.namedSpread = try expression()
      } else if current.kind == .name, following.isOperator("=") {
        try check(given.namedSpread == nil)
        let name = next().text
        next()
        try check(!given.named.contains { $0.name == name })
        given.named.append((name, try expression()))
      } else {
        try check(given.spread == nil && given.namedSpread == nil && given.named.isEmpty)
        given.positional.append(try expression())
      }
    }
    next()
    return given
  }
}
