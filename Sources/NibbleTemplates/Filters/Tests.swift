/// The tests of Jinja: what stands behind `is`.
enum Tests {
  typealias Test = @Sendable (Value, [Value], Renderer) throws -> Bool

  static func exists(_ name: Text) -> Bool { all[name] != nil }

  static func holds(_ name: Text, _ value: Value, _ arguments: Arguments, _ renderer: Renderer) throws -> Bool {
    guard let test = all[name] else { throw TemplateError(.value, "no test named '\(name.string)'") }
    let given = try arguments.bound("test", test.parameters, required: test.parameters.count).compactMap { $0 }
    return try test.holds(value, given, renderer)
  }

  private static func plain(_ holds: @escaping Test) -> (parameters: [Text], holds: Test) { ([], holds) }
  private static func with(_ parameter: Text, _ holds: @escaping Test) -> (parameters: [Text], holds: Test) { ([parameter], holds) }
  private static func compared(_ sign: Comparison) -> (parameters: [Text], holds: Test) { with("b") { try sign($0, $1[0], $2.budget) } }

  private static let all: [Text: (parameters: [Text], holds: Test)] = [
    "odd": plain { try Comparison.equal(Operator.modulo($0, .int(2), $2), .int(1), $2.budget) },
    "even": plain { try Comparison.equal(Operator.modulo($0, .int(2), $2), .int(0), $2.budget) },
    "divisibleby": with("num") { try Comparison.equal(Operator.modulo($0, $1[0], $2), .int(0), $2.budget) },
    "defined": plain { value, _, _ in !value.isUndefined }, "undefined": plain { value, _, _ in value.isUndefined },
    "filter": plain { value, _, _ in try Key(value) == .none ? false : value.text.map { Filters.exists($0) } ?? false },
    "test": plain { value, _, _ in try Key(value) == .none ? false : value.text.map { exists($0) } ?? false },
    "none": plain { value, _, _ in value.isNone },
    "boolean": plain { value, _, _ in if case .bool = value { true } else { false } },
    "true": plain { value, _, _ in if case .bool(true) = value { true } else { false } },
    "false": plain { value, _, _ in if case .bool(false) = value { true } else { false } },
    "integer": plain { value, _, _ in if case .int = value { true } else { false } },
    "float": plain { value, _, _ in if case .float = value { true } else { false } },
    "number": plain { value, _, _ in value.number != nil },
    "string": plain { value, _, _ in value.text != nil },
    "mapping": plain { value, _, _ in if case .dict = value { true } else { false } },
    "sequence": plain { value, _, _ in
      switch value {
      case .undefined, .text, .list, .tuple, .dict: true
      case .object(let object): object is NumberRange || object is Group
      default: false
      }
    },
    "iterable": plain { value, _, _ in
      if case .object(is LoopContext) = value { return true }
      return (try? value.elements()) != nil
    },
    "callable": plain { value, _, _ in
      // Undefined values define a call that fails.
      if value.isUndefined { return true }
      return if case .object(let object) = value { object.isCallable } else { false }
    },
    "lower": plain { try $0.str($2.budget).isPythonLower }, "upper": plain { try $0.str($2.budget).isPythonUpper },
    "sameas": with("other") { value, given, _ in value.isIdentical(to: given[0]) },
    "escaped": plain { _, _, _ in false },
    "in": with("seq") { try $1[0].contains($0, $2.budget) },
    "==": compared(.equal), "eq": compared(.equal), "equalto": compared(.equal), "!=": compared(.unequal), "ne": compared(.unequal),
    ">": compared(.greater), "gt": compared(.greater), "greaterthan": compared(.greater), ">=": compared(.atLeast),
    "ge": compared(.atLeast), "<": compared(.less), "lt": compared(.less), "lessthan": compared(.less), "<=": compared(.atMost),
    "le": compared(.atMost),
  ]
}
