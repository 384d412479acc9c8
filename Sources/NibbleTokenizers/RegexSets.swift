/// Sets of characters as PCRE2 writes them, with what its tables lack.
enum RegexSets {
  /// Unicode's White_Space.
  static let space =
    "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

  /// `\w`: alphabetic characters, marks, decimal digits, connectors, and what each engine adds of its own.
  static func word(_ origin: RegexDialect.Origin?) -> String {
    let own =
      switch origin {
      case .oniguruma: "\\xB2\\xB3\\xB9\\xBC-\\xBE"
      case .rust: "\\x{200C}\\x{200D}"
      case nil: ""
      }
    return "\\p{Alphabetic}\(category("M"))\(category("Nd"))\\p{Pc}\(newer("L"))\(own)"
  }

  static func category(_ name: String) -> String { "\\p{\(name)}" + newer(name) }

  /// The members of what `property` names in PCRE2.
  static func members(_ property: String) -> String {
    if property == "sc:Han" { return "\\p{sc:Han}" + newerHan }
    if property == "Alphabetic" {
      return "\\p{Alphabetic}\\x{363}-\\x{36F}\\x{C04}\\x{F82}\\x{F83}\\x{1DD3}-\\x{1DE6}\\x{11080}\\x{11081}" + newer("L")
    }
    return category(property)
  }

  /// PCRE2's name for a general category, a binary property or a script; nil for what can be none.
  static func property(_ name: String) -> String? {
    let plain = String(name.lowercased().filter { $0 != " " && $0 != "_" && $0 != "-" })
    if let category = categories[plain] { return category }
    if let binary = binaries[plain] { return binary }
    guard !plain.isEmpty, plain.allSatisfy({ $0.isASCII && $0.isLetter }) else { return nil }
    return "sc:" + (plain == "han" ? "Han" : plain)
  }

  /// What Oniguruma means by `[:name:]`.
  static func posix(_ name: String) -> String? {
    switch name {
    case "alpha": members("Alphabetic")
    case "digit": category("Nd")
    case "alnum": members("Alphabetic") + category("Nd")
    case "upper": "\\p{Uppercase}"
    case "lower": "\\p{Lowercase}"
    case "punct": category("P") + category("S")
    case "space": space
    case "xdigit": "0-9A-Fa-f"
    case "word": word(nil)
    default: nil
    }
  }

  private static let binaries = [
    "any": "Any", "alphabetic": "Alphabetic", "alpha": "Alphabetic", "uppercase": "Uppercase", "upper": "Uppercase",
    "lowercase": "Lowercase", "lower": "Lowercase", "ideographic": "Ideographic", "emoji": "Emoji",
    "emojipresentation": "Emoji_Presentation", "emojimodifier": "Emoji_Modifier",
    "emojimodifierbase": "Emoji_Modifier_Base", "extendedpictographic": "Extended_Pictographic",
    "digit": "Nd", "whitespace": "White_Space", "space": "White_Space",
  ]

  private static let categories: [String: String] = {
    let long: [String: String] = [
      "letter": "L", "uppercaseletter": "Lu", "lowercaseletter": "Ll", "titlecaseletter": "Lt", "modifierletter": "Lm",
      "otherletter": "Lo", "casedletter": "L&", "lc": "L&", "l&": "L&", "mark": "M", "combiningmark": "M",
      "nonspacingmark": "Mn", "spacingmark": "Mc", "enclosingmark": "Me", "number": "N", "decimalnumber": "Nd",
      "letternumber": "Nl", "othernumber": "No", "punctuation": "P", "punct": "P", "connectorpunctuation": "Pc",
      "dashpunctuation": "Pd", "openpunctuation": "Ps", "closepunctuation": "Pe", "initialpunctuation": "Pi",
      "finalpunctuation": "Pf", "otherpunctuation": "Po", "symbol": "S", "mathsymbol": "Sm", "currencysymbol": "Sc",
      "modifiersymbol": "Sk", "othersymbol": "So", "separator": "Z", "spaceseparator": "Zs", "lineseparator": "Zl",
      "paragraphseparator": "Zp", "other": "C", "control": "Cc", "cntrl": "Cc", "format": "Cf", "privateuse": "Co",
      "unassigned": "Cn",
    ]
    let short = [
      "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe", "Pi",
      "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Co", "Cn",
    ]
    return long.merging(short.map { ($0.lowercased(), $0) }) { $1 }
  }()

  /// Characters of a category that came with Unicode 15 and 16; PCRE2 10.42 has Unicode 14, the reference libraries 16.
  private static func newer(_ name: String) -> String {
    let names = name == "L&" ? ["Lu", "Ll", "Lt"] : ranges.keys.filter { $0.hasPrefix(name) }.sorted()
    return names.map { ranges[$0] ?? "" }.joined(separator: " ").split(separator: " ").map { range in
      range.split(separator: "-").map { "\\x{\($0)}" }.joined(separator: "-")
    }.joined()
  }

  private static let newerHan = "\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"

  private static let ranges = [
    "Mn":
      "897 ECE 10D69-10D6D 10EFC-10EFF 11241 113BB-113C0 113CE 113D0 113D2 113E1-113E2 11F00-11F01 11F36-11F3A 11F40 11F42 11F5A 13440 13447-13455 1611E-16129 1612D-1612F 1E08F 1E4EC-1E4EF 1E5EE-1E5EF",
    "Mc": "CF3 113B8-113BA 113C2 113C5 113C7-113CA 113CC-113CD 113CF 11F03 11F34-11F35 11F3E-11F3F 11F41 1612A-1612C",
    "Po": "1B4E-1B4F 1B7F 113D4-113D5 113D7-113D8 11B00-11B09 11BE1 11F43-11F4F 16D6D-16D6F 1E5FF",
    "Pd": "10D6E",
    "Lu": "1C89 A7CB-A7CC A7DA A7DC 10D50-10D65",
    "Ll": "1C8A A7CD A7DB 10D70-10D85 1DF25-1DF2A",
    "Lm": "10D4E 10D6F 16D40-16D42 16D6B-16D6C 1E030-1E06D 1E4EB",
    "Lo":
      "105C0-105F3 10D4A-10D4D 10D4F 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E 11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D 16D43-16D6A 18CFF 1B132 1B155 1E4D0-1E4EA 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF",
    "Nd": "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1E4F0-1E4F9 1E5F1-1E5FA",
    "No": "1D2C0-1D2D3",
    "Sm": "10D8E-10D8F",
    "So":
      "2427-2429 2FFC-2FFF 31E4-31E5 31EF 1CC00-1CCEF 1CD00-1CEB3 1F6DC 1F774-1F776 1F77B-1F77F 1F7D9 1F8B2-1F8BB 1F8C0-1F8C1 1FA75-1FA77 1FA87-1FA89 1FA8F 1FAAD-1FAAF 1FABB-1FABF 1FAC6 1FACE-1FACF 1FADA-1FADC 1FADF 1FAE8-1FAE9 1FAF7-1FAF8 1FBCB-1FBEF",
    "Cf": "13439-1343F",
  ]
}
