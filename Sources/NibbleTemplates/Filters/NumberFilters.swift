import Glibc

/// Filters on numbers and to them.
enum NumberFilters {
  static let all: [Text: Filters.Filter] = [
    "abs": { value, arguments, _ in
      _ = try arguments.bound("abs", [])
      if case .float(let number) = value { return .float(number.magnitude) }
      guard let number = value.index else {
        if case .undefined(let undefined) = value { throw undefined.error }
        throw TemplateError(.type, "bad operand type for abs(): '\(value.typeName)'")
      }
      return number < 0 ? try Value.int(number).negated() : .int(number)
    },
    "int": { value, arguments, renderer in
      let given = try arguments.bound("int", ["default", "base"])
      if case .undefined(let undefined) = value { throw undefined.error }
      return try int(value, base: given[1]?.wholeNumber("base") ?? 10) ?? given[0] ?? .int(0)
    },
    "float": { value, arguments, renderer in
      let given = try arguments.bound("float", ["default"])
      if case .undefined(let undefined) = value { throw undefined.error }
      return float(value).map { .float($0) } ?? given[0] ?? .float(0)
    },
    "round": round,
    "filesizeformat": { value, arguments, renderer in
      let isBinary = try arguments.bound("filesizeformat", ["binary"])[0]?.isTrue ?? false
      guard let bytes = float(value) else { throw TemplateError(.value, "could not convert to float: \(try value.repr(renderer.budget).string)") }
      let base: Double = isBinary ? 1024 : 1000
      if bytes == 1 { return .text("1 Byte") }
      if bytes < base { return .string("\(Int(bytes)) Bytes") }
      var unit = base
      for (index, prefix) in ["k", "M", "G", "T", "P", "E", "Z", "Y"].enumerated() {
        unit *= base
        if bytes < unit || index == 7 {
          let name = isBinary ? prefix.uppercased() + "iB" : prefix + "B"
          return .string(FormatSpec.printed("%.1f", base * bytes / unit) + " " + name)
        }
      }
      return .none
    },
  ]

  /// Python's `int(…)`, and by way of a float where a text is no whole number; nil where neither works.
  private static func int(_ value: Value, base: Int) throws -> Value? {
    func whole(_ number: Double) throws -> Value? {
      guard number.isFinite else { return nil }
      guard let whole = Int(exactly: number.rounded(.towardZero)) else {
        throw TemplateError(.arithmetic, "an integer beyond 64 bits; Python's big integers are not supported")
      }
      return .int(whole)
    }
    switch value {
    case .float(let number): return try whole(number)
    case .text(let text):
      if let found = try wholeNumber(text, base: base) { return .int(found) }
      return try float(value).flatMap { try whole($0) }
    default: return value.index.map { .int($0) }
    }
  }

  /// `int(text, base)`; nil for what is no number of that base.
  private static func wholeNumber(_ text: Text, base: Int) throws -> Int? {
    guard base == 0 || (2...36).contains(base) else { return nil }
    var scalars = text.trimmed.scalars[...]
    let isNegative = scalars.first == "-"
    if isNegative || scalars.first == "+" { scalars.removeFirst() }
    var base = base
    let prefixes: [Character: Int] = ["x": 16, "o": 8, "b": 2]
    if scalars.count > 2, scalars.first == "0", let own = prefixes[Character(scalars[scalars.startIndex + 1].properties.lowercaseMapping)],
      base == own || base == 0
    {
      base = own
      scalars = scalars.dropFirst(2)
      if scalars.first == "_" { scalars.removeFirst() }
    } else if base == 0 {
      guard scalars.first != "0" || scalars.allSatisfy({ $0 == "0" || $0 == "_" }) else { return nil }
      base = 10
    }
    var value = 0, wasDigit = false
    for scalar in scalars {
      if scalar == "_", wasDigit {
        wasDigit = false
        continue
      }
      let decimal = scalar.isPythonDecimal ? scalar.properties.numericValue.map { Int($0) } : nil
      guard let digit = decimal ?? (scalar.isASCII ? Character(scalar).letterDigit : nil), digit < base else { return nil }
      let (product, isTooLarge) = value.multipliedReportingOverflow(by: base)
      let (next, isTooLargeNow) = isNegative ? product.subtractingReportingOverflow(digit) : product.addingReportingOverflow(digit)
      guard !isTooLarge, !isTooLargeNow else {
        throw TemplateError(.arithmetic, "an integer beyond 64 bits; Python's big integers are not supported")
      }
      value = next
      wasDigit = true
    }
    return wasDigit ? value : nil
  }

