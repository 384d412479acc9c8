/// Filling strings up, and formats.
extension StringMethods {
  static let fields = table([
    positional("center", 1...2) { text, given, renderer in try filled(text, given, renderer) { missing, width in
      // As CPython: the odd one goes to the left where the width is odd.
      missing / 2 + (missing & width & 1)
    } },
    positional("ljust", 1...2) { text, given, renderer in try filled(text, given, renderer) { _, _ in 0 } },
    positional("rjust", 1...2) { text, given, renderer in try filled(text, given, renderer) { missing, _ in missing } },
    positional("zfill", 1...1) { text, given, renderer in
      let missing = try given[0].wholeNumber("zfill()'s argument") - text.count
      guard missing > 0 else { return .text(text) }
      try renderer.budget.spendText(missing)
      let sign = text.scalars.first == "-" || text.scalars.first == "+" ? 1 : 0
      return .text(text[0..<sign] + Text([Unicode.Scalar](repeating: "0", count: missing)) + text[sign..<text.count])
    },
    (
      "expandtabs",
      { owner, arguments, renderer in
        let width = try arguments.bound("expandtabs", ["tabsize"])[0]?.wholeNumber("tabsize") ?? 8
        guard let text = owner.text else { return .none }
        var out: [Unicode.Scalar] = [], column = 0
        for scalar in text.scalars {
          guard scalar == "\t" else {
            column = scalar == "\n" || scalar == "\r" ? 0 : column + 1
            out.append(scalar)
            continue
          }
          let missing = width > 0 ? width - column % width : 0
          try renderer.budget.spendText(missing)
          out += [Unicode.Scalar](repeating: " ", count: missing)
          column += missing
          guard out.count <= Limits.text else { throw TemplateError(.limit, "a text of more than \(Limits.text) characters") }
        }
        return .text(Text(out))
      }
    ),
    (
      "format",
      { owner, arguments, renderer in
        guard let text = owner.text else { return .none }
        return .text(try FieldFormat(arguments, renderer).text(text))
      }
    ),
    positional("format_map", 1...1) { text, given, renderer in
      guard case .dict(let dict) = given[0] else { throw TemplateError(.type, "format_map()'s argument must be a mapping") }
      let named = dict.pairs.compactMap { pair in pair.key.text.map { (name: $0, value: pair.value) } }
      return .text(try FieldFormat(Arguments(named: named), renderer).text(text))
    },
  ])

  private static func filled(_ text: Text, _ given: [Value], _ renderer: Renderer, _ left: (Int, Int) -> Int) throws -> Value {
    let width = try given[0].wholeNumber("a width")
    let fill = try given.count > 1 ? given[1].onlyText("the fill character") : " "
    guard fill.count == 1 else { throw TemplateError(.type, "the fill character must be exactly one character long") }
    let missing = width > text.count ? width - text.count : 0
    guard missing > 0 else { return .text(text) }
    try renderer.budget.spendText(width)
    let before = left(missing, width)
    func run(_ count: Int) -> [Unicode.Scalar] { [Unicode.Scalar](repeating: fill.scalars[0], count: count) }
    return .text(Text(run(before) + text.scalars + run(missing - before)))
  }
}
