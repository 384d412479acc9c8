import Glibc
import NibbleCore
import NibbleTraining

/// What a run says on standard error while it trains: on a terminal one line that is rewritten, elsewhere a line every so many steps.
final class TrainingLog {
  private let steps: Int
  private let every: Int
  private let isQuiet: Bool
  private let started = monotonicSeconds()
  private var first: Int?
  private var tokens = 0
  private var losses: [Double] = []

  /// - Parameter every: steps between two lines; nil for about 20 lines a run
  init(steps: Int, every: Int?, isQuiet: Bool) {
    (self.steps, self.every, self.isQuiet) = (steps, every ?? Self.interval(steps), isQuiet)
  }

  /// The smallest of 1, 2, 5, 10, 20, 50, … that gives at most 20 lines.
  static func interval(_ steps: Int) -> Int {
    var (scale, interval) = (1, 1)
    while interval <= Int.max / 100 {
      for factor in [1, 2, 5] {
        interval = factor * scale
        if interval * 20 >= steps { return interval }
      }
      scale *= 10
    }
    return interval
  }

  func show(_ report: StepReport, smoothed: Double) {
    tokens += report.tokens
    if !report.loss.isNaN { losses.append(report.loss) }
    let first = first ?? report.step
    self.first = first
    guard !isQuiet else { return }
    let elapsed = max(monotonicSeconds() - started, 1e-9)
    let rate = tokens > 0 ? "\(decimal(Double(tokens) / elapsed, 0)) tok/s" : "\(decimal(Double(report.step - first + 1) / elapsed, 2)) steps/s"
    let left = "eta \(Self.clock(elapsed / Double(report.step - first + 1) * Double(steps - report.step)))"
    let learningRate = "lr \(Self.scientific(report.learningRate))"
    if Progress.isTerminal {
      return Progress.show(
        "step \(report.step)/\(steps)  \(Self.loss(report.loss, 4))  smoothed \(smoothed.isNaN ? "-" : decimal(smoothed, 4))  \(learningRate)  "
          + "norm \(decimal(report.gradientNorm, 3))  \(rate)  \(left)  \(byteText(ResourceUse.now.peakBytes))")
    }
    guard report.step % every == 0 || report.step == steps else { return }
    let mean = losses.isEmpty ? .nan : losses.reduce(0, +) / Double(losses.count)
    losses = []
    line("step \(report.step)/\(steps)  \(Self.loss(mean, 3))  \(learningRate)  \(rate)  \(left)")
  }

  private static func loss(_ value: Double, _ digits: Int) -> String { value.isNaN ? "nothing learned" : "loss \(decimal(value, digits))" }

  func show(validation loss: Double, step: Int) {
    guard !isQuiet else { return }
    Progress.clear()
    line("step \(step)/\(steps)  validation loss \(decimal(loss, 3))")
  }

  private func line(_ text: String) { write(text + "\n", to: STDERR_FILENO) }

  /// `1:20`, or `2:01:20` from an hour on.
  static func clock(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds < 1e9 else { return "?" }
    let all = Int(max(0, seconds).rounded(.up))
    func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let (hours, minutes) = (all / 3600, all / 60 % 60)
    return hours > 0 ? "\(hours):\(two(minutes)):\(two(all % 60))" : "\(minutes):\(two(all % 60))"
  }

  /// `2.0e-4`
  static func scientific(_ value: Double) -> String {
    guard value.isFinite, value > 0 else { return value == 0 ? "0" : "\(value)" }
    var exponent = Int(log10(value).rounded(.down))
    var digits = (value / pow(10, Double(exponent)) * 10).rounded()
    if digits >= 100 { (digits, exponent) = (10, exponent + 1) }
    return "\(decimal(digits / 10, 1))e\(exponent)"
  }
}
