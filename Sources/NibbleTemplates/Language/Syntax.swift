/// An expression of the syntax tree.
final class Expression {
  indirect enum Kind {
    case constant(Value)
    case name(Text)
    case list([Expression])
    case tuple([Expression])
    case dict([(key: Expression, value: Expression)])
    case attribute(Expression, Text)
    case item(Expression, Expression)
    case slice(Expression, start: Expression?, stop: Expression?, step: Expression?)
    case call(Expression, CallArguments)
    /// The input is nil for the first of the filters of a `filter` or `set` block.
    case filter(Expression?, Text, CallArguments)
    case test(Expression, Text, CallArguments)
    case not(Expression)
    case negative(Expression)
    case positive(Expression)
    case and(Expression, Expression)
    case or(Expression, Expression)
    case arithmetic(Operator, Expression, Expression)
    case concatenation([Expression])
    case comparison(Expression, [(sign: Comparison, Expression)])
    case conditional(test: Expression, then: Expression, otherwise: Expression?)
  }

  let kind: Kind
  let line: Int
  /// Levels from here to the deepest leaf.
  let height: Int
  /// Whether nothing in it depends on a rendering: no variable, no call, none of the filters that work with a context.
  let isConstant: Bool

  /// - Throws: a limit, for trees that are too deep to walk
  init(_ kind: Kind, line: Int) throws {
    (self.kind, self.line) = (kind, line)
    let children = Self.children(of: kind)
    height = try Self.height(above: children, line: line)
    switch kind {
    case .name, .call: isConstant = false
    case .filter(_, let name, _) where ["map", "select", "reject", "selectattr", "rejectattr"].contains(name): isConstant = false
    default: isConstant = children.allSatisfy(\.isConstant)
    }
  }

  static func height(above children: [Expression], line: Int) throws -> Int {
    var highest = 0
    for child in children { highest = max(highest, child.height) }
    guard highest < Limits.syntaxDepth else {
      throw TemplateError(.limit, "expressions nested deeper than \(Limits.syntaxDepth) levels", line: line)
    }
    return highest + 1
  }

  /// What stands directly below, in the order of evaluation.
  static func children(of kind: Kind) -> [Expression] {
    switch kind {
    case .constant, .name: []
    case .list(let items), .tuple(let items), .concatenation(let items): items
    case .dict(let pairs): pairs.flatMap { [$0.key, $0.value] }
    case .attribute(let owner, _): [owner]
    case .item(let owner, let key): [owner, key]
    case .slice(let owner, let start, let stop, let step): [owner] + [start, stop, step].compactMap { $0 }
    case .call(let callee, let arguments): [callee] + arguments.all
    case .filter(let input, _, let arguments): (input.map { [$0] } ?? []) + arguments.all
    case .test(let input, _, let arguments): [input] + arguments.all
    case .not(let value), .negative(let value), .positive(let value): [value]
    case .and(let a, let b), .or(let a, let b), .arithmetic(_, let a, let b): [a, b]
    case .comparison(let first, let rest): [first] + rest.map(\.1)
    case .conditional(let test, let then, let otherwise): [test, then] + (otherwise.map { [$0] } ?? [])
    }
  }
}

enum Comparison: String { case equal = "==", unequal = "!=", less = "<", atMost = "<=", greater = ">", atLeast = ">=", within = "in", without = "not in" }

/// The arguments of a call, a filter or a test.
struct CallArguments {
  var positional: [Expression] = []
  var named: [(name: Text, value: Expression)] = []
  /// `*list` and `**dict`.
  var spread: Expression?
  var namedSpread: Expression?

  var all: [Expression] { positional + named.map(\.value) + [spread, namedSpread].compactMap { $0 } }
}

/// What `set`, `for` and `with` assign to.
indirect enum Target {
  case name(Text)
  case tuple([Target])
  case attribute(namespace: Text, Text)
}

/// A macro's parameters and body; a `call` block's too.
final class MacroBody {
  let name: Text
  let parameters: [Text]
  /// Of the last parameters.
  let defaults: [Expression]
  let body: [Statement]
  /// Whether the body speaks of them: what decides whether a call may bring more than the parameters.
  let usesCaller: Bool, usesNamed: Bool, usesPositional: Bool

  init(name: Text, parameters: [Text], defaults: [Expression], body: [Statement], used: Set<Text>) {
    (self.name, self.parameters, self.defaults, self.body) = (name, parameters, defaults, body)
    usesCaller = used.contains("caller")
    usesNamed = used.contains("kwargs")
    usesPositional = used.contains("varargs")
  }
}

/// A statement of the syntax tree.
struct Statement {
  indirect enum Kind {
    case data(Text)
    case print([Expression])
    case conditional([(test: Expression, body: [Statement])], otherwise: [Statement])
    case loop(Loop)
    case set(Target, Expression)
    case setBlock(Target, filter: Expression?, body: [Statement])
    case macro(MacroBody)
    case call(MacroBody, Expression)
    case filter(Expression, body: [Statement])
    case with([(target: Target, value: Expression)], body: [Statement])
    case block(body: [Statement], isScoped: Bool)
    case generation(MacroBody)
    case breakLoop, continueLoop
    /// Tags that need other templates.
    case unsupported(String)
  }

  let kind: Kind
  let line: Int
}

/// A `for`.
final class Loop {
  let target: Target
  let source: Expression
  let test: Expression?
  let isRecursive: Bool
  let body: [Statement], otherwise: [Statement]

  init(_ target: Target, _ source: Expression, test: Expression?, isRecursive: Bool, body: [Statement], otherwise: [Statement]) {
    (self.target, self.source, self.test, self.isRecursive, self.body, self.otherwise) = (target, source, test, isRecursive, body, otherwise)
  }
}
