/// `tojson` as transformers defines it: Python's `json.dumps`, nothing escaped for HTML.
struct JSONText {
  private let ensuresASCII: Bool
  private let indent: Text?
  private let itemSeparator: Text, keySeparator: Text
  private let sortsKeys: Bool
  private let budget: Budget

  init(ensureASCII: Value?, indent: Value?, separators: Value?, sortKeys: Value?, _ budget: Budget) throws {
    ensuresASCII = ensureASCII?.isTrue ?? false
    sortsKeys = sortKeys?.isTrue ?? false
    self.budget = budget
    switch indent {
    case nil, .some(.none): self.indent = nil
    case .text(let text)?: self.indent = text
    case let value?:
      let width = try value.wholeNumber("indent")
      guard width <= Limits.field else { throw TemplateError(.limit, "an indent of \(width)") }
      self.indent = Text([Unicode.Scalar](repeating: " ", count: max(0, width)))
    }
    if let separators, !separators.isNone {
      let pair = try separators.collected(budget)
      guard pair.count == 2 else { throw TemplateError(.value, "separators are \(pair.count) values, not 2") }
      (itemSeparator, keySeparator) = (try pair[0].onlyText("a separator"), try pair[1].onlyText("a separator"))
    } else {
      (itemSeparator, keySeparator) = (self.indent == nil ? ", " : ",", ": ")
    }
  }

  /// - Throws: a type error for values JSON has no form for
  func text(_ value: Value) throws -> Text {
    var out: [Unicode.Scalar] = []
    try write(value, to: &out, level: 0)
    try budget.spendText(out.count)
    return Text(out)
  }

  private func write(_ value: Value, to out: inout [Unicode.Scalar], level: Int) throws {
    try budget.spend()
    guard out.count <= Limits.text else { throw TemplateError(.limit, "a text of more than \(Limits.text) characters") }
    switch value {
    case .none: out += "null".unicodeScalars
    case .bool(let value): out += (value ? "true" : "false").unicodeScalars
    case .int(let value): out += String(value).unicodeScalars
    case .float(let value): out += Self.number(value).unicodeScalars
    case .text(let text): write(text, to: &out)
    case .list(let list), .tuple(let list):
      try write(list.items, "[", "]", to: &out, level) { item, out in try write(item, to: &out, level: level + 1) }
    case .dict(let dict):
      var pairs = dict.pairs
      if sortsKeys { pairs = try Sorting.sorted(pairs.map { (key: [$0.key], item: $0) }) }
      try write(pairs, "{", "}", to: &out, level) { pair, out in
        write(try key(pair.key), to: &out)
        out += keySeparator.scalars
        try write(pair.value, to: &out, level: level + 1)
      }
    case .object(let group as Group):
      try write(.list(of: Value.object(group).collected(budget)), to: &out, level: level)
    case .undefined, .object:
      throw TemplateError(.type, "object of type \(value.typeName) is not JSON serializable")
    }
  }

  private func write<T>(
    _ items: [T], _ open: Unicode.Scalar, _ close: Unicode.Scalar, to out: inout [Unicode.Scalar], _ level: Int,
    _ element: (T, inout [Unicode.Scalar]) throws -> Void
  ) throws {
    func breakLine(_ level: Int, _ out: inout [Unicode.Scalar]) {
      guard let indent else { return }
      out.append("\n")
      for _ in 0..<level { out += indent.scalars }
    }
    out.append(open)
    for (index, item) in items.enumerated() {
      if index > 0 { out += itemSeparator.scalars }
      breakLine(level + 1, &out)
      try element(item, &out)
    }
    if !items.isEmpty { breakLine(level, &out) }
    out.append(close)
  }

  private static func number(_ value: Double) -> String {
    value.isNaN ? "NaN" : value.isInfinite ? (value < 0 ? "-Infinity" : "Infinity") : value.pythonText
  }

  private func key(_ key: Value) throws -> Text {
    switch key {
    case .text(let text): text
    case .none: "null"
    case .bool(let value): value ? "true" : "false"
    case .int(let value): Text(String(value))
    case .float(let value): Text(Self.number(value))
    default: throw TemplateError(.type, "keys must be str, int, float, bool or None, not \(key.typeName)")
    }
  }

  private func write(_ text: Text, to out: inout [Unicode.Scalar]) {
    func escape(_ unit: UInt16) {
      let digits = String(unit, radix: 16)
      out += ("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).unicodeScalars
    }
    out.append("\"")
    for scalar in text.scalars {
      switch scalar {
      case "\"", "\\": out += ["\\", scalar]
      case "\n": out += ["\\", "n"]
      case "\r": out += ["\\", "r"]
      case "\t": out += ["\\", "t"]
      case "\u{8}": out += ["\\", "b"]
      case "\u{C}": out += ["\\", "f"]
      case _ where scalar.value < 0x20 || ensuresASCII && scalar.value > 0x7E: for unit in String(scalar).utf16 { escape(unit) }
      default: out.append(scalar)
      }
    }
    out.append("\"")
  }
}
