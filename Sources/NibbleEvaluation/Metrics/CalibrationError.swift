import NibbleCore

/// How far a classifier's probabilities are from how often it is right: the expected calibration error (Naeini et al., 2015; Guo et al.,
/// 2017).
///
/// Predictions are put into equally wide bins by the probability of the predicted class, each bin with its upper bound and without its
/// lower one, the first with 0 too. The error is the mean over bins, weighed by their predictions, of
/// |share that is right - mean probability|.
public struct CalibrationError: Sendable {
  /// Predictions of about the same probability.
  public struct Bin: Sendable, Equatable {
    public var count = 0
    /// The share that is right, and the mean probability; 0 without predictions.
    public var accuracy = 0.0
    public var confidence = 0.0
  }

  public let score: CorpusScore
  public let bins: [Bin]

  /// - Parameters:
  ///   - confidences: the probability each prediction was made with
  ///   - isRight: whether it was right
  /// - Throws: `.badInput` for no predictions, for counts that differ, and for what is no probability
  public init(_ confidences: [Double], isRight: [Bool], bins count: Int = 15) throws {
    guard confidences.count == isRight.count else {
      throw NibbleError.badInput("\(confidences.count) probabilities for \(isRight.count) predictions")
    }
    guard !confidences.isEmpty, count > 0 else { throw NibbleError.badInput("there are no predictions to score") }
    // Of each bin: predictions, right ones, sum of probabilities.
    var sums = ItemSums(width: 3 * count)
    for (place, one) in zip(confidences, isRight).enumerated() {
      // A softmax may miss 1 by a rounding.
      guard one.0 >= 0, one.0 <= 1 + 1e-6 else { throw NibbleError.badInput("prediction \(place + 1): \(one.0) is no probability") }
      let bin = min(count - 1, max(0, Int((one.0 * Double(count)).rounded(.up)) - 1))
      var row = [Double](repeating: 0, count: 3 * count)
      (row[3 * bin], row[3 * bin + 1], row[3 * bin + 2]) = (1, one.1 ? 1 : 0, one.0)
      sums.add(row)
    }
    let total = sums.total
    bins = (0..<count).map { bin in
      let size = total[3 * bin]
      guard size > 0 else { return Bin() }
      return Bin(count: Int(size), accuracy: total[3 * bin + 1] / size, confidence: total[3 * bin + 2] / size)
    }
    let all = Double(confidences.count)
    score = CorpusScore(items: nil, sums) { sums in
      stride(from: 0, to: sums.count, by: 3).reduce(0) { $0 + abs(sums[$1 + 1] - sums[$1 + 2]) } / all
    }
  }
}
