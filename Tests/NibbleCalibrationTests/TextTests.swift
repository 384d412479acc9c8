import NibbleCompute
import NibbleCore
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Text to calibrate with")
struct TextTests {
  @Test("Documents are cut into windows, each between its marks")
  func windows() {
    let marks = CalibrationText.Marks(of: [1, 2])
    let windows = CalibrationText.windows([Array(10..<35), [7]], marks, length: 12)
    #expect(windows == [[1] + Array(10..<20) + [2], [1] + Array(20..<30) + [2], [1, 7, 2]])
    // The rest of a document is kept where it is no scrap.
    #expect(CalibrationText.windows([Array(0..<20)], .init(of: []), length: 12) == [Array(0..<12), Array(12..<20)])
  }

  @Test("As many tokens as asked for, from every source, by turns, evenly spread")
  func spread() {
    let long = (0..<100).map { [Int](repeating: $0, count: 10) }, short = (0..<3).map { [Int](repeating: 1000 + $0, count: 10) }
    let text = CalibrationText([long, short], tokens: 205)
    #expect(text.tokens == 205)
    #expect(text.windows.count { $0[0] >= 1000 } == 3)
    let places = text.windows.map { $0[0] }.filter { $0 < 1000 }
    #expect(places == places.sorted() && places.first ?? 100 < 10 && places.last ?? 0 > 90)
    #expect((text.windows.firstIndex { $0[0] >= 1000 } ?? 100) < 5)
    #expect(CalibrationText([long, short], tokens: 5000).tokens == 1030)
    #expect(text.digest != CalibrationText([long, short], tokens: 204).digest)
  }

  @Test("Massive tokens count as a hundred times the median's energy, in every moment")
  func cap() {
    let team = Team(threads: 1)
    func rows(_ factor: Float) -> (x: [Float], d: [Float]) {
      var x = [Float](repeating: 0, count: 8 * 4), d = x
      for row in 0..<8 {
        for j in 0..<4 { (x[4 * row + j], d[4 * row + j]) = (Float(row + j) + 1, Float(row - j)) }
      }
      for j in 0..<4 { (x[j], d[j]) = (factor * x[j], factor * d[j]) }
      return (x, d)
    }
    func moments(_ factor: Float) -> Stage {
      var (x, d) = rows(factor)
      for place in x.indices { d[place] += x[place] }
      let stage = Stage(inputs: 4, residual: nil, cap: 100)
      stage.add(
        .init(count: 8, packed: &x, float: &d, residual: nil, lack: nil, isHeldOut: false), isAlsoMeasured: true, team)
      return stage
    }
    let plain = moments(1), massive = moments(1e4)
    #expect(plain.capped == 0 && massive.capped == 1 && massive.tokens == 8)
    #expect(massive.moments.weight < 7.01 && plain.moments.weight == 8)
    // The median token's energy a hundred times, and those of the seven others.
    let energies: [Double] = (0..<8).map { row in
      let values: [Double] = (0..<4).map { Double(row + $0 + 1) }
      return values.map { $0 * $0 }.reduce(0, +)
    }
    let limit = 100 * (energies.dropFirst() + [1e9]).sorted()[4]
    let trace = massive.moments.diagonal.map(Double.init).reduce(0, +)
    #expect(abs(trace - limit - energies.dropFirst().reduce(0, +)) < 1e-4 * trace)
    // Drift is capped by the same weight: its share of the massive token is as that of the energy.
    func drift(_ stage: Stage) -> Double { stage.moments.drift.values.map { Double(abs($0)) }.reduce(0, +) }
    #expect(drift(massive) < 200 * drift(plain))
  }
}
