import Glibc
import Synchronization

/// Ctrl-C, SIGTERM and a terminal that went away, asked about between chunks of work.
///
/// The handler only stores a number; the work in hand ends with an error at its next chunk, and what was
/// written is removed on the way every other error takes.
public enum Interrupt {
  private static let signal = Atomic<Int32>(0)

  /// Starts watching. A closed pipe becomes a write error, a file-size limit too.
  public static func watch() {
    signal.store(0, ordering: .relaxed)  // made now: a handler must not be the first to touch it
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
      action.__sigaction_handler.sa_handler = { Interrupt.signal.store($0, ordering: .relaxed) }
      sigaction(number, &action, nil)
    }
    pthread_sigmask(SIG_UNBLOCK, &ours, nil)
    Glibc.signal(SIGPIPE, SIG_IGN)
    Glibc.signal(SIGXFSZ, SIG_IGN)
  }

  /// Whether a signal has come, for places that cannot throw.
  package static var hasCome: Bool { signal.load(ordering: .relaxed) != 0 }

  /// Takes back a Ctrl-C that has come: it stopped what it was meant for, and the program goes on. Other signals stay.
  public static func forgetCtrlC() { _ = signal.compareExchange(expected: SIGINT, desired: 0, ordering: .relaxed) }

  /// Throws once a signal has come.
  public static func check() throws {
    switch signal.load(ordering: .relaxed) {
    case 0: return
    case SIGTERM, SIGHUP: throw NibbleError(.terminated, "terminated")
    default: throw NibbleError(.interrupted, "interrupted")
    }
  }
}
