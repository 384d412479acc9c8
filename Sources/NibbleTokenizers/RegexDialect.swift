import NibbleCore

/// Regular expressions of tokenizers, said in PCRE2's words.
///
/// tokenizer.json is written for Oniguruma, tiktoken's patterns for Rust's engine. Most of them means the same to PCRE2;
/// what does not is spelled out: `\s` and `\w` as their sets, properties with the characters that came since PCRE2's
/// tables, `{1,3}+`, which is possessive to some. What cannot be said is refused.
struct RegexDialect {
  enum Origin {
    /// tokenizer.json
    case oniguruma
    /// tiktoken
    case rust
  }

  private let origin: Origin
  private let pattern: [Unicode.Scalar]
  private var at = 0
  /// The translation, in parts that quantifiers stand for as a whole.
  private var parts: [String] = []
  /// Where the last atom starts among the parts.
  private var atom = 0
  private var groups: [Int] = []

  /// Compiles `pattern`.
  static func compile(_ pattern: String, _ origin: Origin, place: String) throws -> Pattern {
    do {
      var dialect = RegexDialect(origin: origin, pattern: Array(pattern.unicodeScalars))
      return try Pattern(
        ofFile: dialect.translated(), lineAnchors: origin == .oniguruma, isTrusted: KnownPattern.all.contains(pattern))
    } catch let error as NibbleError {
      throw NibbleError(error.kind, "\(path: place): \(error.text)")
    }
  }

  private init(origin: Origin, pattern: [Unicode.Scalar]) {
    self.origin = origin
    self.pattern = pattern
  }

  private func refused(_ what: MessageText) -> NibbleError {
    .badInput("\(what) in the regular expression \(subject: text(pattern[...])) is not supported")
  }

  private func text(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
    var text = String.UnicodeScalarView()
    text.append(contentsOf: scalars)
    return String(text)
  }

  private var next: Unicode.Scalar? { at < pattern.count ? pattern[at] : nil }

  private func follows(_ word: String) -> Bool { pattern[at...].starts(with: word.unicodeScalars) }

  private mutating func translated() throws -> String {
    guard pattern.count <= 10_000 else { throw refused("a length of \(pattern.count)") }
    while let scalar = next {
      switch scalar {
      case "\\": try addAtom(escape(inClass: false))
      case "[": try addAtom(characterClass())
      case "(": try openGroup()
      case ")":
        at += 1
        parts.append(")")
        atom = groups.popLast() ?? parts.count - 1
      case "*", "+", "?":
        at += 1
        parts.append(String(scalar))
      case "{": interval()
      default:
        at += 1
        addAtom(String(scalar))
      }
    }
    return parts.joined()
  }

  private mutating func addAtom(_ text: String) {
    atom = parts.count
    parts.append(text)
  }

  private mutating func openGroup() throws {
    groups.append(parts.count)
    at += 1
    guard next == "?" else {
      if next == "*" { throw refused("'(*'") }
      parts.append("(")
      return
    }
    at += 1
    if next == "~" { throw refused("'(?~'") }
    // Flags: what PCRE2 calls s is m to Oniguruma, where lines are always looked at one by one.
    var flags = "(?"
    while let flag = next, flag.properties.isLowercase || flag == "-", flag.value < 0x80 {
      flags += origin == .oniguruma && flag == "m" ? "s" : String(flag)
      at += 1
    }
    parts.append(flags)
    // The rest of an opening: `:`, `=`, `!`, `<name>`.
    if let mark = next, mark != ")" {
      parts.append(String(mark))
      at += 1
    }
  }

  private mutating func interval() {
    let start = at
    at += 1
    var inside = ""
    while let scalar = next, scalar == "," || (0x30...0x39).contains(scalar.value) {
      inside.unicodeScalars.append(scalar)
      at += 1
    }
    guard next == "}", inside != "", inside != "," else {
      at = start + 1
      return addAtom("\\{")
    }
    at += 1
    let quantifier = "{" + (inside.hasPrefix(",") ? "0" : "") + inside + "}"
    if origin == .oniguruma, next == "+" {
      parts.insert("(?:", at: atom)
      parts.append(quantifier + ")")
    } else {
      parts.append(quantifier)
    }
  }

