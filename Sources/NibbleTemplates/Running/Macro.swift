/// A macro, or the body of a `call` block, with the scope it was defined in.
final class Macro: Object {
  private let body: MacroBody
  private let scope: Frame

  init(_ body: MacroBody, _ scope: Frame, _ renderer: Renderer) {
    (self.body, self.scope) = (body, scope)
    super.init()
    renderer.keep(scope)
  }

  override var typeName: String { "Macro" }
  override var isCallable: Bool { true }
  override func describe() -> Text { Text("<Macro \(body.name.repr.string)>") }

  override func attribute(_ name: Text, _ renderer: Renderer) throws -> Value? {
    switch name.string {
    case "name": .text(body.name)
    case "arguments": try .tuple(of: body.parameters.map { .text($0) })
    case "caller": .bool(body.usesCaller)
    case "catch_kwargs": .bool(body.usesNamed)
    case "catch_varargs": .bool(body.usesPositional)
    default: nil
    }
  }

  override func call(_ arguments: Arguments, _ renderer: Renderer) throws -> Value {
    let frame = Frame(parent: scope)
    try bind(arguments, frame, renderer)
    // A macro's scope may be captured by one within it.
    return .text(try renderer.capture { try renderer.run(body.body, frame) }.text)
  }

  private func fail(_ message: String) -> TemplateError { TemplateError(.type, "macro '\(body.name.string)' \(message)") }

  private func bind(_ arguments: Arguments, _ frame: Frame, _ renderer: Renderer) throws {
    var named = arguments.named
    func take(_ name: Text) -> Value? { named.firstIndex { $0.name == name }.map { named.remove(at: $0).value } }
    var given: [Value?] = []
    var hasCaller = false
    for (index, name) in body.parameters.enumerated() {
      given.append(index < arguments.positional.count ? arguments.positional[index] : take(name))
      if name == "caller" { hasCaller = true }
    }
    if body.usesCaller, !hasCaller {
      frame.set("caller", take("caller") ?? .undefined(Undefined("No caller defined")))
    }
    if body.usesNamed {
      frame.set("kwargs", .dict(try Dict(named.map { (.text($0.name), $0.value) })))
    } else if let extra = named.first {
      throw fail(extra.name == "caller" ? "does not use its caller" : "takes no keyword argument '\(extra.name.string)'")
    }
    let rest = arguments.positional.dropFirst(body.parameters.count)
    if body.usesPositional {
      frame.set("varargs", try .tuple(of: Array(rest)))
    } else if !rest.isEmpty {
      throw fail("takes not more than \(body.parameters.count) argument(s)")
    }
    for (index, name) in body.parameters.enumerated() {
      let place = index - (body.parameters.count - body.defaults.count)
      if let value = given[index] {
        frame.set(name, value)
      } else if place >= 0 {
        frame.set(name, try renderer.evaluate(body.defaults[place], frame))
      } else {
        frame.set(name, .undefined(Undefined("parameter '\(name.string)' was not provided")))
      }
    }
  }
}
