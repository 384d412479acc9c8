/// Cuts a template into tokens, by the rules of Jinja's own lexer: what white space a tag takes with it is decided here.
struct Lexer {
  private let source: [Unicode.Scalar]
  private let trimsBlocks: Bool, stripsBlocks: Bool
  private var at = 0
  private(set) var line = 1
  /// Whether what was read last ended with a line.
  private var isLineStart = true
  private(set) var tokens: [Token] = []
  /// Closing brackets that are due within a tag.
  private var brackets: [Unicode.Scalar] = []

  /// - Parameters:
  ///   - trimsBlocks: a line's end behind a statement or a comment goes with it
  ///   - stripsBlocks: white space between a line's start and a statement or a comment goes with it
  init(_ source: Text, trimsBlocks: Bool, stripsBlocks: Bool) {
    var scalars = Self.withPlainLineEnds(source.scalars)
    // One line's end at the end is the file's, not the template's.
    if scalars.last == "\n" { scalars.removeLast() }
    (self.source, self.trimsBlocks, self.stripsBlocks) = (scalars, trimsBlocks, stripsBlocks)
  }

  static func withPlainLineEnds(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    guard scalars.contains("\r") else { return scalars }
    var out: [Unicode.Scalar] = []
    for (index, scalar) in scalars.enumerated() {
      if scalar == "\n", index > 0, scalars[index - 1] == "\r" { continue }
      out.append(scalar == "\r" ? "\n" : scalar)
    }
    return out
  }

  /// - Throws: a syntax error
  static func tokens(of source: Text, trimsBlocks: Bool, stripsBlocks: Bool) throws -> [Token] {
    var lexer = Lexer(source, trimsBlocks: trimsBlocks, stripsBlocks: stripsBlocks)
    while lexer.at < lexer.source.count { try lexer.root() }
    lexer.tokens.append(Token(kind: .end, text: "", line: lexer.line))
    return lexer.tokens
  }

  // MARK: Outside of tags

  private func stands(_ spelling: Text, at place: Int) -> Bool {
    guard place + spelling.count <= source.count else { return false }
    for (index, scalar) in spelling.scalars.enumerated() where source[place + index] != scalar { return false }
    return true
  }

  private func scalar(_ place: Int) -> Unicode.Scalar? { place < source.count ? source[place] : nil }

  private func skippingSpace(_ place: Int) -> Int {
    var place = place
    while place < source.count, source[place].isPythonSpace { place += 1 }
    return place
  }

  private mutating func move(to place: Int) {
    for index in at..<place where source[index] == "\n" { line += 1 }
    if place > at { isLineStart = source[place - 1] == "\n" }
    at = place
  }

  private mutating func root() throws {
    let start = at
    var opening = at
    while opening + 1 < source.count {
      if source[opening] == "{", source[opening + 1] == "%" || source[opening + 1] == "{" || source[opening + 1] == "#" { break }
      opening += 1
    }
    guard opening + 1 < source.count else {
      append(.data, Text(source[start...]))
      return move(to: source.count)
    }
    let kind = source[opening + 1]
    var next = opening + 2
    let sign = scalar(next).flatMap { $0 == "-" || $0 == "+" ? $0 : nil }
    if sign != nil { next += 1 }
    append(.data, text(before: opening, sign: sign, isVariable: kind == "{"))
    if kind == "%", let body = rawBegin(next) {
      move(to: body)
      return try raw()
    }
    move(to: next)
    switch kind {
    case "#": try comment()
    case "{":
      append(.variableBegin, "")
      try tag(isVariable: true)
    default:
      append(.blockBegin, "")
      try tag(isVariable: false)
    }
  }

  /// The data from here to a tag, without the white space that the tag takes.
  private func text(before opening: Int, sign: Unicode.Scalar?, isVariable: Bool) -> Text {
    let data = Text(source[at..<opening])
    if sign == "-" { return data.trimmed(start: false) { $0.isPythonSpace } }
    guard sign != "+", stripsBlocks, !isVariable else { return data }
    let lineStart = data.scalars.lastIndex(of: "\n").map { $0 + 1 } ?? 0
    guard lineStart > 0 || isLineStart, data.scalars[lineStart...].allSatisfy({ $0.isPythonSpace }) else { return data }
    return data[0..<lineStart]
  }

  private mutating func append(_ kind: Token.Kind, _ text: Text) {
    if kind == .data, text.isEmpty { return }
    tokens.append(Token(kind: kind, text: text, line: line))
  }

