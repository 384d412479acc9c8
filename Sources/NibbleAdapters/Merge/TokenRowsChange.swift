import NibbleCompute
import NibbleCore
import NibbleFormats

/// Δ brings some rows of an embedding or a head to given values: tokens that were trained without the others.
struct TokenRowsChange: TensorChange {
  /// By token: which of the rows in `values`, and how much of the way there.
  private var rows: [Int: (values: FloatStore, at: Int, weight: Float)] = [:]
  private let columns: Int
  /// What factors add, to these rows too: they are the weight the layer has under its factors.
  var factors: (any TensorChange)?

  init(columns: Int) { self.columns = columns }

  var grain: Int { factors?.grain ?? 1 }

  /// - Returns: false if a token has a row already
  mutating func add(_ tokens: [Int], _ values: FloatStore, weight: Float) -> Bool {
    for (index, token) in tokens.enumerated() {
      guard rows.updateValue((values, index * columns, weight), forKey: token) == nil else { return false }
    }
    return true
  }

  /// Whether the token has a row of its own.
  func replaces(_ token: Int) -> Bool { rows[token] != nil }

  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch
  ) {
    if let factors { factors.delta(values, start, count, into: delta, scratch) } else { delta.update(repeating: 0, count: count) }
    for row in start / columns...(start + max(count, 1) - 1) / columns {
      guard let (own, at, weight) = rows[row] else { continue }
      for index in max(start, row * columns)..<min(start + count, (row + 1) * columns) {
        delta[index - start] += weight * (own.start[at + index - row * columns] - values[index - start])
      }
    }
  }
}
