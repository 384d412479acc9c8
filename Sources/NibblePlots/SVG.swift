import NibbleCore

/// Pieces of SVG pictures.
package enum SVG {
  /// A coordinate, to a tenth.
  package static func number(_ value: Double) -> String { decimal(value, 1) }

  /// `text` as XML and HTML have it, without control characters.
  package static func escaped(_ text: String) -> String {
    var out = ""
    for character in oneLine(text).unicodeScalars {
      switch character {
      case "&": out += "&amp;"
      case "<": out += "&lt;"
      case ">": out += "&gt;"
      case "\"": out += "&quot;"
      case "'": out += "&#39;"
      // No XML has these.
      case "\u{FFFE}", "\u{FFFF}": out += "\u{FFFD}"
      default: out.unicodeScalars.append(character)
      }
    }
    return out
  }

  package static func text(_ text: String, _ x: Double, _ y: Double, _ more: String = "") -> String {
    "<text x=\"\(number(x))\" y=\"\(number(y))\"\(more.isEmpty ? "" : " " + more)>\(escaped(text))</text>"
  }

  package static func line(_ a: (x: Double, y: Double), _ b: (x: Double, y: Double), _ style: String) -> String {
    "<line x1=\"\(number(a.x))\" y1=\"\(number(a.y))\" x2=\"\(number(b.x))\" y2=\"\(number(b.y))\" class=\"\(style)\"/>"
  }

  package static func polyline(_ points: [(x: Double, y: Double)], _ more: String) -> String {
    let list = points.map { "\(number($0.x)),\(number($0.y))" }.joined(separator: " ")
    return "<polyline \(more) fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\" points=\"\(list)\"/>"
  }

  /// About how wide a text is, in the fonts that pages have.
  package static func width(_ text: String, _ size: Double) -> Double {
    text.unicodeScalars.reduce(0) { sum, scalar in
      let em: Double
      switch scalar {
      case "i", "j", "l", "I", "|", "'", ".", ",", ":", ";", "!", "[", "]", "(", ")", " ", "f", "t", "r": em = 0.34
      case "m", "w", "M", "W", "@", "%": em = 0.9
      case "A"..."Z", "_", "=", "+", "~", "<", ">": em = 0.68
      default: em = scalar.value < 0x2E80 ? 0.57 : 1
      }
      return sum + em * size
    }
  }

  /// `text`, cut in the middle where it is wider than `room`.
  package static func fitted(_ text: String, _ size: Double, room: Double) -> String {
    guard width(text, size) > room else { return text }
    var kept = text.count
    while kept > 2 {
      kept -= 1
      let cut = text.prefix((kept + 1) / 2) + "…" + text.suffix(kept / 2)
      if width(String(cut), size) <= room { return String(cut) }
    }
    return "…"
  }
}
