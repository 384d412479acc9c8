import Glibc
import Synchronization

/// Ctrl-C, SIGTERM and a terminal that went away, asked about between chunks of work.
///
/// The handler only stores a number; the work in hand ends with an error at its next chunk, and what was
/// written is removed on the way every other error takes. Work that can save where it is runs in `finishing`.
public enum Interrupt {
  private static let signal = Atomic<Int32>(0)
  /// Whether the first signal is left to the work in hand.
  private static let isPatient = Atomic<Bool>(false)
  /// What the first signal writes then: the address of a static string's bytes, 0 for nothing.
  private static let notice = Atomic<UInt>(0)
  private static let noticeLength = Atomic<Int>(0)

  /// Starts watching. A closed pipe becomes a write error, a file-size limit too.
  public static func watch() {
    // Made now: a handler must not be the first to touch them.
    signal.store(0, ordering: .relaxed)
    isPatient.store(false, ordering: .relaxed)
    notice.store(0, ordering: .relaxed)
    noticeLength.store(0, ordering: .relaxed)
    // A parent may have started us with signals blocked, as worker threads of other programs do.
    var ours = sigset_t()
    sigemptyset(&ours)
    for number in [SIGINT, SIGTERM, SIGHUP] {
      var before = sigaction()
      sigaction(number, nil, &before)
      // Under nohup, a terminal that goes away is no reason to stop.
      if number == SIGHUP, unsafeBitCast(before.__sigaction_handler.sa_handler, to: Int.self) == 1 { continue }
      sigaddset(&ours, number)
      var action = sigaction()
      action.__sigaction_handler.sa_handler = { Interrupt.handle($0) }
      sigaction(number, &action, nil)
    }
    pthread_sigmask(SIG_UNBLOCK, &ours, nil)
    Glibc.signal(SIGPIPE, SIG_IGN)
    Glibc.signal(SIGXFSZ, SIG_IGN)
  }

  /// Takes back a Ctrl-C that has come: it stopped what it was meant for, and the program goes on. Other signals stay.
  public static func forgetCtrlC() { _ = signal.compareExchange(expected: SIGINT, desired: 0, ordering: .relaxed) }

  private static func handle(_ number: Int32) {
    let before = signal.exchange(number, ordering: .relaxed)
    guard isPatient.load(ordering: .relaxed) else { return }
    if before != 0 { _exit(number == SIGINT ? NibbleError.Kind.interrupted.rawValue : NibbleError.Kind.terminated.rawValue) }
    if let text = UnsafePointer<UInt8>(bitPattern: notice.load(ordering: .relaxed)) { _ = Glibc.write(STDERR_FILENO, text, noticeLength.load(ordering: .relaxed)) }
  }

  /// Runs work that looks at `error` itself, and saves where it is once there is one: `check` never throws meanwhile. A second signal ends the
  /// process at once, as a kill does.
  ///
  /// - Parameter saying: what the first signal writes to standard error
  public static func finishing<Result>(saying text: StaticString = "", _ work: () throws -> Result) rethrows -> Result {
    guard !isPatient.load(ordering: .relaxed) else { return try work() }
    if text.hasPointerRepresentation, text.utf8CodeUnitCount > 0 {
      noticeLength.store(text.utf8CodeUnitCount, ordering: .relaxed)
      notice.store(UInt(bitPattern: text.utf8Start), ordering: .relaxed)
    }
    isPatient.store(true, ordering: .relaxed)
    defer {
      isPatient.store(false, ordering: .relaxed)
      notice.store(0, ordering: .relaxed)
    }
    return try work()
  }

  /// Whether a signal has come that nobody waits for, for places that cannot throw.
  package static var hasCome: Bool { signal.load(ordering: .relaxed) != 0 && !isPatient.load(ordering: .relaxed) }

  /// What the signal that has come asks for; nil for none.
  public static var error: NibbleError? {
    switch signal.load(ordering: .relaxed) {
    case 0: nil
    case SIGTERM, SIGHUP: NibbleError(.terminated, "terminated")
    default: NibbleError(.interrupted, "interrupted")
    }
  }

  /// Throws once a signal has come.
  public static func check() throws {
    guard hasCome, let error else { return }
    throw error
  }
}
