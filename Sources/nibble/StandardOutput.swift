import Glibc
import NibbleCore

/// Writes `text` as far as it goes; for standard error, where nothing can be done about a failure.
func write(_ text: String, to descriptor: Int32) {
  var bytes = Array(text.utf8)[...]
  while !bytes.isEmpty {
    let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
    if count < 0, errno == EINTR { continue }
    guard count > 0 else { return }
    bytes = bytes.dropFirst(count)
  }
}

/// Results. A reader that has gone away ends the program quietly; a full disk is an error.
enum StandardOutput {
  struct Closed: Error {}

  private nonisolated(unsafe) static var buffer: [UInt8] = []

  static func print(_ text: String) throws { try write(text + "\n") }

  static func write(_ text: String) throws {
    buffer += Array(text.utf8)
    if buffer.count > 1 << 16 { try flush() }
  }

  static func print(_ json: JSON) throws { try print(json.text(.indented)) }

  static func flush() throws {
    while !buffer.isEmpty {
      let count = buffer.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      if count < 0, errno == EPIPE { throw Closed() }
      guard count > 0 else { throw NibbleError.cannotWrite("standard output: \(errorText(errno))") }
      buffer.removeFirst(count)
    }
  }
}

/// A word of a command line as a shell reads it back.
func shellWord(_ word: String) -> String {
  let isPlain = !word.isEmpty && word.utf8.allSatisfy { byte in
    let scalar = Unicode.Scalar(byte)
    return scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || "-_./=:,@%+".unicodeScalars.contains(scalar)
  }
  return isPlain ? word : "'\(word.replacing("'", with: "'\\''"))'"
}
