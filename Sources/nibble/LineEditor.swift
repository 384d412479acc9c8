import CEdit
import Glibc
import NibbleCore

/// Lines typed at a terminal, with editing and a history that lasts; from anything else, lines as they come.
///
/// Prompt and echo go to standard error, so that standard output has answers only.
final class LineEditor {
  private var plain = StandardInput()
  private var edit: OpaquePointer?
  private var history: OpaquePointer?
  private let historyPath: String?
  private let prompt = strdup("> ")
  private let owner = UnsafeMutablePointer<nibble_edit_owner>.allocate(capacity: 1)

  /// Whether someone sits at a terminal.
  let isTerminal: Bool

  init() {
    owner.initialize(to: nibble_edit_owner(prompt: prompt, stopped: { Interrupt.hasCome ? 1 : 0 }))
    isTerminal = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1
    historyPath = isTerminal ? Self.historyFile() : nil
    guard isTerminal else { return }
    // What is typed is UTF-8 in all but the barest environments.
    if setlocale(LC_CTYPE, "") == nil || String(cString: nl_langinfo(Int32(CODESET))) != "UTF-8" { setlocale(LC_CTYPE, "C.UTF-8") }
    history = history_init()
    if let history {
      nibble_history_limit(history, 1000)
      if let historyPath { nibble_history_load(history, historyPath) }
    }
    edit = nibble_edit_begin(owner, history)
  }

  deinit {
    if let edit { el_end(edit) }
    if let history { history_end(history) }
    owner.deallocate()
    free(prompt)
  }

  /// The next line without its end; nil after the last. At a terminal, Ctrl-C empties the line and Ctrl-D on an empty one ends.
  ///
  /// - Throws: `.interrupted`, `.terminated`, `.badInput`
  func line() throws -> String? {
    guard let edit else { return try plain.line() }
    while true {
      try StandardOutput.flush()
      var count: Int32 = 0
      let text = nibble_edit_line(edit, &count).map { String(decoding: UnsafeRawBufferPointer(start: $0, count: Int(max(count, 0))), as: UTF8.self) }
      guard let text else {
        Interrupt.forgetCtrlC()
        try Interrupt.check()
        guard count < 0, errno == EINTR else {
          write("\n", to: STDERR_FILENO)
          return nil
        }
        el_reset(edit)
        write("\n", to: STDERR_FILENO)
        continue
      }
      let line = text.hasSuffix("\n") ? String(text.dropLast()) : text
      remember(line)
      return line
    }
  }

  private func remember(_ line: String) {
    guard let history, line.contains(where: { !$0.isWhitespace }) else { return }
    nibble_history_add(history, line)
    if let historyPath { nibble_history_save(history, historyPath) }
  }

  /// `nibble/history` in the folder for state that the XDG base directory specification names. Missing folders are created, readable only by
  /// their owner.
  private static func historyFile() -> String? {
    func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil } }
    guard let state = variable("XDG_STATE_HOME") ?? variable("HOME").map({ $0 + "/.local/state" }) else { return nil }
    var path = ""
    for part in (state + "/nibble").split(separator: "/") {
      path += "/" + part
      if mkdir(path, 0o700) != 0, errno != EEXIST { return nil }
    }
    let file = path + "/history"
    // libedit makes the file for everyone to read.
    let descriptor = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return nil }
    close(descriptor)
    return file
  }
}
