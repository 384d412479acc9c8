import CNibbleSystem
import Glibc
import NibbleCore

/// A run of the program in the background. It ends at the latest when this process does, and a terminal's signals reach it through this process only.
struct ChildProgram {
  let id: pid_t

  /// - Parameters:
  ///   - words: the command line behind the program's name
  ///   - output: a file that is emptied first
  ///   - log: a file that standard error is added to
  ///   - kept: a descriptor that stays open as long as the program runs
  /// - Throws: `.failed` where it cannot be started, `.cannotWrite`
  init(_ program: String, _ words: [String], output: String, log: String, kept: Int32) throws {
    let out = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
    guard out >= 0 else { throw NibbleError.cannotWrite("\(path: output): \(errorText(errno))") }
    defer { close(out) }
    let err = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o666)
    guard err >= 0 else { throw NibbleError.cannotWrite("\(path: log): \(errorText(errno))") }
    defer { close(err) }
    var arguments: [UnsafeMutablePointer<CChar>?] = (["nibble"] + words).map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    id = nibble_start(program, &arguments, out, err, kept, SIGKILL)
    guard id > 0 else { throw NibbleError(.failed, "\(errorText(errno)) while starting a verb") }
  }

  /// The exit code, 128 and the signal's number where one ended it; nil while it runs.
  func code() -> Int32? {
    var state: Int32 = 0
    guard waitpid(id, &state, WNOHANG) == id else { return nil }
    return state & 0x7F == 0 ? state >> 8 & 0xFF : 128 + state & 0x7F
  }

  func signal(_ number: Int32) { kill(id, number) }
}
