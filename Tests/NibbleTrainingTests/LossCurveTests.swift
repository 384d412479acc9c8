import Foundation
import NibblePlots
import TestSupport
import Testing

@testable import NibbleTraining

@Suite("The picture of a run")
struct LossCurveTests {
  static func decay(_ count: Int) -> [Double] { (0..<count).map { 1.6 + 2.4 * exp(-Double($0) / (Double(count) / 5)) + 0.25 * sin(Double($0 * $0)) } }

  /// Losses, and validations.
  static let runs: [String: ([Double], [(step: Int, loss: Double)])] = [
    "short": ([3.91, 3.62, 3.7, 3.31, 3.2], [(0, 3.95), (5, 3.18)]),
    "long": (decay(500), (0...10).map { ($0 * 50, 1.8 + 2.2 * exp(-Double($0) / 2)) }),
    "spike": (decay(200).enumerated().map { $0 == 120 ? 48.2 : $0 == 121 ? 12 : $1 }, [(0, 4.1), (100, 2), (200, 1.9)]),
    "no-validation": (decay(60), []), "one": ([2.5], []), "flat": (Array(repeating: 0.7, count: 12), []),
    "huge": (decay(20_000), [(0, 4.1), (20_000, 1.7)]), "tiny": ((0..<30).map { 1e-4 * exp(-Double($0) / 9) }, []),
    "zero": ([0, 0, 0], [(0, 0)]), "large": ((0..<30).map { 5e6 / Double($0 + 1) }, []),
  ]

  struct Text { let x, y: Double; let isEnd, isMiddle: Bool; let text: String }

  static func texts(_ svg: String) -> [Text] {
    svg.matches(of: #/<text x="(?<x>[-0-9.]+)" y="(?<y>[-0-9.]+)"(?<more>[^>]*)>(?<text>[^<]*)</#).map {
      Text(x: Double($0.x) ?? .nan, y: Double($0.y) ?? .nan, isEnd: $0.more.contains("\"end\""), isMiddle: $0.more.contains("\"middle\""), text: String($0.text))
    }
  }

  @Test("has a title, axes with their names, ticks, a legend; no number is not finite", arguments: runs.keys.sorted())
  func parts(_ name: String) throws {
    let (losses, validation) = try #require(Self.runs[name])
    let svg = LossCurve.svg(losses, validation: validation)
    if let folder = ProcessInfo.processInfo.environment["NIBBLE_PICTURES"] { try svg.write(toFile: folder + "/\(name).svg", atomically: true, encoding: .utf8) }
    let texts = Self.texts(svg).map(\.text)
    #expect(texts.contains("Training loss") && texts.contains("step") && texts.contains("loss") && texts.contains("each step"))
    #expect(texts.contains("validation") == !validation.isEmpty && texts.contains("smoothed") == (losses.count > 1))
    #expect(!svg.contains("nan") && !svg.contains("inf"))
    #expect(svg.utf8.count < 80_000)
    let dots = svg.matches(of: #/class="valid-dot"/#).count
    #expect(dots == validation.count + (validation.isEmpty ? 0 : 1))
    #expect(svg.contains("<polyline class=\"valid\"") == (validation.count > 1))
  }

  @Test("no two texts overlap, and all are inside the picture", arguments: runs.keys.sorted())
  func overlaps(_ name: String) throws {
    let (losses, validation) = try #require(Self.runs[name])
    let boxes = Self.texts(LossCurve.svg(losses, validation: validation)).filter { $0.text != "loss" }.map { text -> (CGRect, String) in
      let width = Double(text.text.count) * (text.text == "Training loss" ? 9.5 : 7)
      return (CGRect(x: text.x - (text.isEnd ? width : text.isMiddle ? width / 2 : 0), y: text.y - 10, width: width, height: 13), text.text)
    }
    for (index, one) in boxes.enumerated() {
      #expect(one.0.minX >= 24 && one.0.maxX <= 760 && one.0.minY >= 0 && one.0.maxY <= 440, "\(one)")
      for other in boxes[..<index] { #expect(!one.0.intersects(other.0), "\(one.1) \(other.1)") }
    }
    let ticks = boxes.filter { $0.0.maxY > 400 && $0.1 != "step" }
    #expect((1...13).contains(ticks.count), "\(ticks.map(\.1))")
  }

  @Test("a spike is marked and does not flatten the rest")
  func spike() throws {
    let (losses, validation) = try #require(Self.runs["spike"])
    let svg = LossCurve.svg(losses, validation: validation)
    #expect(Self.texts(svg).contains { $0.text == "48.20" && $0.isMiddle })
    #expect(svg.matches(of: #/<polygon/#).count == 2)
    #expect(!Self.texts(svg).contains { $0.text == "20" && $0.isEnd })
    #expect(!LossCurve.svg(Self.decay(200)).contains("<polygon"))
  }

  @Test("without anything to draw there is no picture")
  func nothing() { #expect(LossCurve.svg([]).isEmpty && LossCurve.svg([.nan]).isEmpty) }

  @Test("ticks are round", arguments: [
    (0.0, 1.0, false, "0 0.2 0.4 0.6 0.8 1.0"), (1, 5, true, "1 2 3 4 5"), (0, 500, true, "0 100 200 300 400 500"), (1.2, 1.31, false, "1.20 1.22 1.24 1.26 1.28 1.30"),
    (1, 20_000, true, "5k 10k 15k 20k"), (0.5, 1.5, true, "1"), (0, 1e-4, false, "0 2e-05 4e-05 6e-05 8e-05 0.0001"), (0, 5.2e6, false, "0 1M 2M 3M 4M 5M"),
  ])
  func ticks(_ low: Double, _ high: Double, _ whole: Bool, _ expected: String) {
    let ticks = AxisTicks(low...high, count: 6, onlyWhole: whole)
    #expect(ticks.values.map(ticks.text).joined(separator: " ") == expected)
  }
}
