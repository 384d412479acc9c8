import Glibc

/// `[[fill]align][sign][#][0][width][,][.precision][type]`: how one value is formatted.
struct FormatSpec {
  var fill: Unicode.Scalar = " "
  var align: Unicode.Scalar?
  var sign: Unicode.Scalar?
  var isAlternate = false
  var isZeroFilled = false
  var width = 0
  var grouping: Unicode.Scalar?
  var precision: Int?
  var kind: Unicode.Scalar?

  init() {}

  /// The specification behind the colon of a replacement field.
  ///
  /// - Throws: a value error
  init(_ text: Text) throws {
    let scalars = text.scalars
    var at = 0
    func peek(_ offset: Int = 0) -> Unicode.Scalar? { at + offset < scalars.count ? scalars[at + offset] : nil }
    func isAlign(_ scalar: Unicode.Scalar?) -> Bool { scalar.map { ["<", ">", "^", "="].contains($0) } ?? false }
    func number() throws -> Int? {
      var value: Int?
      while let digit = peek(), ("0"..."9").contains(digit) {
        value = (value ?? 0) * 10 + Int(digit.value - 48)
        if value ?? 0 > Limits.field { throw TemplateError(.limit, "a format of more than \(Limits.field) columns") }
        at += 1
      }
      return value
    }
    let hasFill = isAlign(peek(1))
    if hasFill {
      (fill, align) = (scalars[0], scalars[1])
      at = 2
    } else if isAlign(peek()) {
      align = peek()
      at = 1
    }
    if let scalar = peek(), ["+", "-", " "].contains(scalar) {
      sign = scalar
      at += 1
    }
    if peek() == "z" { at += 1 }
    if peek() == "#" {
      isAlternate = true
      at += 1
    }
    if peek() == "0" {
      isZeroFilled = align == nil
      if !hasFill { fill = "0" }
      at += 1
    }
    width = try number() ?? 0
    if peek() == "," || peek() == "_" {
      grouping = peek()
      at += 1
    }
    if peek() == "." {
      at += 1
      guard let digits = try number() else { throw TemplateError(.value, "format specifier missing precision") }
      precision = digits
    }
    if let scalar = peek() {
      kind = scalar
      at += 1
    }
    guard at == scalars.count else { throw TemplateError(.value, "invalid format specifier \(text.repr.string)") }
  }

  // MARK: Values

  /// - Throws: a type or a value error, for specifications that do not go with the value
  func formatted(_ value: Value, _ budget: Budget) throws -> Text {
    switch value {
    case .text(let text):
      guard kind == nil || kind == "s", sign == nil, !isAlternate, grouping == nil, align != "=" else { throw unfit(value) }
      var spec = self
      if isZeroFilled { (spec.fill, spec.isZeroFilled) = ("0", false) }
      return try spec.padded(precision.map { text[0..<min($0, text.count)] } ?? text, defaultAlign: "<")
    case .int, .bool:
      let number = value.index ?? 0
      if case .bool = value, kind == nil, self.isPlain { return try value.str(budget) }
      switch kind {
      case nil, "d", "n", "x", "X", "o", "b":
        guard precision == nil else { throw TemplateError(.value, "precision not allowed in integer format specifier") }
        return try integer(number, kind ?? "d", minimumDigits: nil)
      case "c":
        guard let scalar = UInt32(exactly: number).flatMap(Unicode.Scalar.init) else { throw unfit(value) }
        return try padded(Text([scalar]), defaultAlign: "<")
      default: return try float(Double(number), kind ?? "g")
      }
    case .float(let number):
      guard kind != nil || precision != nil else { return try floatText(Text(number.magnitude.pythonText), isNegative: number.sign == .minus && !number.isNaN) }
      return try float(number, kind ?? "\u{0}")
    default:
      guard isPlain else { throw TemplateError(.type, "unsupported format string passed to \(value.typeName).__format__") }
      return try value.str(budget)
    }
  }

  private var isPlain: Bool { align == nil && sign == nil && width == 0 && precision == nil && grouping == nil && !isAlternate && kind == nil && !isZeroFilled }

  private func unfit(_ value: Value) -> TemplateError {
    TemplateError(.value, "a format specifier that does not go with a value of type '\(value.typeName)'")
  }

  func integer(_ value: Int, _ kind: Unicode.Scalar, minimumDigits: Int?) throws -> Text {
    let radix = ["x": 16, "X": 16, "o": 8, "b": 2][Character(kind)] ?? 10
    var digits = String(value.magnitude, radix: radix, uppercase: kind == "X")
    if let minimumDigits {
      guard minimumDigits <= Limits.field else { throw TemplateError(.limit, "a format of more than \(Limits.field) digits") }
      digits = String(repeating: "0", count: max(0, minimumDigits - digits.count)) + digits
    }
    let prefix: Text = isAlternate && radix != 10 ? Text("0\(kind)") : ""
    return try signed(Text(digits), isNegative: value < 0, prefix: prefix, groupSize: radix == 10 ? 3 : 4)
  }

