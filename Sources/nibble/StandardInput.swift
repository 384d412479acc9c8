import Glibc
import NibbleCore

/// Lines that someone types. A signal ends the wait for them, as it ends any other work.
struct StandardInput {
  private var pending: [UInt8] = []
  private var isAtEnd = false
  private static let longest = 16 << 20

  /// The next line without its end; nil after the last.
  ///
  /// - Throws: `.interrupted`, `.badInput` for lines no one types
  mutating func line() throws -> String? {
    while true {
      if let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
        defer { pending.removeSubrange(...end) }
        return try text(pending[..<end])
      }
      if isAtEnd {
        guard !pending.isEmpty else { return nil }
        defer { pending = [] }
        return try text(pending[...])
      }
      guard pending.count <= Self.longest else {
        throw NibbleError.badInput("standard input: a line of more than \(Self.longest) bytes")
      }
      try fill()
    }
  }

  /// A whole prompt, without the line break at its end.
  ///
  /// - Parameter isAskedFor: whether the user said that standard input has the prompt; a terminal is only read then
  /// - Throws: `.usage` where there is none, `.interrupted`, `.badInput`
  static func prompt(isAskedFor: Bool) throws -> String {
    func none(_ found: MessageText) -> NibbleError {
      .usage("\(found); give one with --prompt, --prompts or --messages, or use --interactive")
    }
    if !isAskedFor, isatty(STDIN_FILENO) == 1 { throw none("no prompt") }
    var input = StandardInput()
    while !input.isAtEnd {
      guard input.pending.count <= longest else { throw NibbleError.badInput("standard input: a prompt of more than \(longest) bytes") }
      try input.fill()
    }
    if input.pending.last == UInt8(ascii: "\n") { input.pending.removeLast() }
    guard !input.pending.isEmpty else { throw none("no prompt: standard input is empty") }
    return try input.text(input.pending[...])
  }

  private mutating func fill() throws {
    try Interrupt.check()
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    let count = buffer.withUnsafeMutableBytes { read(STDIN_FILENO, $0.baseAddress, $0.count) }
    if count < 0 {
      if errno == EINTR { return try Interrupt.check() }
      throw NibbleError.badInput("standard input: \(errorText(errno))")
    }
    if count == 0 { isAtEnd = true }
    pending += buffer[..<count]
  }

  private func text(_ bytes: ArraySlice<UInt8>) throws -> String {
    let line = bytes.last == UInt8(ascii: "\r") ? bytes.dropLast() : bytes
    guard let text = String(validating: line, as: UTF8.self) else {
      throw NibbleError.badInput("standard input: not UTF-8")
    }
    return text
  }
}
