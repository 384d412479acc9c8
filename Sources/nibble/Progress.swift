import Glibc
import NibbleCore

/// A bar on standard error: how far, how fast, how long still. Only on a terminal.
final class Progress {
  static let isTerminal = isatty(STDERR_FILENO) == 1
  private nonisolated(unsafe) static var isShown = false

  private let label: String
  private let started = monotonicSeconds()
  private var lastDrawn = 0.0
  private let isOn: Bool
  /// What is counted; nil for bytes.
  private let unit: String?

  init(_ label: String, unit: String? = nil, quiet: Bool) {
    (self.label, self.unit) = (label, unit)
    isOn = Self.isTerminal && !quiet
  }

  func update(_ done: Int, _ total: Int) {
    guard isOn, total > 0 else { return }
    let now = monotonicSeconds()
    guard now - lastDrawn > 0.1 else { return }
    lastDrawn = now
    let part = min(1, Double(done) / Double(total))
    let width = 28
    let filled = Int(part * Double(width))
    let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled)
    let rate = Double(done) / max(now - started, 1e-9)
    let left = rate > 0 ? Double(total - done) / rate : 0
    write("\r\(label) \(bar) \(Int(part * 100)) %  \(unit.map { "\(decimal(rate, rate < 10 ? 1 : 0)) \($0)" } ?? byteText(Int(rate)))/s  \(Self.time(left)) left \u{1B}[K", to: STDERR_FILENO)
    Self.isShown = true
  }

  private static func time(_ seconds: Double) -> String {
    seconds < 90 ? "\(Int(seconds.rounded(.up))) s" : "\(Int(seconds / 60)) min"
  }

  /// One line in the bar's place.
  static func show(_ line: String) {
    guard isTerminal else { return }
    write("\r\(line)\u{1B}[K", to: STDERR_FILENO)
    isShown = true
  }

  /// Takes the bar away.
  static func clear() {
    guard isShown else { return }
    write("\r\u{1B}[K", to: STDERR_FILENO)
    isShown = false
  }
}