  func float(_ value: Double, _ kind: Unicode.Scalar) throws -> Text {
    let precision = precision ?? 6
    guard precision <= Limits.field else { throw TemplateError(.limit, "a format of more than \(Limits.field) digits") }
    let isNegative = value.sign == .minus && !value.isNaN
    let isUpper = ["E", "F", "G"].contains(kind)
    if !value.isFinite { return try floatText(Text(value.isNaN ? (isUpper ? "NAN" : "nan") : isUpper ? "INF" : "inf"), isNegative: isNegative) }
    switch kind {
    case "%": return try floatText(Text(Self.printed("%.\(precision)f", value.magnitude * 100) + "%"), isNegative: isNegative)
    case "\u{0}":
      // Without a letter: like g, but with a digit behind the point.
      var text = Self.printed("%.\(max(1, precision))g", value.magnitude)
      if !text.contains("e"), !text.contains(".") { text += ".0" }
      return try floatText(Text(text), isNegative: isNegative)
    case "n": return try floatText(Text(Self.printed("%.\(max(1, precision))g", value.magnitude)), isNegative: isNegative)
    case "e", "E", "f", "F", "g", "G":
      return try floatText(Text(Self.printed("%\(isAlternate ? "#" : "").\(precision)\(kind)", value.magnitude)), isNegative: isNegative)
    default: throw TemplateError(.value, "unknown format code '\(kind)' for a number")
    }
  }

  /// By C's `printf`, which rounds exactly.
  static func printed(_ format: String, _ value: Double) -> String {
    var buffer = [CChar](repeating: 0, count: 512)
    let needed = withVaList([value]) { vsnprintf(&buffer, buffer.count, format, $0) }
    if needed >= buffer.count {
      buffer = [CChar](repeating: 0, count: Int(needed) + 1)
      _ = withVaList([value]) { vsnprintf(&buffer, buffer.count, format, $0) }
    }
    return String(decoding: buffer.prefix(max(0, Int(needed))).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  private func floatText(_ text: Text, isNegative: Bool) throws -> Text { try signed(text, isNegative: isNegative, prefix: "", groupSize: 3) }

  private func signed(_ digits: Text, isNegative: Bool, prefix: Text, groupSize: Int) throws -> Text {
    let sign: Text = isNegative ? "-" : self.sign == "+" ? "+" : self.sign == " " ? " " : ""
    let start = sign + prefix
    var digits = grouped(digits, groupSize)
    if isZeroFilled || align == "=" {
      guard width <= Limits.field else { throw TemplateError(.limit, "a format of more than \(Limits.field) columns") }
      let fill: Unicode.Scalar = isZeroFilled ? "0" : self.fill
      while start.count + digits.count < width {
        // Zeros are grouped like the digits they stand before.
        if isZeroFilled, let grouping, Self.leadingDigits(digits) % (groupSize + 1) == groupSize, start.count + digits.count + 1 < width {
          digits = Text([fill, grouping]) + digits
        } else if isZeroFilled, grouping != nil, Self.leadingDigits(digits) % (groupSize + 1) == groupSize {
          digits = Text([fill, grouping ?? ","]) + digits
        } else {
          digits = Text([fill]) + digits
        }
      }
      return start + digits
    }
    return try padded(start + digits, defaultAlign: ">")
  }

  /// Digits and separators at the start.
  private static func leadingDigits(_ text: Text) -> Int {
    text.scalars.prefix { ("0"..."9").contains($0) || $0 == "," || $0 == "_" }.count
  }

  private func grouped(_ digits: Text, _ size: Int) -> Text {
    guard let grouping else { return digits }
    let whole = digits.scalars.prefix { $0.properties.isHexDigit }
    var out: [Unicode.Scalar] = []
    for (index, digit) in whole.enumerated() {
      if index > 0, (whole.count - index) % size == 0 { out.append(grouping) }
      out.append(digit)
    }
    return Text(out + digits.scalars[whole.count...])
  }

  func padded(_ text: Text, defaultAlign: Unicode.Scalar) throws -> Text {
    guard width > text.count else { return text }
    guard width <= Limits.field else { throw TemplateError(.limit, "a format of more than \(Limits.field) columns") }
    let missing = width - text.count
    let align = align ?? defaultAlign
    let left = align == "<" ? 0 : align == "^" ? missing / 2 : missing
    func run(_ count: Int) -> [Unicode.Scalar] { [Unicode.Scalar](repeating: fill, count: count) }
    return Text(run(left) + text.scalars + run(missing - left))
  }
}
