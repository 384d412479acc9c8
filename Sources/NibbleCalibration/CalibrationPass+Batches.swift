import NibbleModels

extension CalibrationPass {
  /// Windows that are computed together.
  struct Batch {
    let rows: Range<Int>
    let runs: [TokenRun]
    let isHeldOut: Bool
    let isAlsoMeasured: Bool
  }

  /// A share of the windows is held out, but never more than fit a batch.
  private static let heldOutShare = 16

  /// The windows in batches, those that are held out in the last.
  static func batches(_ windows: [[Int]]) -> [Batch] {
    let tokens = windows.reduce(0) { $0 + $1.count }
    let most = batchRows * windows.count / max(tokens, 1)
    let heldOut = windows.count < heldOutShare / 2 ? 0 : max(1, min(windows.count / heldOutShare, most))
    var kept: [[Int]] = [], held: [[Int]] = []
    for (index, window) in windows.enumerated() {
      // Evenly spread.
      let isHeld = heldOut > 0 && (index + 1) * heldOut / windows.count > index * heldOut / windows.count
      if isHeld { held.append(window) } else { kept.append(window) }
    }
    var batches: [Batch] = []
    var start = 0
    func add(_ runs: [[Int]], isHeldOut: Bool) {
      guard !runs.isEmpty else { return }
      let count = runs.reduce(0) { $0 + $1.count }
      batches.append(
        Batch(
          rows: start..<start + count, runs: runs.map { TokenRun($0) }, isHeldOut: isHeldOut,
          isAlsoMeasured: held.isEmpty && batches.isEmpty))
      start += count
    }
    var pending: [[Int]] = []
    var count = 0
    for window in kept {
      if count + window.count > batchRows {
        add(pending, isHeldOut: false)
        (pending, count) = ([], 0)
      }
      pending.append(window)
      count += window.count
    }
    add(pending, isHeldOut: false)
    add(held, isHeldOut: true)
    return batches
  }
}
