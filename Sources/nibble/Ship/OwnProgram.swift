import CNibbleSystem
import Glibc
import NibbleCore

/// Another run of this program: a verb that may fail without the one that asked for it.
struct OwnProgram {
  /// The exit code.
  let code: Int32
  /// What it wrote to standard output.
  let output: String
  /// What it wrote to standard error.
  let errors: String

  /// Runs to the end.
  ///
  /// - Throws: `.failed` where the program cannot be started, `.interrupted` where it was
  init(_ words: [String]) throws {
    var out: [Int32] = [-1, -1], err: [Int32] = [-1, -1]
    guard pipe(&out) == 0, pipe(&err) == 0 else { throw NibbleError(.failed, "\(errorText(errno)) while starting a verb") }
    for end in out + err { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    defer { for end in [out[0], err[0]] { close(end) } }
    var arguments: [UnsafeMutablePointer<CChar>?] = (["nibble"] + words).map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    let child = nibble_start("/proc/self/exe", arguments, out[1], err[1], -1, SIGTERM)
    let status = errno
    for end in [out[1], err[1]] { close(end) }
    guard child > 0 else { throw NibbleError(.failed, "\(errorText(status)) while starting a verb") }
    (output, errors) = Self.read(out[0], err[0], child)
    var state: Int32 = 0
    while waitpid(child, &state, 0) < 0, errno == EINTR {}
    // By a signal, or by itself.
    code = state & 0x7F == 0 ? state >> 8 & 0xFF : 128 + state & 0x7F
    try Interrupt.check()
    if code == NibbleError.Kind.interrupted.rawValue { throw NibbleError(.interrupted, "interrupted") }
  }

  /// What it says that failed, without who says it.
  var reason: String {
    let line = errors.split(separator: "\n").last { $0.hasPrefix("nibble: error: ") }
    return line.map { String($0.dropFirst("nibble: error: ".count)) } ?? (code > 128 ? "a verb was ended by signal \(code - 128)" : "a verb ended with code \(code)")
  }

  /// Whether it has refused the model, as opposed to a full disk or a crash, which another model would have met too.
  var isRefusal: Bool {
    switch NibbleError.Kind(rawValue: code) {
    case .usage, .badInput, .integrity, .adapterMismatch, .quality: true
    case .failed, .cannotWrite, .interrupted, .terminated, nil: false
    }
  }

  /// The same failure, of this process.
  var error: NibbleError { NibbleError(NibbleError.Kind(rawValue: code) ?? .failed, "\(reason)") }

  /// Both ends until they are closed. A signal that has come is passed on.
  private static func read(_ out: Int32, _ err: Int32, _ child: pid_t) -> (String, String) {
    var texts: [[UInt8]] = [[], []]
    var open = [pollfd(fd: out, events: Int16(POLLIN), revents: 0), pollfd(fd: err, events: Int16(POLLIN), revents: 0)]
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var isTold = false
    while open.contains(where: { $0.fd >= 0 }) {
      if Interrupt.hasCome, !isTold {
        kill(child, SIGTERM)
        isTold = true
      }
      // A signal that comes right before waiting wakes nobody.
      guard poll(&open, 2, 100) >= 0 else {
        if errno == EINTR { continue }
        break
      }
      for place in 0..<2 where open[place].fd >= 0 && open[place].revents != 0 {
        let count = Glibc.read(open[place].fd, &buffer, buffer.count)
        if count > 0 { texts[place] += buffer.prefix(count) } else if count == 0 || errno != EINTR { open[place].fd = -1 }
      }
    }
    return (String(decoding: texts[0], as: UTF8.self), String(decoding: texts[1], as: UTF8.self))
  }
}
