/// `str.format`: replacement fields in braces.
struct FieldFormat {
  private let arguments: Arguments
  private let renderer: Renderer

  init(_ arguments: Arguments, _ renderer: Renderer) { (self.arguments, self.renderer) = (arguments, renderer) }

  private static func fail(_ message: String) -> TemplateError { TemplateError(.value, message) }

  func text(_ format: Text) throws -> Text {
    var counter = 0, isNumbered: Bool?
    return try text(format, &counter, &isNumbered, depth: 2)
  }

  private func text(_ format: Text, _ counter: inout Int, _ isNumbered: inout Bool?, depth: Int) throws -> Text {
    guard depth >= 0 else { throw Self.fail("max string recursion exceeded") }
    let scalars = format.scalars
    var out: [Unicode.Scalar] = [], at = 0
    while at < scalars.count {
      let scalar = scalars[at]
      at += 1
      guard scalar == "{" || scalar == "}" else {
        out.append(scalar)
        continue
      }
      if at < scalars.count, scalars[at] == scalar {
        out.append(scalar)
        at += 1
        continue
      }
      guard scalar == "{" else { throw Self.fail("single '}' encountered in format string") }
      var open = 1
      let start = at
      while at < scalars.count {
        open += scalars[at] == "{" ? 1 : scalars[at] == "}" ? -1 : 0
        if open == 0 { break }
        at += 1
      }
      guard at < scalars.count else { throw Self.fail("expected '}' before end of string") }
      out += try field(Text(scalars[start..<at]), &counter, &isNumbered, depth).scalars
      at += 1
      guard out.count <= Limits.text else { throw TemplateError(.limit, "a text of more than \(Limits.text) characters") }
    }
    try renderer.budget.spendText(out.count)
    return Text(out)
  }

  private func field(_ field: Text, _ counter: inout Int, _ isNumbered: inout Bool?, _ depth: Int) throws -> Text {
    // A `!` or `:` within brackets belongs to the name.
    var end = 0, isInBrackets = false
    while end < field.count {
      let scalar = field.scalars[end]
      if scalar == "[" { isInBrackets = true }
      if scalar == "]" { isInBrackets = false }
      if !isInBrackets, scalar == "!" || scalar == ":" { break }
      end += 1
    }
    let name = field[0..<end]
    var rest = field[end..<field.count], conversion: Unicode.Scalar?
    if rest.scalars.first == "!" {
      guard rest.count > 1 else { throw Self.fail("end of string while looking for conversion specifier") }
      conversion = rest.scalars[1]
      rest = rest[2..<rest.count]
      guard rest.isEmpty || rest.scalars[0] == ":" else { throw Self.fail("expected ':' after conversion specifier") }
    }
    var value = try value(name, &counter, &isNumbered)
    let spec = try text(rest.isEmpty ? "" : rest[1..<rest.count], &counter, &isNumbered, depth: depth - 1)
    switch conversion {
    case nil: break
    case "s": value = .text(try value.str(renderer.budget))
    case "r": value = .text(try value.repr(renderer.budget))
    case "a": value = .text(try value.repr(renderer.budget).asciiEscaped)
    default: throw Self.fail("unknown conversion specifier")
    }
    return try FormatSpec(spec).formatted(value, renderer.budget)
  }

  /// `name.attribute[element]…`.
  private func value(_ path: Text, _ counter: inout Int, _ isNumbered: inout Bool?) throws -> Value {
    let scalars = path.scalars
    var at = scalars.firstIndex { $0 == "." || $0 == "[" } ?? scalars.count
    let first = path[0..<at]
    var value = try argument(first, &counter, &isNumbered)
    while at < scalars.count {
      if scalars[at] == "." {
        let end = scalars[(at + 1)...].firstIndex { $0 == "." || $0 == "[" } ?? scalars.count
        guard end > at + 1 else { throw Self.fail("empty attribute in format string") }
        value = try renderer.attribute(of: value, path[at + 1..<end])
        at = end
      } else {
        guard scalars[at] == "[", let end = scalars[at...].firstIndex(of: "]"), end > at + 1 else {
          throw Self.fail("missing ']' or empty attribute in format string")
        }
        let key = path[at + 1..<end]
        value = try renderer.item(of: value, Self.number(key).map { .int($0) } ?? .text(key))
        at = end + 1
      }
    }
    return value
  }

  private static func number(_ text: Text) -> Int? {
    text.all { ("0"..."9").contains($0) } ? Int(text.string) : nil
  }

  private func argument(_ name: Text, _ counter: inout Int, _ isNumbered: inout Bool?) throws -> Value {
    var index = Self.number(name)
    if name.isEmpty || index != nil {
      guard isNumbered == nil || isNumbered == !name.isEmpty else {
        throw Self.fail("cannot switch between automatic field numbering and manual field specification")
      }
      isNumbered = !name.isEmpty
    }
    if name.isEmpty {
      index = counter
      counter += 1
    }
    if let index {
      guard index < arguments.positional.count else { throw TemplateError(.lookup, "replacement index \(index) out of range for positional args tuple") }
      return arguments.positional[index]
    }
    guard let value = arguments.named.first(where: { $0.name == name })?.value else { throw TemplateError(.lookup, name.repr.string) }
    return value
  }
}
