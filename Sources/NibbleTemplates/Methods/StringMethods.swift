/// The methods of Python's `str`.
enum StringMethods {
  static let all: [Text: Method] = caseMethods.merging(questions) { a, _ in a }
    .merging(StringMethods.searches) { a, _ in a }.merging(StringMethods.cuts) { a, _ in a }
    .merging(StringMethods.fields) { a, _ in a }.merging(refused) { a, _ in a }

  private static let refused = table(
    ["encode", "translate", "maketrans"].map { name in
      (Text(name), { _, _, _ in throw TemplateError(.type, "'\(name)' of a string is not supported") })
    })

  /// A method without arguments.
  static func plain(_ name: String, _ body: @escaping @Sendable (Text) -> Value) -> (Text, Method) {
    (
      Text(name),
      { owner, arguments, renderer in
        _ = try arguments.onlyPositional(name, 0...0)
        guard let text = owner.text else { return .none }
        let value = body(text)
        try renderer.budget.spendText(value.text?.count ?? 0)
        return value
      }
    )
  }

  /// A method whose arguments have no names.
  static func positional(
    _ name: String, _ counts: ClosedRange<Int>, _ body: @escaping @Sendable (Text, [Value], Renderer) throws -> Value
  ) -> (Text, Method) {
    (
      Text(name),
      { owner, arguments, renderer in
        let given = try arguments.onlyPositional(name, counts)
        guard let text = owner.text else { return .none }
        return try body(text, given, renderer)
      }
    )
  }

  static func table(_ methods: [(Text, Method)]) -> [Text: Method] { Dictionary(methods) { a, _ in a } }

  private static let caseMethods = table([
    plain("upper") { .text($0.uppercased) }, plain("lower") { .text($0.lowercased) },
    plain("capitalize") { .text($0.capitalized) }, plain("title") { .text($0.titled) },
    plain("swapcase") { .text($0.swappedCase) }, plain("casefold") { .text($0.casefolded) },
  ])

  private static let questions = table([
    plain("isspace") { .bool($0.all { $0.isPythonSpace }) }, plain("isalpha") { .bool($0.all { $0.isPythonAlpha }) },
    plain("isalnum") { .bool($0.all { $0.isPythonAlphanumeric }) }, plain("isdigit") { .bool($0.all { $0.isPythonDigit }) },
    plain("isdecimal") { .bool($0.all { $0.isPythonDecimal }) }, plain("isnumeric") { .bool($0.all { $0.isPythonNumeric }) },
    plain("isascii") { .bool($0.scalars.allSatisfy { $0.isASCII }) },
    plain("isprintable") { .bool($0.scalars.allSatisfy { $0.isPythonPrintable }) },
    plain("isidentifier") { .bool($0.isIdentifier) }, plain("islower") { .bool($0.isPythonLower) },
    plain("isupper") { .bool($0.isPythonUpper) }, plain("istitle") { .bool($0.isPythonTitle) },
  ])
}
