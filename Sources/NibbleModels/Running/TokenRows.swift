import NibbleCompute
import NibbleCore

/// Rows that some tokens have of their own in a table of embeddings, or in a head that shares its weight with one: forward and backward.
package struct TokenRows: Sendable {
  /// [tokens, width]
  private let values: FloatStore
  private let matrix: Matrix
  private let tokens: [Int]
  private let place: [Int: Int]
  private var width: Int { matrix.inputs }

  /// - Parameter matrix: `values` as one
  package init(_ values: FloatStore, _ matrix: Matrix, tokens: [Int]) {
    (self.values, self.matrix, self.tokens) = (values, matrix, tokens)
    place = Dictionary(tokens.enumerated().map { ($1, $0) }) { first, _ in first }
  }

  // MARK: In a table

  /// Puts them over rows that were looked up.
  func replace(_ ids: [Int], in rows: UnsafeMutablePointer<Float>) {
    for (row, id) in ids.enumerated() {
      guard let own = place[id] else { continue }
      (rows + row * width).update(from: values.start + own * width, count: width)
    }
  }

  func addGradient(_ ids: [Int], _ dy: UnsafePointer<Float>, to gradient: FloatStore) {
    for (row, id) in ids.enumerated() {
      guard let own = place[id] else { continue }
      LayerKernels.add(dy + row * width, count: width, to: gradient.start + own * width)
    }
  }

  // MARK: In a head

  /// Puts the scores of these tokens over those that the head's weight gave.
  func replace(
    _ x: UnsafePointer<Float>, rows: Int, in scores: UnsafeMutablePointer<Float>, stride: Int, _ engine: Engine,
    _ own: UnsafeMutablePointer<Float>
  ) {
    engine.multiply(x, rows: rows, stride: width, [.init(matrix, own, stride: tokens.count)])
    for row in 0..<rows {
      for (index, token) in tokens.enumerated() { scores[row * stride + token] = own[row * tokens.count + index] }
    }
  }

  /// Numbers that `replace` and `takeGradient` need for so many rows.
  func scoreCount(_ rows: Int) -> Int { rows * tokens.count }

  /// Moves the gradients of these tokens' scores from dy to `own`: the head's weight has no part in them. Adds to `gradient`.
  func takeGradient(
    _ x: UnsafePointer<Float>, rows: Int, from dy: UnsafeMutablePointer<Float>, stride: Int, to gradient: FloatStore?,
    _ engine: Engine, _ own: UnsafeMutablePointer<Float>
  ) {
    let count = tokens.count
    for row in 0..<rows {
      for (index, token) in tokens.enumerated() {
        own[row * count + index] = dy[row * stride + token]
        dy[row * stride + token] = 0
      }
    }
    guard let gradient else { return }
    engine.addWeightGradient(
      own, stride: count, outputs: count, x, stride: width, inputs: width, rows: rows, to: gradient.start)
  }

  /// dx += what `takeGradient` took, through these rows.
  func addInputGradient(_ own: UnsafePointer<Float>, rows: Int, to dx: UnsafeMutablePointer<Float>, _ engine: Engine) {
    engine.multiply(own, rows: rows, stride: tokens.count, [.init(matrix.turned, dx, stride: width, adds: true)])
  }
}

extension Matrix {
  /// A copy in which some rows are others, [rows, columns].
  package func replacing(_ rows: [Int], by values: FloatStore) -> Matrix {
    let (count, width) = (native.rows, native.columns), store = FloatStore(count: count * width)
    self.rows(0..<count, into: store.start)
    for (index, row) in rows.enumerated() { (store.start + row * width).update(from: values.start + index * width, count: width) }
    return Matrix(store, rows: count, columns: width)
  }
}
