/// Texts of tokens, scalar by scalar: a token may begin with a mark that combines with what stands before it, and is still no part of that.
extension String {
  func begins(with text: String) -> Bool { utf8.starts(with: text.utf8) }

  func ends(with text: String) -> Bool { utf8.count >= text.utf8.count && utf8.suffix(text.utf8.count).elementsEqual(text.utf8) }

  /// The rest behind `text`, which it begins with.
  func behind(_ text: String) -> String { String(String.UnicodeScalarView(unicodeScalars.dropFirst(text.unicodeScalars.count))) }

  func replacing(scalar old: Unicode.Scalar, with new: String) -> String {
    guard unicodeScalars.contains(old) else { return self }
    var out = String.UnicodeScalarView()
    for scalar in unicodeScalars { if scalar == old { out.append(contentsOf: new.unicodeScalars) } else { out.append(scalar) } }
    return String(out)
  }
}
