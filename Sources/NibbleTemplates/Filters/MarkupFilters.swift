/// Filters for HTML and URLs. Chat templates have no automatic escaping, so what is marked as safe is a text like any other.
enum MarkupFilters {
  static let all: [Text: Filters.Filter] = [
    "escape": escape, "e": escape, "forceescape": escape,
    "safe": { value, arguments, renderer in
      _ = try arguments.bound("safe", [])
      return .text(try value.str(renderer.budget))
    },
    "striptags": { value, arguments, renderer in
      _ = try arguments.bound("striptags", [])
      return .text(stripped(try value.str(renderer.budget)))
    },
    "urlencode": { value, arguments, renderer in
      _ = try arguments.bound("urlencode", [])
      func quote(_ value: Value, forQuery: Bool) throws -> Text { quoted(try value.str(renderer.budget), forQuery: forQuery) }
      var pairs: [(Value, Value)] = []
      switch value {
      case .dict(let dict): pairs = dict.pairs.map { ($0.key, $0.value) }
      case .list, .tuple, .object:
        for item in try value.collected(renderer.budget) {
          let pair = try item.collected(renderer.budget)
          guard pair.count == 2 else { throw TemplateError(.value, "'urlencode' takes pairs, and one has \(pair.count) elements") }
          pairs.append((pair[0], pair[1]))
        }
      default: return .text(try quote(value, forQuery: false))
      }
      var out = Text()
      for (index, pair) in pairs.enumerated() {
        if index > 0 { out += "&" }
        out += try quote(pair.0, forQuery: true) + "=" + quote(pair.1, forQuery: true)
      }
      try renderer.budget.spendText(out.count)
      return .text(out)
    },
    "xmlattr": { value, arguments, renderer in
      let hasSpace = try arguments.bound("xmlattr", ["autospace"])[0]?.isTrue ?? true
      guard case .dict(let dict) = value else { throw TemplateError(.type, "'xmlattr' takes a mapping, not \(value.typeName)") }
      var parts: [Text] = []
      for (key, value) in dict.pairs where !value.isNone && !value.isUndefined {
        let name = try key.onlyText("an attribute's name")
        guard !name.scalars.contains(where: { ["\t", "\n", "\u{B}", "\u{C}", "\r", " ", "/", ">", "="].contains($0) }) else {
          throw TemplateError(.value, "invalid character in attribute name: \(name.repr.string)")
        }
        parts.append(escaped(name) + "=\"" + escaped(try value.str(renderer.budget)) + "\"")
      }
      var out = Text()
      for (index, part) in parts.enumerated() { out += (index > 0 || hasSpace ? " " : "") + part }
      return .text(out)
    },
    "urlize": Filters.refused("'urlize' is not supported: it makes HTML"),
  ]

  private static let escape: Filters.Filter = { value, arguments, renderer in
    _ = try arguments.bound("escape", [])
    let text = escaped(try value.str(renderer.budget))
    try renderer.budget.spendText(text.count)
    return .text(text)
  }

  private static func escaped(_ text: Text) -> Text {
    Text(
      text.scalars.flatMap { scalar -> [Unicode.Scalar] in
        switch scalar {
        case "&": Array("&amp;".unicodeScalars)
        case "<": Array("&lt;".unicodeScalars)
        case ">": Array("&gt;".unicodeScalars)
        case "'": Array("&#39;".unicodeScalars)
        case "\"": Array("&#34;".unicodeScalars)
        default: [scalar]
        }
      })
  }

  private static let entities: [(Text, Text)] = [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\""), ("&amp;", "&")]

  /// Without comments and tags, white space as single spaces, the commonest entities as characters.
  private static func stripped(_ text: Text) -> Text {
    var out = text
    for (open, close) in [("<!--", "-->"), ("<", ">")] as [(Text, Text)] {
      var kept = Text(), at = 0
      while let start = out.find(open, from: at), let end = out.find(close, from: start) {
        kept += out[at..<start]
        at = end + close.count
      }
      out = kept + out[at..<out.count]
    }
    var joined = Text()
    for (index, word) in out.words().enumerated() { joined += (index > 0 ? " " : "") + word }
    for (entity, character) in entities { joined = joined.replacing(entity, with: character, limit: .max) }
    return joined
  }

  private static func quoted(_ text: Text, forQuery: Bool) -> Text {
    var out: [Unicode.Scalar] = []
    for byte in text.string.utf8 {
      let scalar = Unicode.Scalar(byte)
      let isPlain = byte < 0x80 && (Character(scalar).isLetter || Character(scalar).isNumber || "_.-~".unicodeScalars.contains(scalar))
      if isPlain || scalar == "/" && !forQuery {
        out.append(scalar)
      } else if scalar == " ", forQuery {
        out.append("+")
      } else {
        let digits = String(byte, radix: 16, uppercase: true)
        out += ("%" + (digits.count < 2 ? "0" : "") + digits).unicodeScalars
      }
    }
    return Text(out)
  }
}
