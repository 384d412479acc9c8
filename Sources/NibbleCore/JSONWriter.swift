extension JSON {
  /// How a value is laid out as text.
  public enum Layout: Sendable {
    /// No white space at all.
    case compact
    /// Python's default encoder: one line, `", "` and `": "`, everything outside ASCII escaped.
    case python
    /// Two spaces a level, as Hugging Face writes its files.
    case indented
  }

  /// This value as a file of its own: indented, with a line break at the end.
  package var fileBytes: [UInt8] { Array((text(.indented) + "\n").utf8) }

  /// This value as text.
  public func text(_ layout: Layout = .compact) -> String {
    var out = ""
    write(into: &out, layout, level: 0)
    return out
  }

  private func write(into out: inout String, _ layout: Layout, level: Int) {
    switch self {
    case .null: out += "null"
    case .bool(let value): out += value ? "true" : "false"
    case .number(let text): out += text
    case .string(let text): Self.write(text, into: &out, asciiOnly: layout == .python)
    case .array(let elements):
      Self.write(list: elements, "[", "]", into: &out, layout, level) { element, out in
        element.write(into: &out, layout, level: level + 1)
      }
    case .object(let members):
      Self.write(list: members, "{", "}", into: &out, layout, level) { member, out in
        Self.write(member.key, into: &out, asciiOnly: layout == .python)
        out += layout == .compact ? ":" : ": "
        member.value.write(into: &out, layout, level: level + 1)
      }
    }
  }

  private static func write<T>(
    list: [T], _ open: String, _ close: String, into out: inout String, _ layout: Layout, _ level: Int,
    element: (T, inout String) -> Void
  ) {
    out += open
    for (index, item) in list.enumerated() {
      if index > 0 { out += layout == .python ? ", " : "," }
      if layout == .indented { out += "\n" + String(repeating: "  ", count: level + 1) }
      element(item, &out)
    }
    if layout == .indented, !list.isEmpty { out += "\n" + String(repeating: "  ", count: level) }
    out += close
  }

  private static func write(_ text: String, into out: inout String, asciiOnly: Bool) {
    func hex(_ unit: UInt16) -> String {
      let digits = String(unit, radix: 16)
      return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
    }
    out += "\""
    defer { out += "\"" }
    // Nearly all texts stand in JSON as they are.
    let isPlain = text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x22 && $0 != 0x5C && ($0 <= 0x7E || !asciiOnly) }
    if isPlain { return out += text }
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": out += "\\\""
      case "\\": out += "\\\\"
      case "\n": out += "\\n"
      case "\r": out += "\\r"
      case "\t": out += "\\t"
      case "\u{8}": out += "\\b"
      case "\u{C}": out += "\\f"
      case _ where scalar.value < 0x20: out += hex(UInt16(scalar.value))
      case _ where asciiOnly && scalar.value > 0x7E: for unit in String(scalar).utf16 { out += hex(unit) }
      default: out.unicodeScalars.append(scalar)
      }
    }
  }
}