  /// Python's `float(…)`; nil for what is no number.
  private static func float(_ value: Value) -> Double? {
    guard case .text(let text) = value else { return value.number }
    var plain = ""
    let scalars = text.trimmed.scalars
    for (index, scalar) in scalars.enumerated() {
      if scalar == "_" {
        // Only between digits.
        guard index > 0, index + 1 < scalars.count, scalars[index - 1].isPythonDecimal, scalars[index + 1].isPythonDecimal else { return nil }
        continue
      }
      if scalar.isPythonDecimal, let digit = scalar.properties.numericValue { plain += String(Int(digit)) } else { plain.unicodeScalars.append(scalar) }
    }
    switch plain.lowercased() {
    case "inf", "+inf", "infinity", "+infinity": return .infinity
    case "-inf", "-infinity": return -.infinity
    case "nan", "+nan", "-nan": return .nan
    default:
      guard plain.utf8.allSatisfy({ (0x30...0x39).contains($0) || "+-.eE".utf8.contains($0) }), !plain.isEmpty else { return nil }
      // Python takes ".5" and "5.", and so does C.
      var end: UnsafeMutablePointer<CChar>?
      return plain.withCString { start in
        let number = strtod(start, &end)
        return end.map { UnsafePointer($0) } == start + plain.utf8.count ? number : nil
      }
    }
  }

  private static let round: Filters.Filter = { value, arguments, renderer in
    let given = try arguments.bound("round", ["precision", "method"])
    let precision = try given[0]?.wholeNumber("precision") ?? 0
    let method = try given[1]?.onlyText("method") ?? "common"
    guard ["common", "ceil", "floor"].contains(method) else { throw TemplateError(.value, "method must be common, ceil or floor") }
    if case .undefined(let undefined) = value { throw undefined.error }
    guard let number = value.number else { throw TemplateError(.type, "type \(value.typeName) doesn't define __round__ method") }
    guard abs(precision) <= 400 else { throw TemplateError(.limit, "rounding to \(precision) digits") }
    if method == "common" {
      guard case .float = value else { return try roundedInt(value.index ?? 0, precision) }
      return .float(roundedFloat(number, precision))
    }
    // As Jinja: an int comes back as one where the division by a power of ten is an int's.
    let factor = try Operator.power(.int(10), .int(precision), renderer)
    let scaled = try Operator.multiply(value, factor, renderer)
    let whole: Value
    if case .float(let scaled) = scaled {
      let rounded = method == "ceil" ? scaled.rounded(.up) : scaled.rounded(.down)
      guard let exact = Int(exactly: rounded) else { throw TemplateError(.arithmetic, "an integer beyond 64 bits") }
      whole = .int(exact)
    } else {
      whole = scaled
    }
    return try Operator.divide(whole, factor, renderer)
  }

  private static func roundedInt(_ value: Int, _ precision: Int) throws -> Value {
    guard precision < 0 else { return .int(value) }
    guard precision > -19 else { return .int(0) }
    var unit = 1
    for _ in 0..<(-precision) { unit *= 10 }
    let rest = ((value % unit) + unit) % unit, low = value - rest
    let twice = rest * 2
    let goesUp = twice > unit || twice == unit && (low / unit) % 2 != 0
    return .int(goesUp ? low + unit : low)
  }

  private static func roundedFloat(_ value: Double, _ precision: Int) -> Double {
    guard value.isFinite else { return value }
    if precision >= 0 { return Double(FormatSpec.printed("%.\(precision)f", value)) ?? value }
    let unit = pow(10, Double(-precision))
    return (value / unit).rounded(.toNearestOrEven) * unit
  }
}

extension Character {
  /// 0–9, then letters from 10.
  fileprivate var letterDigit: Int? {
    guard let value = asciiValue else { return nil }
    switch value {
    case 0x30...0x39: return Int(value) - 0x30
    case 0x41...0x5A: return Int(value) - 0x41 + 10
    case 0x61...0x7A: return Int(value) - 0x61 + 10
    default: return nil
    }
  }
}
