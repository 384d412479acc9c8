/// A number in a template's source, as long as it goes.
struct NumberToken {
  let end: Int
  let isFloat: Bool
  /// Without underscores.
  let spelling: Text

  init?(_ source: [Unicode.Scalar], at start: Int) {
    func isDigit(_ place: Int, _ radix: Int) -> Bool {
      guard place < source.count, source[place].isASCII else { return false }
      return Character(source[place]).hexDigitValue.map { $0 < radix } ?? false
    }
    /// Behind digits with single underscores between them; nil without a digit.
    func digits(_ place: Int, _ radix: Int, leadingUnderscore: Bool = false) -> Int? {
      var place = place
      if leadingUnderscore, place < source.count, source[place] == "_" { place += 1 }
      guard isDigit(place, radix) else { return nil }
      while true {
        if isDigit(place, radix) {
          place += 1
        } else if place < source.count, source[place] == "_", isDigit(place + 1, radix) {
          place += 1
        } else {
          return place
        }
      }
    }
    guard let whole = digits(start, 10) else { return nil }
    var end = whole, isFloat = false
    if !(start > 0 && source[start - 1] == ".") {
      var place = whole
      if place < source.count, source[place] == ".", let fraction = digits(place + 1, 10) { (place, isFloat) = (fraction, true) }
      if place < source.count, source[place] == "e" || source[place] == "E" {
        let hasSign = place + 1 < source.count && (source[place + 1] == "+" || source[place + 1] == "-")
        if let exponent = digits(place + (hasSign ? 2 : 1), 10) { (place, isFloat) = (exponent, true) }
      }
      if isFloat { end = place }
    }
    if !isFloat, source[start] == "0" {
      let radix: Int? =
        start + 1 < source.count
        ? ["x": 16, "X": 16, "o": 8, "O": 8, "b": 2, "B": 2][Character(source[start + 1])] : nil
      if let radix, let prefixed = digits(start + 2, radix, leadingUnderscore: true) {
        end = prefixed
      } else {
        // Python has no decimal numbers that begin with zero, save zero.
        end = start + 1
        while end < source.count, source[end] == "0" || source[end] == "_" && end + 1 < source.count && source[end + 1] == "0" {
          end += 1
        }
      }
    }
    self.end = end
    self.isFloat = isFloat
    spelling = Text(source[start..<end].filter { $0 != "_" })
  }

  /// The value of an integer's spelling.
  ///
  /// - Throws: a syntax error beyond 64 bits
  static func int(_ spelling: Text, line: Int) throws -> Int {
    let text = spelling.string.lowercased()
    let radix = text.hasPrefix("0x") ? 16 : text.hasPrefix("0o") ? 8 : text.hasPrefix("0b") ? 2 : 10
    guard let value = Int(radix == 10 ? text : String(text.dropFirst(2)), radix: radix) else {
      throw TemplateError(.syntax, "the integer \(text.prefix(40)) does not fit 64 bits", line: line)
    }
    return value
  }
}

/// The escapes of Python's string literals.
enum StringEscapes {
  /// - Throws: a syntax error for an escape that is cut off or names no character
  static func decoded(_ body: [Unicode.Scalar], line: Int) throws -> Text {
    guard body.contains("\\") else { return Text(body) }
    var out: [Unicode.Scalar] = [], at = 0
    func digits(_ count: Int, radix: Int, from place: Int, exactly: Bool) throws -> (value: UInt32, end: Int) {
      var value: UInt32 = 0, end = place
      while end < body.count, end < place + count, body[end].isASCII,
        let digit = Character(body[end]).hexDigitValue, digit < radix
      {
        value = value << (radix == 8 ? 3 : 4) | UInt32(digit)
        end += 1
      }
      if exactly, end != place + count { throw TemplateError(.syntax, "a string with a truncated escape", line: line) }
      return (value, end)
    }
    func scalar(_ value: UInt32) throws -> Unicode.Scalar {
      guard let scalar = Unicode.Scalar(value) else {
        throw TemplateError(.syntax, "a string with an escape that is no character: \(String(value, radix: 16))", line: line)
      }
      return scalar
    }
    while at < body.count {
      guard body[at] == "\\", at + 1 < body.count else {
        out.append(body[at])
        at += 1
        continue
      }
      let letter = body[at + 1]
      at += 2
      switch letter {
      case "\n": break
      case "\\", "'", "\"": out.append(letter)
      case "a": out.append("\u{7}")
      case "b": out.append("\u{8}")
      case "f": out.append("\u{C}")
      case "n": out.append("\n")
      case "r": out.append("\r")
      case "t": out.append("\t")
      case "v": out.append("\u{B}")
      case "x", "u", "U":
        let (value, end) = try digits(letter == "x" ? 2 : letter == "u" ? 4 : 8, radix: 16, from: at, exactly: true)
        out.append(try scalar(value))
        at = end
      case "0"..."7":
        let (value, end) = try digits(3, radix: 8, from: at - 1, exactly: false)
        out.append(try scalar(value))
        at = end
      case "N": throw TemplateError(.syntax, "a string with an escape by name, \\N, which is not supported", line: line)
      default: out += ["\\", letter]
      }
    }
    return Text(out)
  }
}
