extension Parser {
  /// A tag, whose name is the current token. `ends` are the tags that would end the body around it.
  mutating func statement(_ ends: [Text]) throws -> Statement {
    let token = current
    guard token.kind == .name else { throw fail("expected the name of a tag, found \(found)") }
    next()
    return Statement(kind: try statement(named: token, ends), line: token.line)
  }

  private mutating func statement(named token: Token, _ ends: [Text]) throws -> Statement.Kind {
    switch token.text.string {
    case "if": return try conditional()
    case "for": return try loop()
    case "set": return try set()
    case "print": return try printTag()
    case "macro": return try macro()
    case "call": return try call()
    case "filter":
      let filter = try filters(on: nil, isFirstInline: true)
      return .filter(filter, body: try block(through: "endfilter"))
    case "with": return try with()
    case "block": return try blockTag()
    case "generation":
      let (body, used) = try macroBody { try $0.block(through: "endgeneration") }
      return .generation(MacroBody(name: "caller", parameters: [], defaults: [], body: body, used: used))
    case "break", "continue":
      guard loops > 0 else { throw fail("'\(token.text.string)' outside of a loop", line: token.line) }
      return token.text == "break" ? .breakLoop : .continueLoop
    case "autoescape":
      throw fail("'autoescape' is not supported: chat templates escape nothing", line: token.line)
    case "extends", "include", "import", "from":
      while current.kind != .blockEnd, current.kind != .end { next() }
      return .unsupported(token.text.string)
    default:
      let due = ends.isEmpty ? "" : "; due is one of \(ends.map { "'\($0.string)'" }.joined(separator: ", "))"
      throw fail("unknown tag '\(token.text.string)'\(due)", line: token.line)
    }
  }

  private mutating func conditional() throws -> Statement.Kind {
    var branches: [(test: Expression, body: [Statement])] = []
    while true {
      let test = try tuple(withConditional: false)
      branches.append((test, try block(until: ["elif", "else", "endif"])))
      let end = next()
      if end.text == "elif" { continue }
      let otherwise = end.text == "else" ? try block(through: "endif") : []
      return .conditional(branches, otherwise: otherwise)
    }
  }

  private mutating func loop() throws -> Statement.Kind {
    let target = try target(until: "in")
    try expect(name: "in")
    let source = try tuple(withConditional: false, until: "recursive")
    let test = skip(name: "if") ? try expression() : nil
    let isRecursive = skip(name: "recursive")
    if case .name("loop") = target { throw fail("a loop's variable cannot be named 'loop'") }
    loops += 1
    let body = try block(until: ["endfor", "else"])
    loops -= 1
    let otherwise = next().text == "else" ? try block(through: "endfor") : []
    return .loop(Loop(target, source, test: test, isRecursive: isRecursive, body: body, otherwise: otherwise))
  }

  private mutating func set() throws -> Statement.Kind {
    let target = try target(until: nil, withNamespace: true)
    if skip(operator: "=") { return .set(target, try tuple()) }
    let filter = current.isOperator("|") ? try filters(on: nil, isFirstInline: false) : nil
    return .setBlock(target, filter: filter, body: try block(through: "endset"))
  }

  private mutating func printTag() throws -> Statement.Kind {
    var values: [Expression] = []
    while current.kind != .blockEnd {
      if !values.isEmpty { try expect(operator: ",") }
      values.append(try expression())
    }
    return .print(values)
  }

  private mutating func with() throws -> Statement.Kind {
    var values: [(target: Target, value: Expression)] = []
    while current.kind != .blockEnd {
      if !values.isEmpty { try expect(operator: ",") }
      let target = try target(until: nil)
      try expect(operator: "=")
      values.append((target, try expression()))
    }
    return .with(values, body: try block(through: "endwith"))
  }

