import NibbleCompute
import NibbleCore
import NibbleModels
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

  @Test("What a user said is answered; text and the model's own stand by turns")
  func conversations() throws {
    let model = try Model(fixture("stories260K"), threads: 2)
    // A token that is common in stories ends a turn.
    let story = try CalibrationText(writtenBy: model, from: [.init([1])], tokens: 250, seed: 3, ends: [2]).windows.flatMap { $0 }
    let counts = Dictionary(grouping: story.filter { $0 > 300 }) { $0 }.mapValues(\.count)
    let end = try #require(counts.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key)
    let reply = [end, 5, 6, 7], opening = [1, 400, 401]
    func written(_ tokens: Int, _ reply: [Int]) throws -> CalibrationText {
      try CalibrationText(writtenBy: model, from: [.init([1]), .init(opening, reply: reply)], tokens: tokens, seed: 3, ends: [end])
    }
    let text = try written(600, reply)
    #expect(text.tokens == 600 && text.source == "self-written" && text.windows.allSatisfy { $0.count <= 256 })
    let asked = text.windows.filter { $0.starts(with: opening) }, free = text.windows.filter { !$0.starts(with: opening) }
    // All but what the last window or a full one left no room for.
    let answered = asked.filter { window in window.indices.contains { Array(window[$0...].prefix(4)) == reply } }
    #expect(asked.count > 2 && answered.count >= asked.count - 2 && answered.allSatisfy { $0.firstIndex(of: end) ?? 0 > 2 })
    #expect(free.count > 2 && free.dropLast().allSatisfy { $0.dropLast().allSatisfy { $0 != end } })
    #expect(try written(600, reply).windows == text.windows && written(600, []).windows != text.windows)
    let both = CalibrationText(CalibrationText(windows: (0..<8).map { _ in [Int](repeating: 9, count: 100) }, source: "text"), and: text)
    #expect(both.tokens == 1400 && both.source == "text+self-written" && both.windows.count == text.windows.count + 8)
    #expect(both.windows.prefix(both.windows.count / 2).count { $0[0] == 9 } < 8)
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
      let (x, lack) = rows(factor)
      let packed = FloatStore(x), float = FloatStore(zip(x, lack).map(+))
      let stage = Stage(inputs: 4, residual: nil, cap: 100)
      stage.add(
        .init(count: 8, packed: packed.start, float: float.start, residual: nil, lack: nil, isHeldOut: false), isAlsoMeasured: true, team)
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

  @Test("An output that hardly counts in the residual stream makes up for little of what the stream lacks")
  func slopes() throws {
    func inverse(_ slopes: [Float]?) -> [Float]? { Stage(inputs: 4, residual: 4, slopes: slopes, cap: 100).inverseSlopes }
    #expect(inverse(nil) == nil && inverse([0, 0, 0, 0]) == [0, 0, 0, 0])
    // Half the branch is added, so outputs lack twice as much.
    #expect(inverse([0.5, 0.5, 0.5, 0.5]) == [2, 2, 2, 2])
    let found = try #require(inverse([2, -2, 0.01, 0]))
    #expect(found[0] == 0.5 && found[1] == -0.5 && found[3] == 0)
    #expect(found[2] > 0 && found[2] < 1)
  }
}
