extension Renderer {
  func evaluate(_ expression: Expression, _ frame: Frame) throws -> Value {
    try budget.spend()
    try budget.enter()
    defer { budget.leave() }
    switch expression.kind {
    case .constant(let value): return value
    case .name(let name): return frame.value(name) ?? .undefined(Undefined(name: name.string))
    case .attribute(let owner, let name): return try attribute(of: evaluate(owner, frame), name)
    case .item(let owner, let key): return try item(of: evaluate(owner, frame), evaluate(key, frame))
    case .list(let items): return try .list(of: items.map { try evaluate($0, frame) })
    case .tuple(let items): return try .tuple(of: items.map { try evaluate($0, frame) })
    case .dict(let pairs): return .dict(try Dict(pairs.map { (try evaluate($0.key, frame), try evaluate($0.value, frame)) }))
    case .slice(let owner, let start, let stop, let step): return try slice(owner, start, stop, step, frame)
    case .call: return try evaluateCall(expression, frame, caller: nil)
    case .filter(let input, _, _):
      return try apply(expression, to: input.map { try evaluate($0, frame) } ?? .none, frame)
    case .test(let input, let name, let arguments):
      return .bool(try Tests.holds(name, evaluate(input, frame), evaluate(arguments, frame), self))
    case .not(let value): return .bool(try !evaluate(value, frame).isTrue)
    case .negative(let value): return try evaluate(value, frame).negated()
    case .positive(let value): return try evaluate(value, frame).plus()
    case .and(let a, let b):
      let first = try evaluate(a, frame)
      return first.isTrue ? try evaluate(b, frame) : first
    case .or(let a, let b):
      let first = try evaluate(a, frame)
      return first.isTrue ? first : try evaluate(b, frame)
    case .arithmetic(let sign, let a, let b): return try sign(evaluate(a, frame), evaluate(b, frame), self)
    case .concatenation(let parts): return try concatenate(parts, frame)
    case .comparison(let first, let rest): return .bool(try compare(first, rest, frame))
    case .conditional(let test, let then, let otherwise):
      if try evaluate(test, frame).isTrue { return try evaluate(then, frame) }
      return try otherwise.map { try evaluate($0, frame) }
        ?? .undefined(Undefined("the inline if-expression evaluated to false and no else section was defined."))
    }
  }

  private func slice(_ owner: Expression, _ start: Expression?, _ stop: Expression?, _ step: Expression?, _ frame: Frame) throws -> Value {
    func bound(_ expression: Expression?) throws -> Value { try expression.map { try evaluate($0, frame) } ?? .none }
    let value = try evaluate(owner, frame)
    do { return try value.sliced(Slice(bound(start), bound(stop), bound(step)), budget) } catch let error as TemplateError {
      guard error.kind == .type, foldsSlices else { throw error }
      return .undefined(Undefined(error.message))
    }
  }

  private func concatenate(_ parts: [Expression], _ frame: Frame) throws -> Value {
    // Python evaluates all parts before it joins their texts.
    let values = try parts.map { try evaluate($0, frame) }
    var text = Text()
    for value in values {
      text += try value.str(budget)
      guard text.count <= Limits.text else { break }
    }
    try budget.spendText(text.count)
    return .text(text)
  }

  private func compare(_ first: Expression, _ rest: [(sign: Comparison, Expression)], _ frame: Frame) throws -> Bool {
    var left = try evaluate(first, frame)
    for (sign, expression) in rest {
      let right = try evaluate(expression, frame)
      guard try sign(left, right, budget) else { return false }
      left = right
    }
    return true
  }

  // MARK: Filters and calls

  /// The filter `expression` and those before it, on a value.
  func apply(_ expression: Expression, to value: Value, _ frame: Frame) throws -> Value {
    guard case .filter(let input, let name, let arguments) = expression.kind else { return value }
    var value = value
    // The first of a block's filters has no input of its own, and those behind it have theirs.
    if let input, case .filter = input.kind, Self.hasOpenHead(input) { value = try apply(input, to: value, frame) }
    return try Filters.apply(name, value, evaluate(arguments, frame), self)
  }

  private static func hasOpenHead(_ expression: Expression) -> Bool {
    guard case .filter(let input, _, _) = expression.kind else { return false }
    return input.map { hasOpenHead($0) } ?? true
  }

  func evaluate(_ given: CallArguments, _ frame: Frame) throws -> Arguments {
    var arguments = Arguments(positional: try given.positional.map { try evaluate($0, frame) })
    arguments.named = try given.named.map { ($0.name, try evaluate($0.value, frame)) }
    if let spread = given.spread { arguments.positional += try evaluate(spread, frame).collected(budget) }
    if let spread = given.namedSpread {
      guard case .dict(let dict) = try evaluate(spread, frame) else { throw TemplateError(.type, "argument after ** must be a mapping") }
      for (key, value) in dict.pairs {
        guard case .text(let name) = key else { throw TemplateError(.type, "keywords must be strings") }
        guard !arguments.named.contains(where: { $0.name == name }) else {
          throw TemplateError(.type, "got multiple values for keyword argument '\(name.string)'")
        }
        arguments.named.append((name, value))
      }
    }
    return arguments
  }

  /// - Parameter caller: the body of a `call` block
  func evaluateCall(_ expression: Expression, _ frame: Frame, caller: Value?) throws -> Value {
    guard case .call(let callee, let given) = expression.kind else { return try evaluate(expression, frame) }
    let function = try evaluate(callee, frame)
    var arguments = try evaluate(given, frame)
    if let caller { arguments.named.append(("caller", caller)) }
    return try call(function, arguments)
  }

  func call(_ function: Value, _ arguments: Arguments) throws -> Value {
    switch function {
    case .undefined(let undefined): throw undefined.error
    case .object(let object): return try object.call(arguments, self)
    default: throw TemplateError(.type, "'\(function.typeName)' object is not callable")
    }
  }
}

extension Comparison {
  func callAsFunction(_ a: Value, _ b: Value, _ budget: Budget) throws -> Bool {
    switch self {
    case .equal: try a.isEqual(to: b)
    case .unequal: try !a.isEqual(to: b)
    case .less: try a.isLess(than: b)
    case .atMost: try a.isAtMost(b)
    case .greater: try b.isLess(than: a)
    case .atLeast: try b.isAtMost(a)
    case .within: try b.contains(a, budget)
    case .without: try !b.contains(a, budget)
    }
  }
}