  private mutating func blockTag() throws -> Statement.Kind {
    let name = try expect(.name, "a block's name").text
    let isScoped = skip(name: "scoped")
    _ = skip(name: "required")
    guard blocks.insert(name).inserted else { throw fail("block '\(name.string)' defined twice") }
    let outer = loops
    loops = 0
    let body = try block(through: "endblock")
    loops = outer
    _ = skip(name: name)
    return .block(body: body, isScoped: isScoped)
  }

  // MARK: Macros

  private mutating func macro() throws -> Statement.Kind {
    let name = try targetName()
    let (parameters, defaults) = try signature()
    let (body, used) = try macroBody { try $0.block(through: "endmacro") }
    return .macro(try MacroBody(name: name, parameters: parameters, defaults: defaults, body: body, used: checked(used, parameters, defaults)))
  }

  private mutating func call() throws -> Statement.Kind {
    let line = current.line
    let (parameters, defaults) = current.isOperator("(") ? try signature() : ([], [])
    let call = try expression()
    guard case .call = call.kind else { throw fail("expected a call", line: line) }
    let (body, used) = try macroBody { try $0.block(through: "endcall") }
    let caller = try MacroBody(
      name: "caller", parameters: parameters, defaults: defaults, body: body, used: checked(used, parameters, defaults))
    return .call(caller, call)
  }

  private func checked(_ used: Set<Text>, _ parameters: [Text], _ defaults: [Expression]) throws -> Set<Text> {
    if used.contains("caller"), let index = parameters.firstIndex(of: "caller"), index < parameters.count - defaults.count {
      throw fail("a parameter named 'caller' needs a default")
    }
    guard Set(parameters).count == parameters.count else { throw fail("a macro with two parameters of one name") }
    return used.subtracting(parameters)
  }

  private mutating func signature() throws -> ([Text], [Expression]) {
    var parameters: [Text] = [], defaults: [Expression] = []
    try expect(operator: "(")
    while !current.isOperator(")") {
      if !parameters.isEmpty { try expect(operator: ",") }
      let name = try targetName()
      if skip(operator: "=") {
        defaults.append(try expression())
      } else if !defaults.isEmpty {
        throw fail("a parameter without a default behind one with a default")
      }
      parameters.append(name)
    }
    next()
    return (parameters, defaults)
  }

  /// The body of a macro, and which of `caller`, `kwargs` and `varargs` it speaks of.
  private mutating func macroBody(_ parse: (inout Parser) throws -> [Statement]) throws -> ([Statement], Set<Text>) {
    let outer = loops
    loops = 0
    macroNames.append([])
    let body = try parse(&self)
    loops = outer
    return (body, macroNames.removeLast())
  }

  // MARK: Targets

  private static let constants: Set<Text> = ["true", "false", "none", "True", "False", "None"]

  private mutating func targetName() throws -> Text {
    let name = try expect(.name, "a name").text
    guard !Self.constants.contains(name) else { throw fail("'\(name.string)' cannot be assigned to") }
    return name
  }

  /// What is assigned to, with or without brackets around tuples.
  mutating func target(until end: Text?, withNamespace: Bool = false) throws -> Target {
    func isEnd(_ parser: Parser) -> Bool {
      [.variableEnd, .blockEnd].contains(parser.current.kind) || parser.current.isOperator(")") || end.map { parser.current.isName($0) } == true
    }
    var targets: [Target] = [], isTuple = false
    while true {
      if isTuple, isEnd(self) { break }
      targets.append(try singleTarget(withNamespace: withNamespace))
      guard skip(operator: ",") else { break }
      isTuple = true
    }
    return isTuple ? .tuple(targets) : targets[0]
  }

  private mutating func singleTarget(withNamespace: Bool) throws -> Target {
    if skip(operator: "(") {
      let inner = try nested { try $0.target(until: nil) }
      try expect(operator: ")")
      return inner
    }
    guard current.kind == .name else { throw unexpected("a name to assign to") }
    let name = try targetName()
    guard withNamespace, skip(operator: ".") else { return .name(name) }
    return .attribute(namespace: name, try expect(.name, "an attribute's name").text)
  }
}
