import Glibc

/// How offsets of NF4 blocks are chosen: information calibration quantization (ICQ, from IR-QLoRA).
///
/// With τ₀ the lower median of a block and a = max|w − τ₀|, candidates are τ = f · a + τ₀ for factors f evenly spaced over ±0.1 standard
/// deviations of a normal block whose greatest magnitude is 1. Each is scored by the codes it leaves.
public struct OffsetSearch: Hashable, Sendable {
  /// What makes one candidate better than another.
  public enum Score: String, Hashable, Sendable, CaseIterable {
    /// A greater entropy of the block's codes, as published.
    case entropy
    /// A smaller squared error.
    case error
  }

  /// Which of several candidates with the same score is taken.
  public enum Order: String, Hashable, Sendable, CaseIterable {
    /// The one nearest to the median.
    case centre
    /// The first, from the lowest up, as published.
    case ascending
  }

  public var score = Score.entropy
  public var order = Order.centre
  /// Whether codes are chosen under the offsets that are stored, rounded to 8 bits. The published program chooses them under the exact ones.
  public var roundsFirst = true
  /// Whether a tensor that has offsets keeps them when it is coded again: other offsets round every weight once more.
  public var keepsOffsets = true
  /// Candidates on each side of the median.
  public var steps = 100

  /// Entropy, the median where candidates are alike, codes under the stored offsets, which stay.
  public init() {}

  /// ±0.1 of 1 / Φ⁻¹(0.9677083), the standard deviation of a normal block whose greatest magnitude is 1.
  private static let range = 0.1 * 0.5410871966190546

  /// f of each candidate, ascending.
  package var factors: [Float] {
    let step = 2 * Self.range / Double(max(2 * steps, 1))
    return (0...2 * steps).map { Float($0 == 2 * steps ? Self.range : Double($0) * step - Self.range) }
  }

  /// round(c · log₂c · 2²⁰) for each count of a code in a block: whole numbers, so that ties are ties.
  static let entropyTerms: [Int64] = (0...BlockCodec.blockSizes.reduce(0, max)).map { count in
    count < 2 ? 0 : Int64((Double(count) * log2(Double(count)) * 0x1p20).rounded(.toNearestOrEven))
  }
}

extension OffsetSearch {
  private static let name = "icq", unrounded = "unrounded", stepsPrefix = "steps="

  /// As records spell it: `icq`, with what is not the default behind colons.
  public var text: String {
    let plain = OffsetSearch()
    return [
      Self.name, score == plain.score ? nil : score.rawValue, order == plain.order ? nil : order.rawValue,
      roundsFirst ? nil : Self.unrounded, steps == plain.steps ? nil : Self.stepsPrefix + String(steps),
    ].compactMap { $0 }.joined(separator: ":")
  }

  /// Reads what `text` writes; nil for anything else.
  public init?(text: String) {
    let words = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard words.first == Self.name else { return nil }
    self.init()
    for word in words.dropFirst() {
      if let score = Score(rawValue: word) {
        self.score = score
      } else if let order = Order(rawValue: word) {
        self.order = order
      } else if word == Self.unrounded {
        roundsFirst = false
      } else if word.hasPrefix(Self.stepsPrefix), let steps = Int(word.dropFirst(Self.stepsPrefix.count)), 0...1000 ~= steps {
        self.steps = steps
      } else {
        return nil
      }
    }
  }
}
