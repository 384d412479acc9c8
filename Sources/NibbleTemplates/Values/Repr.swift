extension Double {
  /// Python's `repr`: the shortest digits that read back, an exponent below 1e-4 and from 1e16.
  var pythonText: String {
    if isNaN { return "nan" }
    if isInfinite { return self < 0 ? "-inf" : "inf" }
    let (digits, point) = magnitude.shortestDigits
    let sign = self.sign == .minus ? "-" : ""
    if point > 16 || point < -3 {
      let fraction = digits.count > 1 ? "." + digits.dropFirst() : ""
      let exponent = point - 1
      let power = exponent.magnitude < 10 ? "0\(exponent.magnitude)" : "\(exponent.magnitude)"
      return "\(sign)\(digits.prefix(1))\(fraction)e\(exponent < 0 ? "-" : "+")\(power)"
    }
    if point <= 0 { return "\(sign)0.\(String(repeating: "0", count: -point))\(digits)" }
    if digits.count <= point { return "\(sign)\(digits)\(String(repeating: "0", count: point - digits.count)).0" }
    return "\(sign)\(digits.prefix(point)).\(digits.dropFirst(point))"
  }

  /// The shortest decimal digits of a finite number that is not negative, and how many of them stand before the point.
  private var shortestDigits: (digits: String, point: Int) {
    if self == 0 { return ("0", 1) }
    let parts = "\(self)".split(separator: "e")
    let mantissa = parts[0].split(separator: ".")
    let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
    let fraction = mantissa.count > 1 ? mantissa[1] : ""
    var digits = String(mantissa[0] + fraction)
    var point = mantissa[0].count + exponent
    while digits.hasSuffix("0"), digits.count > 1 { digits.removeLast() }
    while digits.hasPrefix("0"), digits.count > 1 {
      digits.removeFirst()
      point -= 1
    }
    return (digits, point)
  }
}

extension Text {
  /// Python's `repr` of a string.
  var repr: Text {
    let quote: Unicode.Scalar = scalars.contains("'") && !scalars.contains("\"") ? "\"" : "'"
    var out: [Unicode.Scalar] = [quote]
    for scalar in scalars {
      switch scalar {
      case quote, "\\": out += ["\\", scalar]
      case "\n": out += ["\\", "n"]
      case "\r": out += ["\\", "r"]
      case "\t": out += ["\\", "t"]
      case _ where scalar.isPythonPrintable: out.append(scalar)
      default:
        let (letter, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
        let digits = String(scalar.value, radix: 16)
        out += ("\\" + letter + String(repeating: "0", count: width - digits.count) + digits).unicodeScalars
      }
    }
    return Text(out + [quote])
  }
}

extension Value {
  /// Python's `str`.
  func str(_ budget: Budget) throws -> Text {
    switch self {
    case .text(let text): return text
    case .undefined: return ""
    default: return try repr(budget)
    }
  }

  /// Python's `repr`.
  func repr(_ budget: Budget) throws -> Text {
    var out: [Unicode.Scalar] = []
    try write(to: &out, budget)
    return Text(out)
  }

  private func write(to out: inout [Unicode.Scalar], _ budget: Budget) throws {
    let start = out.count
    switch self {
    case .undefined: out += "Undefined".unicodeScalars
    case .none: out += "None".unicodeScalars
    case .bool(let value): out += (value ? "True" : "False").unicodeScalars
    case .int(let value): out += String(value).unicodeScalars
    case .float(let value): out += value.pythonText.unicodeScalars
    case .text(let text): out += text.repr.scalars
    case .list(let list): try Self.write(list.items, "[", "]", to: &out, budget)
    case .tuple(let list): try Self.write(list.items, "(", list.items.count == 1 ? ",)" : ")", to: &out, budget)
    case .dict(let dict):
      out.append("{")
      for (index, pair) in dict.pairs.enumerated() {
        if index > 0 { out += ", ".unicodeScalars }
        try pair.key.write(to: &out, budget)
        out += ": ".unicodeScalars
        try pair.value.write(to: &out, budget)
      }
      out.append("}")
      return
    case .object(let object): out += try object.describe().scalars
    }
    if case .list = self { return }
    if case .tuple = self { return }
    try budget.spend()
    try budget.spendText(out.count - start)
  }

  private static func write(
    _ items: [Value], _ open: String, _ close: String, to out: inout [Unicode.Scalar], _ budget: Budget
  ) throws {
    out += open.unicodeScalars
    for (index, item) in items.enumerated() {
      if index > 0 { out += ", ".unicodeScalars }
      try item.write(to: &out, budget)
    }
    out += close.unicodeScalars
  }
}
