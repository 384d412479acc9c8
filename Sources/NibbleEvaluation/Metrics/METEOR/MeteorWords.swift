/// The words of an English text as METEOR 1.5 has them with `-norm`: the Moses tokenizer of 2010 with dashes between words and points
/// within them taken out, quotes made alike, in small letters; punctuation stays.
enum MeteorWords {
  static func cut(_ line: String) -> [String] {
    var text = ScalarText(" " + line + " ")
    text.replace({ !isWord($0) && !isSpace($0) && !".'`,-\u{2018}\u{2019}".unicodeScalars.contains($0) }) { [" ", $0, " "] }
    hidePoints(&text)
    text.replace({ !$0.isDigit }, ",", { !$0.isDigit }, " , ")
    text.replace(\.isDigit, ",", { !$0.isDigit }, " , ")
    text.replace({ !$0.isDigit }, ",", \.isDigit, " , ")
    text.replace({ $0 == "`" || $0 == "\u{2018}" || $0 == "\u{2019}" }) { _ in ["'"] }
    for quote in ["\u{201C}", "\u{201D}", "''"] { text.replace(quote, " \" ") }
    text.replace("\u{2013}", "-")
    text.replace("--", "-")
    text.replace({ isWord($0) || $0 == "." }, "-", isWord, " ")
    // Contractions: what follows the apostrophe keeps it.
    text.replace({ !isLetter($0) }, "'", { !isLetter($0) }, " ' ")
    text.replace({ !isWord($0) }, "'", isLetter, " ' ")
    text.replace(isLetter, "'", { !isLetter($0) }, " ' ")
    text.replace(isLetter, "'", isLetter, " '")
    text.replace(\.isDigit, "'", { $0 == "s" }, " '")
    text = ScalarText(apart(text.words(between: isBreak)).joined(separator: " "))
    showPoints(&text)
    return ScalarText(text.string.lowercased()).words { isBreak($0) || isWideSpace($0) }
  }

  /// Words with a final point cut off where it ends a sentence.
  private static func apart(_ words: [String]) -> [String] {
    var apart: [String] = []
    for (place, word) in words.enumerated() {
      guard word.utf16.count > 1, word.hasSuffix(".") else { apart.append(word); continue }
      let stem = String(word.dropLast())
      let next = place + 1 < words.count ? words[place + 1].unicodeScalars.first : nil
      if stem.contains("."), stem.unicodeScalars.contains(where: isLetter) {
        apart.append(String(taking: word.unicodeScalars.filter { $0 != "." }))
      } else if abbreviations.contains(stem) || next.map({ "a"..."z" ~= $0 }) ?? false {
        apart.append(word)
      } else if numberAbbreviations.contains(stem), next?.isDigit ?? false {
        apart.append(word)
      } else {
        apart += [stem, "."]
      }
    }
    return apart
  }

  /// Runs of points become a word while the text is cut, spelled as in the original, so that texts with that word go the same way too.
  private static func hidePoints(_ text: inout ScalarText) {
    text.rewrite { scalars, at in
      let points = scalars[at...].prefix { $0 == "." }.count
      return points > 1 ? (points, Array(" DOTMULTI".unicodeScalars) + scalars[at + 1..<at + points]) : nil
    }
    while text.contains("DOTMULTI.") {
      text.rewrite { scalars, at in
        let end = at + "DOTMULTI.".count
        guard scalars[at...].starts(with: "DOTMULTI.".unicodeScalars), end < scalars.count, scalars[end] != "." else { return nil }
        return (end + 1 - at, Array("DOTDOTMULTI ".unicodeScalars) + [scalars[end]])
      }
      text.replace("DOTMULTI.", "DOTDOTMULTI")
    }
  }

  private static func showPoints(_ text: inout ScalarText) {
    while text.contains("DOTDOTMULTI") { text.replace("DOTDOTMULTI", "DOTMULTI.") }
    text.replace("DOTMULTI", ".")
  }

  /// Letters of Western Europe, Cyrillic ones and phonetic ones.
  private static func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x41...0x5A, 0x61...0x7A, 0xC0...0xD6, 0xD8...0xF6, 0xF8...0x17E, 0x400...0x527, 0xA640...0xA66E, 0xA67E...0xA697,
      0x1D00...0x1D7F:
      true
    default: false
    }
  }

  private static func isWord(_ scalar: Unicode.Scalar) -> Bool { scalar.isDigit || isLetter(scalar) }
  private static func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar == " " || 0x09...0x0D ~= scalar.value }
  /// Between words; the vertical tab is not.
  private static func isBreak(_ scalar: Unicode.Scalar) -> Bool { isSpace(scalar) && scalar != "\u{0B}" }
  private static func isWideSpace(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0xA0, 0x2000...0x200A, 0x202F, 0x205F, 0x3000: true
    default: false
    }
  }

  /// What a point behind does not end a sentence: Moses' list for English.
  private static let abbreviations = Set(
    """
    A B C D E F G H I J K L M N O P Q R S T U V W X Y Z Adj Adm Adv Asst Bart Bldg Brig Bros Capt Cmdr Col Comdr Con Corp Cpl DR Dr Drs \
    Ens Gen Gov Hon Hr Hosp Insp Lt MM MR MRS MS Maj Messrs Mlle Mme Mr Mrs Ms Msgr Op Ord Pfc Ph Prof Pvt Rep Reps Res Rev Rt Sen Sens \
    Sfc Sgt Sr St Supt Surg v vs i.e rev e.g Nos Nr
    """.split(separator: " ").map(String.init))
  /// The same before a number.
  private static let numberAbbreviations: Set = ["No", "Art", "pp"]

  /// Words that METEOR 1.5 weighs less: those that are more than one in a thousand.
  static let functionWords = Set(
    """
    the , . to of and a in that for " is on 's it with was as said at he by be from have has are his but an this not i will \u{2019} they \
    ) -rrb- ( -lrb- who their had we which were been more or s its would about new one after you : also up when there than $ all out her \
    people she year two - can if last first \u{201C} over other \u{201D} into some what so -- no time years could ? 't \u{2014} '
    """.split(separator: " ").map(String.init))
}
