/// Porter's second stemmer for English (snowballstem.org, "english"), in the form of 2006 that METEOR 1.5 has.
struct EnglishStemmer {
  /// The stem of a word in small letters.
  static func stem(_ word: String) -> String {
    if let stem = exceptions[word] { return stem }
    let scalars = Array(word.unicodeScalars)
    guard scalars.count > 2 else { return word }
    var stemmer = EnglishStemmer(scalars)
    stemmer.cut()
    return String(taking: stemmer.word.map { $0 == "Y" ? "y" : $0 })
  }

  private static let exceptions = [
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl", "gently": "gentl", "ugly": "ugli",
    "early": "earli", "only": "onli", "singly": "singl", "sky": "sky", "news": "news", "howe": "howe", "atlas": "atlas",
    "cosmos": "cosmos", "bias": "bias", "andes": "andes",
  ]
  private static let whole: Set = ["inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"]

  private var word: [Unicode.Scalar]
  /// Where the regions R1 and R2 begin: behind the first consonant after a vowel, and the same again.
  private var first = 0
  private var second = 0

  private init(_ scalars: [Unicode.Scalar]) {
    word = scalars
    if word[0] == "'" { word.removeFirst() }
    if word[0] == "y" { word[0] = "Y" }
    // A y behind a vowel is a consonant.
    for place in word.indices.dropFirst() where word[place] == "y" && isVowel(place - 1) { word[place] = "Y" }
    first = ["gener", "commun", "arsen"].first { word.starts(with: $0.unicodeScalars) }?.count ?? region(from: 0)
    second = region(from: first)
  }

  private func isVowel(_ place: Int) -> Bool {
    switch word[place] {
    case "a", "e", "i", "o", "u", "y": true
    default: false
    }
  }

  private func region(from start: Int) -> Int {
    guard let vowel = (start..<max(start, word.count)).first(where: isVowel),
      let consonant = (vowel + 1..<word.count).first(where: { !isVowel($0) })
    else { return word.count }
    return consonant + 1
  }

  private func ends(_ suffix: String) -> Bool { word.reversed().starts(with: suffix.unicodeScalars.reversed()) }

  /// The longest of some endings that the word has, and where it begins.
  private func ending(_ suffixes: [String]) -> (suffix: String, start: Int)? {
    guard let suffix = suffixes.filter(ends).max(by: { $0.count < $1.count }) else { return nil }
    return (suffix, word.count - suffix.count)
  }

  private mutating func replace(from start: Int, _ new: String = "") { word.replaceSubrange(start..., with: new.unicodeScalars) }

  private func hasVowel(before end: Int) -> Bool { (0..<end).contains(where: isVowel) }

  /// Whether what stands before `end` ends in a short syllable.
  private func isShort(before end: Int) -> Bool {
    guard end >= 2, isVowel(end - 2), !isVowel(end - 1) else { return false }
    if end == 2 { return true }
    return !isVowel(end - 3) && !["w", "x", "Y"].contains(word[end - 1])
  }

  private mutating func cut() {
    cutPossessive()
    cutPlural()
    if Self.whole.contains(String(taking: word)) { return }
    cutPast()
    let last = word.count - 1
    if last > 1, word[last] == "y" || word[last] == "Y", !isVowel(last - 1) { word[last] = "i" }
    cutDerivation()
    cutFurther()
    cutSuffix()
    cutLast()
  }

  private mutating func cutPossessive() {
    if let (_, start) = ending(["'", "'s", "'s'"]) { replace(from: start) }
  }

  private mutating func cutPlural() {
    guard let (suffix, start) = ending(["sses", "ied", "ies", "s", "us", "ss"]) else { return }
    switch suffix {
    case "sses": replace(from: start, "ss")
    case "ied", "ies": replace(from: start, start > 1 ? "i" : "ie")
    case "s": if start > 0, hasVowel(before: start - 1) { replace(from: start) }
    default: break
    }
  }

  private mutating func cutPast() {
    guard let (suffix, start) = ending(["eed", "eedly", "ed", "edly", "ing", "ingly"]) else { return }
    if suffix.hasPrefix("eed") {
      if start >= first { replace(from: start, "ee") }
      return
    }
    guard hasVowel(before: start) else { return }
    replace(from: start)
    if ending(["at", "bl", "iz"]) != nil {
      word.append("e")
    } else if ending(["bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt"]) != nil {
      word.removeLast()
    } else if word.count == first, isShort(before: word.count) {
      word.append("e")
    }
  }

  private static let derivations = [
    "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize", "ization": "ize",
    "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al", "alli": "al", "fulness": "ful", "ousli": "ous",
    "ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble", "ogi": "og", "fulli": "ful",
    "lessli": "less", "li": "",
  ]

  private mutating func cutDerivation() {
    guard let (suffix, start) = ending(Array(Self.derivations.keys)), start >= first else { return }
    let before: Unicode.Scalar = start > 0 ? word[start - 1] : " "
    if suffix == "ogi", before != "l" { return }
    if suffix == "li", !"cdeghkmnrt".unicodeScalars.contains(before) { return }
    replace(from: start, Self.derivations[suffix] ?? "")
  }

  private static let further = [
    "tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic", "ful": "", "ness": "", "ative": "",
  ]

  private mutating func cutFurther() {
    guard let (suffix, start) = ending(Array(Self.further.keys)), start >= (suffix == "ative" ? second : first) else { return }
    replace(from: start, Self.further[suffix] ?? "")
  }

  private mutating func cutSuffix() {
    let suffixes = [
      "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous", "ive", "ize", "ion",
    ]
    guard let (suffix, start) = ending(suffixes), start >= second else { return }
    if suffix == "ion", start == 0 || (word[start - 1] != "s" && word[start - 1] != "t") { return }
    replace(from: start)
  }

  private mutating func cutLast() {
    let last = word.count - 1
    guard last >= 0 else { return }
    if word[last] == "e", last >= second || last >= first && !isShort(before: last) { word.removeLast() }
    else if word[last] == "l", last >= second, last > 0, word[last - 1] == "l" { word.removeLast() }
  }
}
