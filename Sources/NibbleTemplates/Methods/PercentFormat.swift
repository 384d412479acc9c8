/// `format % values`, as C's `printf`.
struct PercentFormat {
  private let format: [Unicode.Scalar]
  private let values: [Value]
  private let mapping: Dict?
  /// What Python takes for a mapping need not be used up: lists and ranges too.
  private let isMapping: Bool
  private let renderer: Renderer

  init(_ format: Text, _ value: Value, _ renderer: Renderer) {
    self.format = format.scalars
    self.renderer = renderer
    if case .tuple(let list) = value { values = list.items } else { values = [value] }
    if case .dict(let dict) = value { mapping = dict } else { mapping = nil }
    isMapping =
      switch value {
      case .dict, .list: true
      case .object(let object): object is NumberRange
      default: false
      }
  }

  private static func fail(_ message: String) -> TemplateError { TemplateError(.type, message) }
  private static let incomplete = TemplateError(.value, "incomplete format")

  func text() throws -> Text {
    var out: [Unicode.Scalar] = [], at = 0, used = 0
    func take() throws -> Value {
      guard used < values.count else { throw Self.fail("not enough arguments for format string") }
      defer { used += 1 }
      return values[used]
    }
    func peek() throws -> Unicode.Scalar {
      guard at < format.count else { throw Self.incomplete }
      return format[at]
    }
    func number() throws -> Int? {
      if try peek() == "*" {
        at += 1
        return try take().wholeNumber("* of a format")
      }
      var value: Int?
      while case let digit = try peek(), ("0"..."9").contains(digit) {
        value = min((value ?? 0) * 10 + Int(digit.value - 48), Limits.text)
        at += 1
      }
      return value
    }
    while at < format.count {
      guard format[at] == "%" else {
        out.append(format[at])
        at += 1
        continue
      }
      at += 1
      var spec = FormatSpec()
      var named: Value?
      if try peek() == "(" {
        guard let mapping else { throw Self.fail("format requires a mapping") }
        let start = at + 1
        var depth = 1
        while depth > 0 {
          at += 1
          let scalar = try peek()
          depth += scalar == "(" ? 1 : scalar == ")" ? -1 : 0
        }
        let key = Text(format[start..<at])
        at += 1
        guard let value = mapping[key] else { throw TemplateError(.lookup, key.repr.string) }
        named = value
      }
      flags: while true {
        switch try peek() {
        case "-": spec.align = "<"
        case "+": spec.sign = "+"
        case " ": if spec.sign != "+" { spec.sign = " " }
        case "0": spec.isZeroFilled = true
        case "#": spec.isAlternate = true
        default: break flags
        }
        at += 1
      }
      if let width = try number() {
        if width < 0 { spec.align = "<" }
        spec.width = Int(width.magnitude)
      }
      if try peek() == "." {
        at += 1
        spec.precision = max(0, try number() ?? 0)
      }
      while ["h", "l", "L"].contains(try peek()) { at += 1 }
      let kind = try peek()
      at += 1
      if kind == "%" {
        out.append("%")
        continue
      }
      if spec.align == "<" { spec.isZeroFilled = false }
      out += try formatted(named ?? take(), kind, spec).scalars
      guard out.count <= Limits.text else { throw TemplateError(.limit, "a text of more than \(Limits.text) characters") }
    }
    if used < values.count, !isMapping { throw Self.fail("not all arguments converted during string formatting") }
    try renderer.budget.spendText(out.count)
    return Text(out)
  }

  private func formatted(_ value: Value, _ kind: Unicode.Scalar, _ spec: FormatSpec) throws -> Text {
    var spec = spec
    switch kind {
    case "s", "r", "a":
      var text = kind == "s" ? try value.str(renderer.budget) : try value.repr(renderer.budget)
      if kind == "a" { text = text.asciiEscaped }
      if let precision = spec.precision { text = text[0..<min(precision, text.count)] }
      spec.isZeroFilled = false
      return try spec.padded(text, defaultAlign: ">")
    case "c":
      spec.isZeroFilled = false
      if let text = value.text, text.count == 1 { return try spec.padded(text, defaultAlign: ">") }
      guard let code = value.index, let scalar = UInt32(exactly: code).flatMap(Unicode.Scalar.init) else { throw Self.fail("%c requires int or char") }
      return try spec.padded(Text([scalar]), defaultAlign: ">")
    case "d", "i", "u", "x", "X", "o":
      if case .undefined(let undefined) = value { throw undefined.error }
      var whole = value.index
      if whole == nil, kind != "x", kind != "X", kind != "o", case .float(let number) = value {
        whole = Int(exactly: number.rounded(.towardZero))
        if whole == nil { throw TemplateError(.value, "the float \(number.pythonText) does not fit an integer of 64 bits") }
      }
      guard let whole else { throw Self.fail("%\(kind) format: a number is required, not \(value.typeName)") }
      return try spec.integer(whole, kind == "i" || kind == "u" ? "d" : kind, minimumDigits: spec.precision)
    case "e", "E", "f", "F", "g", "G":
      if case .undefined(let undefined) = value { throw undefined.error }
      guard let number = value.number else { throw Self.fail("must be real number, not \(value.typeName)") }
      return try spec.float(number, kind)
    default: throw TemplateError(.value, "unsupported format character '\(kind)'")
    }
  }
}

extension Text {
  /// `ascii()`: what is not ASCII as escapes.
  var asciiEscaped: Text {
    Text(
      scalars.flatMap { scalar -> [Unicode.Scalar] in
        guard !scalar.isASCII else { return [scalar] }
        let (letter, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
        let digits = String(scalar.value, radix: 16)
        return Array(("\\" + letter + String(repeating: "0", count: width - digits.count) + digits).unicodeScalars)
      })
  }
}
