import CUTF8Proc
import NibbleCore

/// The four normalization forms, by utf8proc.
package enum UnicodeForm: Sendable {
  case nfc, nfd, nfkc, nfkd

  /// utf8proc's version.
  package static var libraryVersion: String { String(cString: utf8proc_version()) }

  private var options: utf8proc_option_t {
    let form: UInt32 =
      switch self {
      case .nfc: UTF8PROC_COMPOSE.rawValue
      case .nfd: UTF8PROC_DECOMPOSE.rawValue
      case .nfkc: UTF8PROC_COMPOSE.rawValue | UTF8PROC_COMPAT.rawValue
      case .nfkd: UTF8PROC_DECOMPOSE.rawValue | UTF8PROC_COMPAT.rawValue
      }
    return utf8proc_option_t(rawValue: UTF8PROC_STABLE.rawValue | form)
  }

  /// `text`, valid UTF-8, in this form.
  ///
  /// Hugging Face's library does this by Unicode 9: characters that came later neither decompose nor compose nor move.
  func apply(_ text: [UInt8]) throws -> [UInt8] {
    if text.allSatisfy({ $0 < 0x80 }) { return text }
    var result: [UInt8] = []
    result.reserveCapacity(text.count)
    var run: [UInt8] = []
    for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
      // The first characters that came later are Syriac's of 2017.
      if scalar.value < 0x860 || CharacterClass.isAssigned(scalar, by: 9) {
        run.append(contentsOf: UTF8.encode(scalar) ?? .init())
      } else {
        try map(run, into: &result)
        run.removeAll(keepingCapacity: true)
        result.append(contentsOf: UTF8.encode(scalar) ?? .init())
      }
    }
    try map(run, into: &result)
    return result
  }

  private func map(_ text: [UInt8], into result: inout [UInt8]) throws {
    if text.isEmpty { return }
    var mapped: UnsafeMutablePointer<UInt8>?
    let length = utf8proc_map(text, text.count, &mapped, options)
    guard length >= 0, let mapped else {
      throw NibbleError(
        .failed, "a text of \(text.count) bytes could not be normalized: \(String(cString: utf8proc_errmsg(length)))")
    }
    result.append(contentsOf: UnsafeBufferPointer(start: mapped, count: length))
    free(mapped)
  }
}