  private mutating func comment() throws {
    var place = at
    while place < source.count {
      if stands("-#}", at: place) { return move(to: skippingSpace(place + 3)) }
      if stands("+#}", at: place) { return move(to: place + 3) }
      if stands("#}", at: place) { return move(to: afterBlock(place + 2)) }
      place += 1
    }
    throw TemplateError(.syntax, "a comment without its end", line: line)
  }

  private func afterBlock(_ place: Int) -> Int { trimsBlocks && scalar(place) == "\n" ? place + 1 : place }

  /// Where the text of a raw block begins, if one does here.
  private func rawBegin(_ place: Int) -> Int? {
    var place = skippingSpace(place)
    guard stands("raw", at: place) else { return nil }
    place = skippingSpace(place + 3)
    if stands("-%}", at: place) { return skippingSpace(place + 3) }
    return stands("%}", at: place) ? place + 2 : nil
  }

  private mutating func raw() throws {
    var opening = at
    while opening < source.count {
      defer { opening += 1 }
      guard stands("{%", at: opening) else { continue }
      var place = opening + 2
      let sign = scalar(place).flatMap { $0 == "-" || $0 == "+" ? $0 : nil }
      place = skippingSpace(sign == nil ? place : place + 1)
      guard stands("endraw", at: place) else { continue }
      place = skippingSpace(place + 6)
      let end: Int? =
        if stands("-%}", at: place) { skippingSpace(place + 3) } else if stands("+%}", at: place) { place + 3 } else if stands(
          "%}", at: place) { afterBlock(place + 2) } else { nil }
      guard let end else { continue }
      append(.data, text(before: opening, sign: sign, isVariable: false))
      return move(to: end)
    }
    throw TemplateError(.syntax, "a raw block without its end", line: line)
  }

  // MARK: Within tags

  private mutating func tag(isVariable: Bool) throws {
    brackets = []
    while true {
      guard at < source.count else {
        // The parser says what is missing.
        return
      }
      if brackets.isEmpty, let end = tagEnd(isVariable: isVariable) {
        append(isVariable ? .variableEnd : .blockEnd, "")
        return move(to: end)
      }
      try token()
    }
  }

  private func tagEnd(isVariable: Bool) -> Int? {
    if isVariable {
      if stands("-}}", at: at) { return skippingSpace(at + 3) }
      return stands("}}", at: at) ? at + 2 : nil
    }
    if stands("+%}", at: at) { return at + 3 }
    if stands("-%}", at: at) { return skippingSpace(at + 3) }
    return stands("%}", at: at) ? afterBlock(at + 2) : nil
  }

  private static let operators: [Text] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", "=", ">", "<", ".", ":", "|",
    ",", ";",
  ]

  private mutating func token() throws {
    let first = source[at]
    if first.isPythonSpace { return move(to: skippingSpace(at)) }
    if let number = NumberToken(source, at: at) {
      append(number.isFloat ? .float : .integer, number.spelling)
      return move(to: number.end)
    }
    if first.isPythonWord || first.isIdentifierPart { return try name() }
    if first == "'" || first == "\"" { return try string(first) }
    guard let spelling = Self.operators.first(where: { stands($0, at: at) }) else {
      throw TemplateError(.syntax, "unexpected character \(Text([first]).repr.string)", line: line)
    }
    switch first {
    case "(": brackets.append(")")
    case "[": brackets.append("]")
    case "{": brackets.append("}")
    case ")", "]", "}":
      guard let due = brackets.popLast() else { throw TemplateError(.syntax, "unexpected '\(first)'", line: line) }
      guard due == first else { throw TemplateError(.syntax, "unexpected '\(first)', expected '\(due)'", line: line) }
    default: break
    }
    append(.op, spelling)
    move(to: at + spelling.count)
  }

  private mutating func name() throws {
    var end = at
    while end < source.count, source[end].isPythonWord || source[end].isIdentifierPart { end += 1 }
    let name = Text(source[at..<end])
    guard name.isIdentifier else { throw TemplateError(.syntax, "\(quotedName(name)) is no identifier", line: line) }
    append(.name, name)
    move(to: end)
  }

  private func quotedName(_ name: Text) -> String { name.repr.string }

  private mutating func string(_ quote: Unicode.Scalar) throws {
    var end = at + 1
    while end < source.count, source[end] != quote { end += source[end] == "\\" ? 2 : 1 }
    guard end < source.count else { throw TemplateError(.syntax, "a string without its end", line: line) }
    append(.string, try StringEscapes.decoded(Array(source[at + 1..<end]), line: line))
    move(to: end + 1)
  }
}
