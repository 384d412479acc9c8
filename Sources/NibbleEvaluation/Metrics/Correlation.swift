import Glibc
import NibbleCore

/// How well predicted numbers follow the true ones.
public struct Correlation: Sendable {
  /// Pearson's correlation of the numbers, and Spearman's, which is Pearson's of their ranks, equal numbers having the mean of theirs.
  /// Not a number where one side is constant.
  public let pearson: CorpusScore
  public let spearman: CorpusScore
  /// The mean squared error.
  public let squaredError: CorpusScore

  /// - Throws: `.badInput` for no numbers, for counts that differ, and for what is no finite number
  public init(_ predicted: [Double], actual: [Double]) throws {
    guard predicted.count == actual.count else {
      throw NibbleError.badInput("\(predicted.count) predicted numbers, but \(actual.count) true ones")
    }
    guard !predicted.isEmpty else { throw NibbleError.badInput("there are no predictions to score") }
    for (place, pair) in zip(predicted, actual).enumerated() where !(pair.0.isFinite && pair.1.isFinite) {
      throw NibbleError.badInput("prediction \(place + 1): \(pair.0) against \(pair.1): not finite numbers")
    }
    squaredError = CorpusScore(meanOf: zip(predicted, actual).map { ($0 - $1) * ($0 - $1) })
    let (x, y) = (Self.scaled(predicted), Self.scaled(actual))
    pearson = CorpusScore(items: nil, count: x.count) { Self.pearson(x, y, $0) }
    let (ownRanks, otherRanks) = (Ranks(predicted), Ranks(actual))
    spearman = CorpusScore(items: nil, count: x.count) { Self.pearson(ownRanks.of($0), otherRanks.of($0), $0) }
  }

  /// Of items that count as often as told.
  private static func pearson(_ x: [Double], _ y: [Double], _ times: [Int32]) -> Double {
    var (n, meanX, meanY) = (0.0, 0.0, 0.0)
    for (place, times) in times.enumerated() where times > 0 {
      n += Double(times)
      meanX += Double(times) * x[place]
      meanY += Double(times) * y[place]
    }
    (meanX, meanY) = (meanX / n, meanY / n)
    var (xx, yy, xy, size) = (0.0, 0.0, 0.0, (x: 0.0, y: 0.0))
    for (place, times) in times.enumerated() where times > 0 {
      let (weight, dx, dy) = (Double(times), x[place] - meanX, y[place] - meanY)
      xx += weight * dx * dx
      yy += weight * dy * dy
      xy += weight * dx * dy
      size = (max(size.x, abs(x[place])), max(size.y, abs(y[place])))
    }
    // What equal numbers differ from their mean by rounding is no spread.
    guard xx > n * size.x * size.x * 1e-28, yy > n * size.y * size.y * 1e-28 else { return .nan }
    return max(-1, min(1, xy / (xx * yy).squareRoot()))
  }

  /// Divided by a power of two so that no square overflows.
  private static func scaled(_ values: [Double]) -> [Double] {
    let greatest = values.reduce(0) { max($0, abs($1)) }
    guard greatest.isNormal else { return values }
    let scale = Double(sign: .plus, exponent: greatest.exponent, significand: 1)
    return values.map { $0 / scale }
  }
}

/// The order of numbers, for ranks from 1 on among any selection of them.
private struct Ranks {
  /// Places of equal numbers, the least first.
  private var groups: [[Int]] = []
  private let count: Int

  init(_ values: [Double]) {
    count = values.count
    for place in values.indices.sorted(by: { values[$0] < values[$1] }) {
      if let first = groups.last?.first, values[first] == values[place] {
        groups[groups.count - 1].append(place)
      } else {
        groups.append([place])
      }
    }
  }

  /// Ranks among numbers that count as often as told, equal ones having the mean of theirs.
  func of(_ times: [Int32]) -> [Double] {
    var ranks = [Double](repeating: 0, count: count)
    var before = 0.0
    for group in groups {
      let size = Double(group.reduce(0) { $0 + times[$1] })
      for place in group { ranks[place] = before + (size + 1) / 2 }
      before += size
    }
    return ranks
  }
}
