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
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_adddup2(&actions, out[1], 1)
    posix_spawn_file_actions_adddup2(&actions, err[1], 2)
    defer {
      posix_spawn_file_actions_destroy(&actions)
      for end in [out[0], err[0]] { close(end) }
    }
    var arguments: [UnsafeMutablePointer<CChar>?] = (["nibble"] + words).map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    var child = pid_t()
    let status = posix_spawn(&child, "/proc/self/exe", &actions, nil, arguments, environ)
    for end in [out[1], err[1]] { close(end) }
    guard status == 0 else { throw NibbleError(.failed, "\(errorText(status)) while starting a verb") }
    (output, errors) = Self.read(out[0], err[0])
    var state: Int32 = 0
    while waitpid(child, &state, 0) < 0, errno == EINTR {}
    // By a signal, or by itself.
    code = state & 0x7F == 0 ? state >> 8 & 0xFF : 128 + state & 0x7F
    try Interrupt.check()
    if code == NibbleError.Kind.interrupted.rawValue { throw NibbleError(.interrupted, "interrupted") }
  }

  /// What a verb says that failed, without who says it.
  var reason: String {
    let line = errors.split(separator: "\n").last { $0.hasPrefix("nibble: error: ") }
    return line.map { String($0.dropFirst("nibble: error: ".count)) } ?? "the verb ended with code \(code)"
  }

  /// Both ends until they are closed.
  private static func read(_ out: Int32, _ err: Int32) -> (String, String) {
    var texts: [[UInt8]] = [[], []]
    var open = [pollfd(fd: out, events: Int16(POLLIN), revents: 0), pollfd(fd: err, events: Int16(POLLIN), revents: 0)]
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while open.contains(where: { $0.fd >= 0 }) {
      guard poll(&open, 2, -1) >= 0 else {
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
