/// The words of a text as the COCO caption scorer has them: cut as in the Penn Treebank, in small letters, without punctuation.
///
/// Its cutter is Stanford's (CoreNLP 3.4.1). This one cuts contractions (`is n't`), keeps what hyphens, slashes and points hold together
/// (`family-friendly`, `3/5`, `20-25`, `centre.It`), writes `#` for pounds and `$` for euros, and drops the same marks; like there,
/// brackets stay as `-lrb-` and `-rrb-`, and so do `!!` and `?!`. It differs in what restaurant descriptions hardly have: web
/// addresses, rare abbreviations, `'tis`, `rock'n'roll`, fractions that are one character, decades (`'90s`).
enum PTBTokens {
  static func cut(_ text: String) -> [String] {
    var cutter = Cutter(text)
    return cutter.words().map { $0.lowercased() }
  }

  /// Words that stand apart already.
  static func spaced(_ text: String) -> [String] { ScalarText(text).words(between: \.isPythonSpace) }

  /// Words that Stanford's cutter cuts in two, and after how many letters.
  private static let cutWords = ["cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3]

  private static let abbreviations: Set<String> = [
    "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Ave", "Rd", "Sq", "Blvd", "Mt", "Ft", "Co", "Corp", "Inc", "Ltd", "Bros", "Sr", "Jr", "vs",
    "etc", "al", "est", "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec", "Mon", "Tue", "Tues",
    "Wed", "Thu", "Thurs", "Fri",
  ]

  /// A place that moves through a text.
  private struct Cutter {
    private let text: [Unicode.Scalar]
    private var at = 0

    init(_ text: String) {
      self.text = text.unicodeScalars.map { $0 == "\u{2019}" || $0 == "\u{2018}" ? "'" : $0 }
    }

    /// The character at a distance from here; a line end where there is none.
    private func scalar(_ distance: Int = 0) -> Unicode.Scalar {
      text.indices.contains(at + distance) ? text[at + distance] : "\n"
    }

    private func isLetter(_ distance: Int) -> Bool { scalar(distance).isWordCharacter && !scalar(distance).isDigit }

    /// The rest of a contraction that begins with the apostrophe here and ends a word, if one does.
    private func contraction() -> Int? {
      for end in ["s", "m", "d", "re", "ve", "ll"] {
        let letters = Array(end.unicodeScalars)
        if letters.indices.allSatisfy({ scalar($0 + 1).properties.lowercaseMapping == String(letters[$0]) }),
          !scalar(letters.count + 1).isWordCharacter
        {
          return letters.count + 1
        }
      }
      return nil
    }

    mutating func words() -> [String] {
      var words: [String] = []
      while at < text.count {
        let one = scalar()
        if one.isWordCharacter || (one == "-" || one == "+") && scalar(1).isDigit && !scalar(-1).isWordCharacter
          || (one == "#" || one == "@") && isLetter(1)
        {
          word(into: &words)
        } else if one == "'", let length = contraction() {
          words.append(String(taking: text[at..<at + length]))
          at += length
        } else {
          symbol(into: &words)
        }
      }
      return words
    }

    /// A word, and what is cut off its end.
    private mutating func word(into words: inout [String]) {
      let start = at
      at += 1
      while true {
        if scalar().isWordCharacter { at += 1; continue }
        let digits = scalar(-1).isDigit && scalar(1).isDigit
        let letters = isLetter(-1) && isLetter(1)
        let holds =
          switch scalar() {
          case "-", "/", "@": scalar(-1).isWordCharacter && scalar(1).isWordCharacter
          case ".": digits || letters
          case ",", ":": digits
          case "'": letters && contraction() == nil && !isNot
          default: false
          }
        guard holds else { break }
        at += 1
      }
      let word = String(taking: text[start..<at])
      if scalar() == "'", isNot, at - start > 1 {
        words += [String(taking: text[start..<at - 1]), String(taking: text[at - 1...at + 1])]
        at += 2
      } else if let first = PTBTokens.cutWords[word.lowercased()] {
        words += [String(word.prefix(first)), String(word.dropFirst(first))]
      } else if scalar() == ".", scalar(1) != ".", endsShort(word) {
        words.append(word + ".")
        at += 1
      } else {
        words.append(word)
      }
    }

    /// Whether the apostrophe here is that of "n't".
    private var isNot: Bool {
      (scalar(-1) == "n" || scalar(-1) == "N") && (scalar(1) == "t" || scalar(1) == "T") && !scalar(2).isWordCharacter
    }

    /// Whether the point behind a word is part of it.
    private func endsShort(_ word: String) -> Bool {
      guard isLetter(-1) else { return false }
      if scalar(1) == "," || scalar(1) == ";" || scalar(1) == ":" { return true }
      let letters = word.unicodeScalars
      // Initials, and p.m. and the like.
      if letters.count == 1 { return word != "I" }
      if letters.enumerated().allSatisfy({ $0.offset % 2 == 0 ? $0.element != "." : $0.element == "." }) { return true }
      return PTBTokens.abbreviations.contains(word)
    }

    /// What is no word: some marks are dropped, some stay.
    private mutating func symbol(into words: inout [String]) {
      let one = scalar()
      at += 1
      if one.isPythonSpace { return }
      switch one {
      case "'", "\"", "`", "\u{201C}", "\u{201D}", ".", ",", ":", ";", "-", "\u{2013}", "\u{2014}", "\u{2026}": break
      case "(": words.append("-lrb-")
      case ")": words.append("-rrb-")
      case "[": words.append("-lsb-")
      case "]": words.append("-rsb-")
      case "{": words.append("-lcb-")
      case "}": words.append("-rcb-")
      case "\u{A3}": words.append("#")
      case "\u{20AC}": words.append("$")
      case "\u{A2}": words.append("cents")
      case "!", "?":
        let start = at - 1
        while scalar() == "!" || scalar() == "?" { at += 1 }
        if at - start > 1 { words.append(String(taking: text[start..<at])) }
      case "*", "#":
        let start = at - 1
        while scalar() == one { at += 1 }
        words.append(String(taking: text[start..<at]))
      default: words.append(String(Character(one)))
      }
    }
  }
}

extension ReferencedTexts {
  /// The same texts as the COCO caption scorer hands them to its metrics: words apart, in small letters, without punctuation. The E2E
  /// challenge's METEOR is that of these.
  public var captions: ReferencedTexts {
    mapped { PTBTokens.cut($0).joined(separator: " ") }
  }
}
