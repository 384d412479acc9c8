import NibbleCore
import NibbleModels

/// Hides tokens of a text from a model that is to find them, as transformers' `DataCollatorForLanguageModeling` does: of the tokens that may be
/// hidden each is chosen with the same probability; of those chosen 8 in 10 become the mask, 1 in 10 any token, and the rest stay as they are.
/// The chosen ones are learned.
public struct TokenMasking: Sendable, Equatable {
  /// The token that hides others.
  public var mask: Int
  /// Tokens that any of may take another's place: the ids below this.
  public var tokens: Int

  public init(mask: Int, tokens: Int) { (self.mask, self.tokens) = (mask, tokens) }

  /// What the masks are for, which are drawn apart.
  enum Use: UInt64 { case training = 2, validation = 3 }

  /// The row with some of its tokens hidden; the labels are those of the others no more.
  ///
  /// - Parameter random: the same numbers hide the same tokens
  func applied(to row: TrainingRow, probability: Double, _ random: CountedRandom) -> TrainingRow {
    var ids = row.ids, labels = row.labels
    for index in ids.indices where labels[index + 1] != TrainingRow.ignored {
      let first = UInt64(3 * index)
      guard random.uniform(first) < probability else {
        labels[index + 1] = TrainingRow.ignored
        continue
      }
      switch random.uniform(first + 1) {
      case ..<0.8: ids[index] = mask
      case ..<0.9: ids[index] = min(Int(random.uniform(first + 2) * Double(tokens)), tokens - 1)
      default: break
      }
    }
    var hidden = TrainingRow(ids, types: nil, labels: labels, place: row.place)
    hidden.targets = row.targets
    return hidden
  }
}

extension TrainingRow {
  /// The row as it is learned at a place of the run: with masks, where it is to have some.
  func hidden(_ use: TokenMasking.Use, place: Int, seed: UInt64, probability: Double) -> TrainingRow {
    guard let masking else { return self }
    let random = CountedRandom(seed: seed, stream: use.rawValue << 32 &+ UInt64(clamping: place))
    return masking.applied(to: self, probability: probability, random)
  }

  /// Rows as they are learned in the order they have, from the first step on.
  public static func hidden(_ rows: [TrainingRow], seed: UInt64, probability: Double) -> [TrainingRow] {
    rows.enumerated().map { $1.hidden(.training, place: $0, seed: seed, probability: probability) }
  }

  /// Rows to judge a model by: their masks are the same each time.
  public static func judged(_ rows: [TrainingRow], seed: UInt64, probability: Double) -> [TrainingRow] {
    rows.enumerated().map { $1.hidden(.validation, place: $0, seed: seed, probability: probability) }
  }
}
