/// Filters on texts; other values count as what they print.
enum TextFilters {
  static let all: [Text: Filters.Filter] = [
    "upper": plain { $0.uppercased }, "lower": plain { $0.lowercased }, "capitalize": plain { $0.capitalized }, "title": plain(title),
    "trim": { value, arguments, renderer in
      let given = try arguments.bound("trim", ["chars"])
      let text = try value.str(renderer.budget)
      guard let chars = given[0], !chars.isNone else { return .text(text.trimmed) }
      let cut = Set(try chars.onlyText("strip arg").scalars)
      return .text(text.trimmed { cut.contains($0) })
    },
    "replace": { value, arguments, renderer in
      let given = try arguments.bound("replace", ["old", "new", "count"], required: 2)
      let old = try given[0]?.str(renderer.budget) ?? "", new = try given[1]?.str(renderer.budget) ?? ""
      let limit = try given[2].flatMap { $0.isNone ? nil : try $0.wholeNumber("count") } ?? -1
      return .text(try StringMethods.replaced(value.str(renderer.budget), old, new, limit, renderer.budget))
    },
    "format": { value, arguments, renderer in
      guard arguments.positional.isEmpty || arguments.named.isEmpty else {
        throw TemplateError(.value, "can't handle positional and keyword arguments at the same time")
      }
      let values: Value =
        arguments.named.isEmpty ? try .tuple(of: arguments.positional) : .dict(try Dict(arguments.named.map { (.text($0.name), $0.value) }))
      return .text(try PercentFormat(value.str(renderer.budget), values, renderer).text())
    },
    "center": { value, arguments, renderer in
      let width = try arguments.bound("center", ["width"])[0] ?? .int(80)
      let center = StringMethods.all["center"]
      return try center?(.text(value.str(renderer.budget)), Arguments(positional: [width]), renderer) ?? value
    },
    "indent": { value, arguments, renderer in
      let given = try arguments.bound("indent", ["width", "first", "blank"])
      if case .undefined(let undefined) = value { throw undefined.error }
      let text = try value.onlyText("the value to indent")
      let indent: Text
      if case .text(let own)? = given[0] {
        indent = own
      } else {
        let width = try given[0]?.wholeNumber("width") ?? 4
        try renderer.budget.spendText(max(0, width))
        indent = Text([Unicode.Scalar](repeating: " ", count: max(0, width)))
      }
      let lines = (text + "\n").lines(), isBlankToo = given[2]?.isTrue ?? false
      try renderer.budget.spendRepeated(indent.count + 1, times: lines.count, isText: true)
      var out = given[1]?.isTrue == true ? indent : Text()
      for (index, line) in lines.enumerated() {
        if index > 0 { out += isBlankToo || !line.isEmpty ? "\n" + indent : "\n" }
        out += line
      }
      return .text(out)
    },
    "truncate": { value, arguments, renderer in
      let given = try arguments.bound("truncate", ["length", "killwords", "end", "leeway"])
      let end = try given[2]?.onlyText("end") ?? "..."
      let length = try given[0]?.wholeNumber("length") ?? 255
      let leeway = try given[3].flatMap { $0.isNone ? nil : try $0.wholeNumber("leeway") } ?? 5
      guard length >= end.count, leeway >= 0 else { throw TemplateError(.value, "expected length >= \(end.count), got \(length)") }
      let count = try value.length()
      if length >= count || count - length <= leeway { return value }
      let text = try value.onlyText("the value to truncate")
      let kept = text[0..<length - end.count]
      if given[1]?.isTrue == true { return .text(kept + end) }
      return .text((kept.splitFromRight(" ", limit: 1).first ?? kept) + end)
    },
    "wordcount": { value, arguments, renderer in
      _ = try arguments.bound("wordcount", [])
      var words = 0, isInside = false
      for scalar in try value.str(renderer.budget).scalars {
        if scalar.isPythonWord, !isInside { words += 1 }
        isInside = scalar.isPythonWord
      }
      return .int(words)
    },
    "wordwrap": { value, arguments, renderer in
      let given = try arguments.bound("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"])
      let text = try value.onlyText("the value to wrap")
      let wrap = WordWrap(
        width: try given[0]?.wholeNumber("width") ?? 79, breaksWords: given[1]?.isTrue ?? true, breaksHyphens: given[3]?.isTrue ?? true)
      let separator = try given[2].flatMap { $0.isNone ? nil : try $0.onlyText("wrapstring") } ?? "\n"
      let lines = try text.lines().map { line in try wrap.lines(line) }
      var out = Text(), isFirst = true
      // A line without words is an empty one.
      for line in lines.flatMap({ $0.isEmpty ? [Text()] : $0 }) {
        if !isFirst { out += separator }
        isFirst = false
        out += line
        guard out.count <= Limits.text else { break }
      }
      try renderer.budget.spendText(out.count)
      return .text(out)
    },
  ]

  private static func plain(_ change: @escaping @Sendable (Text) -> Text) -> Filters.Filter {
    { value, arguments, renderer in
      _ = try arguments.bound("filter", [])
      let text = change(try value.str(renderer.budget))
      try renderer.budget.spendText(text.count)
      return .text(text)
    }
  }

  /// A capital after each run of `-`, white space or an opening bracket.
  private static func title(_ text: Text) -> Text {
    var out: [Unicode.Scalar] = []
    var word: [Unicode.Scalar] = []
    func isBreak(_ scalar: Unicode.Scalar) -> Bool { scalar.isPythonSpace || ["-", "(", "{", "[", "<"].contains(scalar) }
    func end() {
      guard let first = word.first else { return }
      out += first.properties.uppercaseMapping.unicodeScalars
      out += Text(word.dropFirst()).lowercased.scalars
      word = []
    }
    for scalar in text.scalars {
      if isBreak(scalar) {
        end()
        out.append(scalar)
      } else {
        word.append(scalar)
      }
    }
    end()
    return Text(out)
  }
}
