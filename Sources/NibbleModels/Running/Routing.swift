import Glibc

/// Which experts the rows of a pass take, and how much each counts. A row with an expert it takes is a pair.
struct Routing {
  private let used: Int
  /// Whether experts' inputs are multiplied with what they count with, not what they give.
  let isOfInput: Bool
  /// Of each row, the experts it takes, the one of the greatest score first.
  private(set) var taken: [Int]
  /// What these count with.
  private(set) var shares: [Float]
  /// Pairs by their places in `taken`: those of the first expert, in the order of rows, then those of the next.
  private(set) var order: [Int]
  /// Where the pairs of each expert begin in `order`, and where those of the last end.
  private let starts: [Int]

  /// - Parameter p: of all experts, [rows, experts]
  init(_ p: UnsafePointer<Float>, rows: Int, _ experts: Experts) {
    let count = experts.all.count, rule = experts.rule
    used = rule.used
    isOfInput = rule.scores == .ofInput
    (taken, shares, order) = ([], [], [])
    taken.reserveCapacity(rows * used)
    shares.reserveCapacity(rows * used)
    var scores = [Float](repeating: 0, count: count)
    var isTaken = [Bool](repeating: false, count: count)
    for row in 0..<rows {
      let p = p + row * count
      for expert in 0..<count {
        scores[expert] = p[expert] + (experts.correction?.values.start[expert] ?? 0)
        isTaken[expert] = false
      }
      rule.groups?.close(&scores)
      var sum: Float = 0
      for _ in 0..<used {
        // Of numbers that are none the first are taken, and what the layer gives is NaN.
        var best: Int?
        for expert in 0..<count where !isTaken[expert] && best.map({ scores[expert] > scores[$0] }) ?? true { best = expert }
        guard let best else { break }
        taken.append(best)
        shares.append(isOfInput ? 1 / (1 + expf(-p[best])) : p[best])
        sum += p[best]
        isTaken[best] = true
      }
      let divisor = rule.addsUp ? sum + RoutingRule.least : 1
      for place in row * used..<(row + 1) * used { shares[place] = shares[place] / divisor * rule.scale }
    }
    var counts = [Int](repeating: 0, count: count)
    for expert in taken { counts[expert] += 1 }
    var ends = [0]
    for count in counts { ends.append(ends[ends.count - 1] + count) }
    starts = ends
    order = [Int](repeating: 0, count: taken.count)
    for (place, expert) in taken.enumerated() {
      order[ends[expert]] = place
      ends[expert] += 1
    }
  }

  /// The pairs of an expert.
  func pairs(_ expert: Int) -> Range<Int> { starts[expert]..<starts[expert + 1] }
  func row(_ pair: Int) -> Int { order[pair] / used }
  /// What an expert's output is multiplied with, and its input.
  func share(_ pair: Int) -> Float { isOfInput ? 1 : shares[order[pair]] }
  func inputShare(_ pair: Int) -> Float { isOfInput ? shares[order[pair]] : 1 }
}
