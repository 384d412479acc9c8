/// What went wrong, and the exit code that says so to scripts.
public struct NibbleError: Error, Notice, CustomStringConvertible {
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
  public let text: MessageText

  /// An error that says `text`.
  public init(_ kind: Kind, _ text: MessageText) {
    self.kind = kind
    self.text = text
  }

  public var description: String { message }

  package static func usage(_ text: MessageText) -> NibbleError { .init(.usage, text) }
  package static func badInput(_ text: MessageText) -> NibbleError { .init(.badInput, text) }
  package static func integrity(_ text: MessageText) -> NibbleError { .init(.integrity, text) }
  package static func quality(_ text: MessageText) -> NibbleError { .init(.quality, text) }
  package static func cannotWrite(_ text: MessageText) -> NibbleError { .init(.cannotWrite, text) }
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
