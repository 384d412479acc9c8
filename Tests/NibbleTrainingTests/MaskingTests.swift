import NibbleTraining
import Testing

@Suite("Masks of training rows")
struct MaskingTests {
  /// A row of `count` tokens, of which every fifth has a part of its own.
  private static func row(_ count: Int, from first: Int = 100) -> TrainingRow {
    let ids = (0..<count).map { first + $0 }
    let labels = ids.map { $0 % 5 == 0 ? TrainingRow.ignored : $0 }
    var row = TrainingRow(ids, labels: [TrainingRow.ignored] + labels, place: "rows.jsonl:1")
    row.masking = TokenMasking(mask: 4, tokens: 50)
    return row
  }

  @Test("hide tokens that may be hidden, 8 in 10 behind the mask and 1 in 10 behind another, and are learned")
  func shares() throws {
    let plain = Self.row(20_000)
    let hidden = try #require(TrainingRow.hidden([plain], seed: 1, probability: 0.15).first)
    #expect(hidden.masking == nil && hidden.ids.count == plain.ids.count && hidden.labels.count == plain.labels.count)
    var (masked, other, same) = (0, 0, 0)
    for (index, id) in plain.ids.enumerated() {
      let label = hidden.labels[index + 1]
      guard label != TrainingRow.ignored else {
        #expect(hidden.ids[index] == id)
        continue
      }
      #expect(label == id && id % 5 != 0)
      switch hidden.ids[index] {
      case 4: masked += 1
      case id: same += 1
      case let drawn:
        other += 1
        #expect((0..<50).contains(drawn))
      }
    }
    // Five deviations to either side.
    #expect(abs(masked + other + same - 2_400) < 226)
    #expect(abs(masked - 1_920) < 220 && abs(other - 240) < 80 && abs(same - 240) < 80)
  }

  @Test("are the same for the same seed and place, and others for other ones")
  func seeds() {
    let rows = [Self.row(200), Self.row(200)]
    let hidden = TrainingRow.hidden(rows, seed: 7, probability: 0.3)
    #expect(hidden == TrainingRow.hidden(rows, seed: 7, probability: 0.3))
    #expect(hidden[0].ids != hidden[1].ids)
    #expect(hidden != TrainingRow.hidden(rows, seed: 8, probability: 0.3))
    let judged = TrainingRow.judged(rows, seed: 7, probability: 0.3)
    #expect(judged == TrainingRow.judged(rows, seed: 7, probability: 0.3) && judged != hidden)
  }

  @Test("hide everything with certainty, and nothing of rows that are learned as they are")
  func ends() {
    var row = Self.row(50)
    let all = TrainingRow.hidden([row], seed: 0, probability: 1)
    #expect(all[0].labels == row.labels)
    row.masking = nil
    #expect(TrainingRow.hidden([row], seed: 0, probability: 1) == [row])
  }
}