  private mutating func characterClass() throws -> String {
    var result = "["
    at += 1
    if next == "^" {
      result += "^"
      at += 1
    }
    var isFirst = true
    while let scalar = next {
      switch scalar {
      case "]" where !isFirst:
        at += 1
        return result + "]"
      case "\\": result += try escape(inClass: true)
      case "[":
        guard follows("[:") else { throw refused("a set within a set") }
        result += try posixSet()
      case "&" where follows("&&"): throw refused("'&&'")
      default:
        at += 1
        result.unicodeScalars.append(scalar)
      }
      isFirst = false
    }
    throw refused("a set without its end")
  }

  /// `[:alpha:]` within a set.
  private mutating func posixSet() throws -> String {
    at += 2
    var name = ""
    while let scalar = next, scalar.properties.isLowercase {
      name.unicodeScalars.append(scalar)
      at += 1
    }
    guard follows(":]"), let members = RegexSets.posix(name) else { throw refused("the set [:\(name)…") }
    at += 2
    return members
  }

  private mutating func escape(inClass: Bool) throws -> String {
    at += 1
    guard let scalar = next else { throw refused("a single '\\' at the end") }
    at += 1
    func set(_ content: String, not: Bool = false) -> String { inClass ? content : "[\(not ? "^" : "")\(content)]" }
    switch scalar {
    case "s": return set(RegexSets.space)
    // Inside a set nothing can be taken away again; U+180E is the one that PCRE2 counts as space and others do not.
    case "S": return inClass ? "\\S\\x{180E}" : set(RegexSets.space, not: true)
    // Oniguruma takes ², ³, ¹ and the fractions for word characters, but not within a set.
    case "w": return set(RegexSets.word(inClass && origin == .oniguruma ? nil : origin))
    case "W":
      if inClass { throw refused("'\\W' in a set") }
      return set(RegexSets.word(origin), not: true)
    case "d": return set(RegexSets.category("Nd"))
    case "D": return inClass ? "\\D" : set(RegexSets.category("Nd"), not: true)
    case "h": return set("0-9A-Fa-f")
    case "H" where !inClass: return set("0-9A-Fa-f", not: true)
    case "v": return "\\x0B"
    case "b" where !inClass:
      let word = "[\(RegexSets.word(origin))]"
      return "(?:(?<=\(word))(?!\(word))|(?<!\(word))(?=\(word)))"
    case "p", "P": return try property(negated: scalar == "P", inClass: inClass)
    case "u":
      let digits = pattern[at...].prefix(4)
      guard digits.count == 4, digits.allSatisfy({ $0.properties.isASCIIHexDigit }) else { throw refused("'\\u'") }
      at += 4
      return "\\x{" + text(digits) + "}"
    case "n", "r", "t", "f", "a", "e", "x", "0"..."9", "A", "z", "Z", "G", "k", "R", "X", "b", "B", "K", "N":
      return "\\" + String(scalar)
    case _ where scalar.properties.isAlphabetic: throw refused("'\\\(scalar)'")
    default: return "\\" + String(scalar)
    }
  }

  private mutating func property(negated: Bool, inClass: Bool) throws -> String {
    var name = ""
    if next == "{" {
      at += 1
      while let scalar = next, scalar != "}" {
        name.unicodeScalars.append(scalar)
        at += 1
      }
      guard next == "}" else { throw refused("a property without its end") }
      at += 1
    } else if let scalar = next {
      name = String(scalar)
      at += 1
    }
    let isNegated = negated != name.hasPrefix("^")
    if name.hasPrefix("^") { name.removeFirst() }
    guard let property = RegexSets.property(name) else { throw refused("the property \(quoted(name))") }
    if inClass { return isNegated ? "\\P{\(property)}" : RegexSets.members(property) }
    return "[\(isNegated ? "^" : "")\(RegexSets.members(property))]"
  }
}
