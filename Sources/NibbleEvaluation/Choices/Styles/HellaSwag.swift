extension ChoiceStyle {
  /// HellaSwag: how a scene goes on. Brackets that WikiHow's articles left are taken out.
  static let hellaswag = ChoiceStyle("hellaswag", keys: ["activity_label", "ctx_a", "ctx_b", "endings"]) { row in
    let scene = "\(try row.text("activity_label")): \(try row.text("ctx_a")) \(capitalized(try row.text("ctx_b")))"
    guard let endings = row.row["endings"]?.array?.map(\.string), endings.count >= 2, !endings.contains(nil) else {
      throw row.fail("'endings' are not two texts or more")
    }
    let choices = endings.compactMap { $0 }.map(clean)
    return ChoiceQuestion(
      context: clean(scene), continuations: choices.map { " " + $0 }, choices: choices, answer: try row.answer(choices.count), place: row.place)
  }

  /// The first letter large, all others small.
  private static func capitalized(_ text: String) -> String {
    guard let first = text.unicodeScalars.first else { return text }
    return first.properties.titlecaseMapping + String(text.unicodeScalars.dropFirst()).lowercased()
  }

  private static func clean(_ text: String) -> String {
    let text = Array(trimmed(text).unicodeScalars), title = Array(" [title]".unicodeScalars), space: Unicode.Scalar = " "
    let plain = withoutBrackets(replacing(title, in: text, with: [".", space]))
    return replacing([space, space], in: plain, with: [space]).reduce(into: "") { $0.unicodeScalars.append($1) }
  }

  private static func replacing(_ old: [Unicode.Scalar], in text: [Unicode.Scalar], with new: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var (out, at) = ([Unicode.Scalar](), 0)
    while at < text.count {
      if text[at...].starts(with: old) {
        out += new
        at += old.count
      } else {
        out.append(text[at])
        at += 1
      }
    }
    return out
  }

  /// Without "[…]", as far as both brackets stand on one line.
  private static func withoutBrackets(_ text: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var (out, at) = ([Unicode.Scalar](), 0)
    while at < text.count {
      if text[at] == "[", let end = text[at...].firstIndex(where: { $0 == "]" || $0 == "\n" }), text[end] == "]" {
        at = end + 1
      } else {
        out.append(text[at])
        at += 1
      }
    }
    return out
  }
}
