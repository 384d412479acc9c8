/// Which characters are what, as the libraries that models were trained with see it.
///
/// Those froze Unicode at different versions, and a model's tokens depend on it; Swift's tables are newer than all of
/// them. So each class is Swift's, as far as a character was there already; exceptions are characters whose class
/// changed since. Checked against tokenizers 0.23 for every code point.
enum CharacterClass {
  /// Unicode's White_Space.
  static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value < 0x80 ? scalar == " " || (9...13).contains(scalar.value) : scalar.properties.isWhitespace
  }

  static func isNumber(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x80 { return (0x30...0x39).contains(scalar.value) }
    return switch scalar.properties.generalCategory {
    case .decimalNumber, .letterNumber, .otherNumber: true
    default: false
    }
  }

  /// What `\w` means to the `regex` crate (Unicode 16).
  static func isWord(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x80 {
      return scalar == "_" || (0x30...0x39).contains(scalar.value) || (0x61...0x7A).contains(scalar.value | 0x20)
    }
    if scalar.value == 0x200C || scalar.value == 0x200D { return true }
    let properties = scalar.properties
    switch properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: break
    default: if !properties.isAlphabetic { return false }
    }
    return isAssigned(scalar, by: 16)
  }

  /// Punctuation of the BERT pre-tokenizer: ASCII's, symbols among it, and Unicode 8's.
  static func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x80 {
      return switch scalar.value {
      case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: true
      default: false
      }
    }
    switch scalar.properties.generalCategory {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
      .finalPunctuation, .otherPunctuation:
      return isAssigned(scalar, by: 8)
    default: return scalar.value == 0x166D || scalar.value == 0x111C9
    }
  }

  /// What BERT's normalizer takes out of the text: control and format characters and those of private use.
  static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 9, 10, 13: return false
    case 0x20..<0x7F: return false
    case 0xFFFD: return true
    default: break
    }
    return switch scalar.properties.generalCategory {
    case .control, .format, .privateUse: isAssigned(scalar, by: 8)
    default: false
    }
  }

  /// Marks without a width of their own, of Unicode 8: BERT's accents.
  static func isNonspacingMark(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x300 { return false }
    switch scalar.value {
    case 0x1734, 0x1171E: return true
    case 0x1885, 0x1886, 0xA9BD, 0x111C9: return false
    default: return scalar.properties.generalCategory == .nonspacingMark && isAssigned(scalar, by: 8)
    }
  }

  /// Marks of Unicode 9: the accents of the normalizer StripAccents.
  static func isMark(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x300 { return false }
    switch scalar.value {
    case 0x1CF2, 0x1CF3: return true
    case 0x111C9: return false
    default: break
    }
    return switch scalar.properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark: isAssigned(scalar, by: 9)
    default: false
    }
  }

  /// What BERT calls Chinese characters: ideographs, neither kana nor hangul.
  static func isChinese(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F, 0x2B920...0x2CEAF,
      0xF900...0xFAFF, 0x2F800...0x2FA1F:
      true
    default: false
    }
  }

  /// Whether version `major` of Unicode, with its minor ones, had the character.
  static func isAssigned(_ scalar: Unicode.Scalar, by major: Int) -> Bool {
    scalar.properties.age.map { $0.major <= major } ?? false
  }
}
