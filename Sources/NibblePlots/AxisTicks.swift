import Glibc
import NibbleCore

/// Round numbers along an axis, and how they are written.
package struct AxisTicks: Equatable {
  package private(set) var values: [Double] = []
  private var step = 1.0

  /// Multiples of 1, 2 or 5 times a power of ten in `range`, about `count` of them.
  package init(_ range: ClosedRange<Double>, count: Int, onlyWhole: Bool = false) {
    let wanted = (range.upperBound - range.lowerBound) / Double(max(count, 1))
    guard wanted.isFinite, wanted > 0 else {
      values = [range.lowerBound]
      return
    }
    let scale = pow(10, log10(wanted).rounded(.down))
    // The nearest by ratio.
    step = ([1, 2, 5, 10].min { abs(log($0 * scale / wanted)) < abs(log($1 * scale / wanted)) } ?? 1) * scale
    if onlyWhole { step = max(1, step.rounded()) }
    let first = (range.lowerBound / step - 1e-9).rounded(.up), last = (range.upperBound / step + 1e-9).rounded(.down)
    guard first <= last, last - first < 100 else { return }
    values = (0...Int(last - first)).map { (first + Double($0)) * step }
  }

  /// `0.25`, `400`, `20k`, `1.5M`, `2e-05`
  package func text(_ value: Double) -> String {
    let greatest = values.map { abs($0) }.max() ?? 0
    if value == 0 { return "0" }
    if step < 0.999e-4 || greatest >= 1e9 { return shortest(value) }
    let (unit, name) = greatest >= 1e6 ? (1e6, "M") : greatest >= 1e4 ? (1e3, "k") : (1, "")
    let places = max(0, min(6, Int(-log10(step / unit * 1.001).rounded(.down))))
    return decimal(value / unit, places) + name
  }

  /// In powers of ten, with as many digits as tell it from its neighbours.
  private func shortest(_ value: Double) -> String {
    let digits = max(1, Int((log10(abs(value)) + 1e-9).rounded(.down) - (log10(step) + 1e-9).rounded(.down)) + 1)
    return Self.general(value, digits)
  }

  /// `value` with so many digits that count, in powers of ten where that is shorter.
  package static func general(_ value: Double, _ digits: Int) -> String {
    var buffer = [CChar](repeating: 0, count: 64)
    withVaList([Int32(digits), value]) { _ = vsnprintf(&buffer, buffer.count, "%.*g", $0) }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
