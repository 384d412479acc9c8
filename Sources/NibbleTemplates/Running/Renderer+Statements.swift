extension Renderer {
  func run(_ body: [Statement], _ frame: Frame) throws -> Flow {
    try budget.enter()
    defer { budget.leave() }
    for statement in body {
      do {
        let flow = try run(statement, frame)
        if flow != .normal { return flow }
      } catch var error as TemplateError where error.line == nil {
        error.line = statement.line
        throw error
      }
    }
    return .normal
  }

  private func run(_ statement: Statement, _ frame: Frame) throws -> Flow {
    switch statement.kind {
    case .data(let text): try write(text)
    case .print(let values):
      for value in values {
        foldsSlices = value.isConstant
        defer { foldsSlices = false }
        try write(evaluate(value, frame).str(budget))
      }
    case .conditional(let branches, let otherwise): return try runConditional(branches, otherwise, frame)
    case .loop(let loop): return try run(loop, over: evaluate(loop.source, frame), frame, depth: 0)
    case .set(let target, let value): try assign(evaluate(value, frame), to: target, frame)
    case .setBlock(let target, let filter, let body): return try runSetBlock(target, filter, body, frame)
    case .macro(let macro): frame.set(macro.name, .object(Macro(macro, frame, self)))
    case .call(let caller, let call):
      let caller: Value = .object(Macro(caller, frame, self))
      try write(evaluateCall(call, frame, caller: caller).str(budget))
    case .filter(let filter, let body): return try runFilter(filter, body, frame)
    case .with(let values, let body):
      let inner = Frame(parent: frame)
      for (target, value) in values { try assign(evaluate(value, frame), to: target, inner) }
      return try run(body, inner)
    // A block sees the template's variables, and those around it only if it says so.
    case .block(let body, let isScoped): return try run(body, Frame(parent: isScoped ? frame : root ?? frame))
    case .generation(let macro):
      let text = try Macro(macro, frame, self).call(Arguments(), self).str(budget)
      markGenerated(text)
      try write(text)
    case .breakLoop: return .breakLoop
    case .continueLoop: return .continueLoop
    case .unsupported(let tag): throw TemplateError(.value, "'\(tag)' needs other templates, and a chat template has none")
    }
    return .normal
  }

  private func runConditional(
    _ branches: [(test: Expression, body: [Statement])], _ otherwise: [Statement], _ frame: Frame
  ) throws -> Flow {
    for branch in branches where try evaluate(branch.test, frame).isTrue { return try run(branch.body, frame) }
    return otherwise.isEmpty ? .normal : try run(otherwise, frame)
  }

  private func runSetBlock(_ target: Target, _ filter: Expression?, _ body: [Statement], _ frame: Frame) throws -> Flow {
    let inner = Frame(parent: frame)
    let (text, flow) = try capture { try run(body, inner) }
    guard flow == .normal else { return flow }
    let value = try filter.map { try apply($0, to: .text(text), inner) } ?? .text(text)
    try assign(value, to: target, frame)
    return .normal
  }

  private func runFilter(_ filter: Expression, _ body: [Statement], _ frame: Frame) throws -> Flow {
    let inner = Frame(parent: frame)
    let (text, flow) = try capture { try run(body, inner) }
    guard flow == .normal else { return flow }
    try write(apply(filter, to: .text(text), inner).str(budget))
    return .normal
  }

  // MARK: Assignment

  func assign(_ value: Value, to target: Target, _ frame: Frame) throws {
    switch target {
    case .name(let name): frame.set(name, value)
    case .attribute(let name, let attribute):
      guard case .object(let object)? = frame.value(name), let namespace = object as? Namespace else {
        throw TemplateError(.type, "cannot assign attribute on non-namespace object '\(name.string)'")
      }
      try namespace.set(attribute, value)
    case .tuple(let targets):
      var items: [Value] = []
      let next = try value.unpacked()
      while items.count <= targets.count, let item = try next() { items.append(item) }
      guard items.count <= targets.count else { throw TemplateError(.value, "too many values to unpack (expected \(targets.count))") }
      guard items.count == targets.count else {
        throw TemplateError(.value, "not enough values to unpack (expected \(targets.count), got \(items.count))")
      }
      for (target, item) in zip(targets, items) { try assign(item, to: target, frame) }
    }
  }
}

extension Value {
  fileprivate func unpacked() throws -> Elements {
    do { return try elements() } catch let error as TemplateError where error.kind == .type {
      throw TemplateError(.type, "cannot unpack non-iterable \(typeName) object")
    }
  }
}
