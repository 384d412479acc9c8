/// What went wrong, in one line, and the exit code that says so to scripts.
public struct NibbleError: Error, Sendable, CustomStringConvertible {
  /// Exit codes of the command line; a contract with scripts that call it.
  public enum Kind: Int32, Sendable, CaseIterable {
    case failed = 1
    case usage = 2
    case badInput = 3
    case integrity = 4
    case adapterMismatch = 5
    case quality = 6
    case cannotWrite = 7
    case interrupted = 130
    case terminated = 143
  }

  /// The class of failure.
  public let kind: Kind
  /// One line without control characters, whatever file names and tensor names it quotes.
  public let message: String

  /// An error whose control characters are spelled out.
  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = oneLine(message)
  }

  public var description: String { message }

  package static func usage(_ message: String) -> NibbleError { .init(.usage, message) }
  package static func badInput(_ message: String) -> NibbleError { .init(.badInput, message) }
  package static func integrity(_ message: String) -> NibbleError { .init(.integrity, message) }
  package static func quality(_ message: String) -> NibbleError { .init(.quality, message) }
  package static func cannotWrite(_ message: String) -> NibbleError { .init(.cannotWrite, message) }
}

/// `text` with control characters, line separators and bidirectional overrides spelled out, so that a
/// hostile name can neither break a line nor repaint a terminal.
package func oneLine(_ text: String) -> String {
  func isUnsafe(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7F..<0xA0, 0x2028...0x202E, 0x2066...0x2069, 0x200E, 0x200F, 0xFEFF: true
    default: false
    }
  }
  guard text.unicodeScalars.contains(where: isUnsafe) else { return text }
  var out = ""
  for scalar in text.unicodeScalars {
    if isUnsafe(scalar) {
      out += "\\u{" + String(scalar.value, radix: 16, uppercase: true) + "}"
    } else {
      out.unicodeScalars.append(scalar)
    }
  }
  return out
}

/// `name` in quotes, cut in the middle when it is absurdly long.
package func quoted(_ name: String) -> String {
  guard name.utf8.count > 200 else { return "'\(name)'" }
  return "'\(name.prefix(90))…\(name.suffix(60))' (\(name.utf8.count) bytes)"
}
