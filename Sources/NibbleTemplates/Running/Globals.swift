/// What every template finds without being given it.
enum Globals {
  static func all(_ renderer: Renderer) -> [(name: Text, value: Value)] {
    func function(_ name: String, _ body: @escaping (Arguments, Renderer) throws -> Value) -> (name: Text, value: Value) {
      (Text(name), .object(Function(name, body)))
    }
    return [
      function("range", range), function("namespace", namespace), function("raise_exception", raise),
      function("strftime_now", strftimeNow), (name: "dict", value: .object(DictType())),
      function("cycler") { arguments, _ in .object(try Cycler(arguments.onlyPositional("cycler", 0...Int.max))) },
      function("joiner") { arguments, _ in .object(Joiner(try arguments.bound("joiner", ["sep"])[0] ?? .text(", "))) },
      function("lipsum") { _, _ in throw TemplateError(.value, "'lipsum' draws random text, which is not supported") },
    ]
  }

  private static func range(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    let bounds = try arguments.onlyPositional("range", 1...3).map { try $0.wholeNumber("an argument of range()") }
    let range =
      bounds.count == 1 ? try NumberRange(0, bounds[0], 1) : try NumberRange(bounds[0], bounds[1], bounds.count == 3 ? bounds[2] : 1)
    range.shownEnd = bounds.count == 1 ? bounds[0] : bounds[1]
    return .object(range)
  }

  private static func namespace(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    .object(try Namespace(dictItems(arguments, renderer).map { (try $0.onlyText("a namespace's attribute"), $1) }, renderer))
  }

  /// The members that `dict(…)` and `namespace(…)` take: of a mapping or of pairs, then named ones.
  static func dictItems(_ arguments: Arguments, _ renderer: Renderer) throws -> [(Value, Value)] {
    guard arguments.positional.count <= 1 else {
      throw TemplateError(.type, "dict expected at most 1 argument, got \(arguments.positional.count)")
    }
    var pairs: [(Value, Value)] = []
    switch arguments.positional.first {
    case nil: break
    case .dict(let dict): pairs = dict.pairs.map { ($0.key, $0.value) }
    case let source?:
      for item in try source.collected(renderer.budget) {
        let pair = try item.collected(renderer.budget)
        guard pair.count == 2 else { throw TemplateError(.value, "an element of a dictionary has length \(pair.count); 2 is required") }
        pairs.append((pair[0], pair[1]))
      }
    }
    return pairs + arguments.named.map { (.text($0.name), $0.value) }
  }

  private static func raise(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    let message = try arguments.bound("raise_exception", ["message"], required: 1)[0] ?? .none
    throw TemplateError(.raised, try message.str(renderer.budget).string)
  }

  private static func strftimeNow(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    let format = try arguments.bound("strftime_now", ["format"], required: 1)[0] ?? .none
    return .text(try TimeFormat.text(format.onlyText("strftime_now()'s argument"), at: renderer.now))
  }
}

/// `dict`, as a function and for `dict.fromkeys`.
private final class DictType: Object {
  override var typeName: String { "type" }
  override var isCallable: Bool { true }
  override func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    .dict(try Dict(Globals.dictItems(arguments, renderer)))
  }
  override func attribute(_ name: Text, _ renderer: Renderer) -> Value? {
    guard name == "fromkeys" else { return nil }
    return .object(
      Function("fromkeys") { arguments, renderer in
        let given = try arguments.onlyPositional("fromkeys", 1...2)
        return .dict(try Dict(given[0].collected(renderer.budget).map { ($0, given.count > 1 ? given[1] : .none) }))
      })
  }
}
