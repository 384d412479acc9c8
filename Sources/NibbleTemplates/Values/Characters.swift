/// What Python's string methods ask of a character.
extension Unicode.Scalar {
  /// `str.isspace`, and `\s` in its patterns.
  var isPythonSpace: Bool {
    switch value {
    case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: true
    default: false
    }
  }

  /// What `str.splitlines` takes for the end of a line.
  var isPythonLineEnd: Bool {
    switch value {
    case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029: true
    default: false
    }
  }

  var isPythonAlpha: Bool {
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
    default: false
    }
  }

  var isPythonDecimal: Bool { properties.generalCategory == .decimalNumber }
  var isPythonDigit: Bool { properties.numericType == .decimal || properties.numericType == .digit }
  var isPythonNumeric: Bool { properties.numericType != nil }
  var isPythonAlphanumeric: Bool { isPythonAlpha || isPythonNumeric }
  /// `\w` in Python's patterns.
  var isPythonWord: Bool { self == "_" || isPythonAlphanumeric }
  var isPythonUpper: Bool { properties.isUppercase }
  var isPythonLower: Bool { properties.isLowercase }
  var isPythonTitle: Bool { properties.generalCategory == .titlecaseLetter }
  var isPythonCased: Bool { isPythonUpper || isPythonLower || isPythonTitle }

  /// `str.isprintable`: what `repr` shows as it is.
  var isPythonPrintable: Bool {
    switch properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
    case .spaceSeparator: self == " "
    default: true
    }
  }

  var isIdentifierStart: Bool { self == "_" || properties.isXIDStart }
  var isIdentifierPart: Bool { properties.isXIDContinue }
}

extension Text {
  var uppercased: Text { mapped { $0.properties.uppercaseMapping } }

  var lowercased: Text {
    var out: [Unicode.Scalar] = []
    out.reserveCapacity(count)
    for index in scalars.indices { appendLower(index, to: &out) }
    return Text(out)
  }

  /// What `str.casefold` compares; full folding differs from lower case in these few.
  var casefolded: Text {
    Text(
      lowercased.scalars.flatMap { scalar -> [Unicode.Scalar] in
        switch scalar {
        case "ß", "\u{1E9E}": ["s", "s"]
        case "ς": ["σ"]
        case "ſ": ["s"]
        case "µ": ["μ"]
        default: [scalar]
        }
      })
  }

  var swappedCase: Text {
    var out: [Unicode.Scalar] = []
    for (index, scalar) in scalars.enumerated() {
      if scalar.isPythonUpper {
        appendLower(index, to: &out)
      } else if scalar.isPythonLower {
        out += scalar.properties.uppercaseMapping.unicodeScalars
      } else {
        out.append(scalar)
      }
    }
    return Text(out)
  }

  /// The first character as a title's, the rest in lower case.
  var capitalized: Text {
    var out: [Unicode.Scalar] = []
    for (index, scalar) in scalars.enumerated() {
      if index == 0 { out += scalar.properties.titlecaseMapping.unicodeScalars } else { appendLower(index, to: &out) }
    }
    return Text(out)
  }

  /// `str.title`: a capital after every character without case.
  var titled: Text {
    var out: [Unicode.Scalar] = []
    var isInside = false
    for (index, scalar) in scalars.enumerated() {
      if isInside { appendLower(index, to: &out) } else { out += scalar.properties.titlecaseMapping.unicodeScalars }
      isInside = scalar.isPythonCased
    }
    return Text(out)
  }

  private func mapped(_ mapping: (Unicode.Scalar) -> String) -> Text {
    var out: [Unicode.Scalar] = []
    out.reserveCapacity(count)
    for scalar in scalars {
      out += mapping(scalar).unicodeScalars
    }
    return Text(out)
  }

  private func appendLower(_ index: Int, to out: inout [Unicode.Scalar]) {
    let scalar = scalars[index]
    if scalar == "Σ" { return out.append(isFinalSigma(index) ? "ς" : "σ") }
    out += scalar.properties.lowercaseMapping.unicodeScalars
  }

  /// Whether the sigma at `index` ends a word.
  private func isFinalSigma(_ index: Int) -> Bool {
    func isIgnored(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isCaseIgnorable }
    let before = scalars[..<index].last { !isIgnored($0) }
    let after = scalars[(index + 1)...].first { !isIgnored($0) }
    return before.map { $0.properties.isCased } == true && after.map { $0.properties.isCased } != true
  }

  /// Whether there are characters and all of them are such; and so on.
  func all(_ holds: (Unicode.Scalar) -> Bool) -> Bool { !isEmpty && scalars.allSatisfy(holds) }

  var isPythonLower: Bool {
    scalars.contains { $0.isPythonLower } && !scalars.contains { $0.isPythonUpper || $0.isPythonTitle }
  }
  var isPythonUpper: Bool {
    scalars.contains { $0.isPythonUpper } && !scalars.contains { $0.isPythonLower || $0.isPythonTitle }
  }
  var isPythonTitle: Bool {
    var isInside = false, hasCase = false
    for scalar in scalars {
      if scalar.isPythonUpper || scalar.isPythonTitle {
        if isInside { return false }
        (isInside, hasCase) = (true, true)
      } else if scalar.isPythonLower {
        if !isInside { return false }
        hasCase = true
      } else {
        isInside = false
      }
    }
    return hasCase
  }
  var isIdentifier: Bool {
    scalars.first.map { $0.isIdentifierStart } == true && scalars.allSatisfy { $0.isIdentifierPart }
  }
}
