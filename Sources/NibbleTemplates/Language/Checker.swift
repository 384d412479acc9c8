/// Looks for names of filters and tests that do not exist, as Jinja does when it compiles a template: where an `if` may keep the
/// name from being used, only its use is an error.
enum Checker {
  static func check(_ body: [Statement]) throws { try check(body, isGuarded: false) }

  private static func check(_ body: [Statement], isGuarded: Bool) throws {
    for statement in body { try check(statement, isGuarded: isGuarded) }
  }

  private static func check(_ statement: Statement, isGuarded: Bool) throws {
    switch statement.kind {
    case .data, .breakLoop, .continueLoop, .unsupported: break
    case .print(let values): for value in values { try check(value, isGuarded) }
    case .conditional(let branches, let otherwise):
      for branch in branches {
        try check(branch.test, true)
        try check(branch.body, isGuarded: true)
      }
      try check(otherwise, isGuarded: true)
    case .loop(let loop):
      try check(loop.source, isGuarded)
      if let test = loop.test { try check(test, false) }
      try check(loop.body, isGuarded: false)
      try check(loop.otherwise, isGuarded: false)
    case .set(_, let value): try check(value, isGuarded)
    case .setBlock(_, let filter, let body):
      if let filter { try check(filter, false) }
      try check(body, isGuarded: false)
    case .macro(let macro), .generation(let macro): try check(macro)
    case .call(let caller, let call):
      try check(caller)
      try check(call, isGuarded)
    case .filter(let filter, let body):
      try check(filter, false)
      try check(body, isGuarded: false)
    case .with(let values, let body):
      for (_, value) in values { try check(value, isGuarded) }
      try check(body, isGuarded: false)
    case .block(let body, _): try check(body, isGuarded: false)
    }
  }

  private static func check(_ macro: MacroBody) throws {
    for value in macro.defaults { try check(value, false) }
    try check(macro.body, isGuarded: false)
  }

  private static func check(_ expression: Expression, _ isGuarded: Bool) throws {
    var isGuarded = isGuarded
    switch expression.kind {
    case .filter(_, let name, _) where !isGuarded && !Filters.exists(name):
      throw TemplateError(.syntax, "no filter named '\(name.string)'", line: expression.line)
    case .test(_, let name, _) where !isGuarded && !Tests.exists(name):
      throw TemplateError(.syntax, "no test named '\(name.string)'", line: expression.line)
    case .conditional: isGuarded = true
    default: break
    }
    for child in Expression.children(of: expression.kind) { try check(child, isGuarded) }
  }
}
