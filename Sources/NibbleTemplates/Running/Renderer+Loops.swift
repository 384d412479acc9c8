extension Renderer {
  /// Runs a loop's body for each element of `source`, in a scope of its own.
  ///
  /// - Parameter depth: how many loops around it called it, where it is recursive
  func run(_ loop: Loop, over source: Value, _ frame: Frame, depth: Int) throws -> Flow {
    let context = LoopContext(source, try elements(of: loop, source, frame), isFiltered: loop.test != nil, depth: depth)
    if loop.isRecursive {
      context.recurse = { [unowned self] source in
        try capture { try run(loop, over: source, frame, depth: depth + 1) }.text
      }
    }
    // A context may be kept longer than its loop, and must not keep what is around it.
    defer { context.recurse = nil }
    // As in Jinja's own, `else` runs unless a turn came to its end.
    var hasFinished = false
    turns: while let item = try context.advance() {
      try budget.spend()
      let inner = Frame(parent: frame)
      try assign(item, to: loop.target, inner)
      inner.set("loop", .object(context))
      switch try run(loop.body, inner) {
      case .normal: hasFinished = true
      case .continueLoop: break
      case .breakLoop: break turns
      }
    }
    guard !hasFinished, !loop.otherwise.isEmpty else { return .normal }
    return try run(loop.otherwise, Frame(parent: frame))
  }

  /// The elements for which the loop's test holds, each tested when its turn comes.
  private func elements(of loop: Loop, _ source: Value, _ frame: Frame) throws -> Elements {
    let next = try source.elements()
    guard let test = loop.test else { return next }
    return { [unowned self] in
      while let item = try next() {
        try budget.spend()
        let inner = Frame(parent: frame)
        try assign(item, to: loop.target, inner)
        // What a test lets through are the loop's variables, so elements that were unpacked come as tuples.
        if try evaluate(test, inner).isTrue { return try packed(loop.target, inner) ?? item }
      }
      return nil
    }
  }

  private func packed(_ target: Target, _ frame: Frame) throws -> Value? {
    switch target {
    case .name(let name): frame.value(name)
    case .tuple(let targets): try .tuple(of: targets.map { try packed($0, frame) ?? .none })
    case .attribute: nil
    }
  }
}

/// `loop` within a loop.
final class LoopContext: Object {
  private var next: Elements
  private var known: Int?
  private let depth0: Int
  private let sourceDepth: Int
  private var index0 = -1
  private var before: Value?, item: Value?
  /// The next element, once someone looked ahead; nil inside at the end.
  private var ahead: Value??
  private var changedValues: [Value]?
  /// Runs the loop over other elements, where it is marked as recursive.
  var recurse: ((Value) throws -> Text)?

  init(_ source: Value, _ next: @escaping Elements, isFiltered: Bool, depth: Int) {
    self.next = next
    known = isFiltered || !source.hasLength ? nil : try? source.length()
    (depth0, sourceDepth) = (depth, source.depth)
  }

  func advance() throws -> Value? {
    let coming = try ahead ?? next()
    ahead = nil
    guard let coming else { return nil }
    index0 += 1
    (before, item) = (item, coming)
    return coming
  }

  private func peek() throws -> Value? {
    if let ahead { return ahead }
    let coming = try next()
    ahead = .some(coming)
    return coming
  }

  private func count(_ budget: Budget) throws -> Int {
    if let known { return known }
    // Without a length of its own, what is left is collected.
    var rest: [Value] = []
    if let ahead {
      if let ahead { rest.append(ahead) }
    }
    if ahead == nil || rest.count > 0 {
      while let item = try next() {
        try budget.spend()
        rest.append(item)
      }
    }
    known = rest.count + index0 + 1
    var at = 0
    let items = rest
    ahead = nil
    next = {
      guard at < items.count else { return nil }
      defer { at += 1 }
      return items[at]
    }
    return rest.count + index0 + 1
  }

  override var typeName: String { "LoopContext" }
  override var depth: Int { sourceDepth + 1 }
  override var isCallable: Bool { true }
  override func describe() -> Text { Text("<LoopContext \(index0 + 1)/\(known ?? 0)>") }

  override func attribute(_ name: Text, _ renderer: Renderer) throws -> Value? {
    switch name.string {
    case "index": return .int(index0 + 1)
    case "index0": return .int(index0)
    case "first": return .bool(index0 == 0)
    case "last": return .bool(try peek() == nil)
    case "length": return .int(try count(renderer.budget))
    case "revindex": return .int(try count(renderer.budget) - index0)
    case "revindex0": return .int(try count(renderer.budget) - index0 - 1)
    case "depth": return .int(depth0 + 1)
    case "depth0": return .int(depth0)
    case "previtem": return before ?? .undefined(Undefined("there is no previous item"))
    case "nextitem": return try peek() ?? .undefined(Undefined("there is no next item"))
    case "cycle":
      return .object(
        Function("cycle") { [index0] arguments, _ in
          guard arguments.named.isEmpty, !arguments.positional.isEmpty else { throw TemplateError(.type, "no items for cycling given") }
          return arguments.positional[index0 % arguments.positional.count]
        })
    case "changed":
      return .object(
        Function("changed") { [self] arguments, _ in
          let values = arguments.positional
          if let changedValues, changedValues.count == values.count,
            try zip(changedValues, values).allSatisfy({ try $0.isEqual(to: $1) })
          {
            return .bool(false)
          }
          changedValues = values
          return .bool(true)
        })
    default: return nil
    }
  }

  override func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    guard let source = try arguments.bound("loop", ["iterable"], required: 1)[0] else { return .none }
    guard let recurse else { throw TemplateError(.type, "the loop must have the 'recursive' marker to be called recursively") }
    return .text(try recurse(source))
  }
}
