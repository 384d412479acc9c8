import NibbleCompute
import NibbleCore
import NibbleFormats

/// The lengths of the rows of a weight, wherever it is.
package protocol RowLengths: Sendable {
  /// ‖W[o] + scale · B[o] · A‖² for every output o, with a pair or without.
  func squares(adding pair: LowRankPair?) throws -> [Double]
}

extension RowLengths {
  package func norms(adding pair: LowRankPair?) throws -> [Double] { try squares(adding: pair).map { $0.squareRoot() } }
}

/// Of a weight in memory.
package struct MatrixLengths: RowLengths {
  private let weight: Matrix
  private let engine: Engine

  package init(_ weight: Matrix, _ engine: Engine) { (self.weight, self.engine) = (weight, engine) }

  package func squares(adding pair: LowRankPair?) -> [Double] {
    let (rows, columns) = (weight.native.rows, weight.native.columns)
    let change = pair.map { LowRankChange(.init($0), rowsAreOutputs: !weight.isTransposed) }
    // Rows that are outputs are independent; of others each adds to every sum, in order.
    let block = weight.isTransposed ? rows : max(1, (1 << 16) / max(columns, 1))
    let found = FloatSquares(outputs: weight.outputs)
    engine.team.split((rows + block - 1) / max(block, 1), grain: 1) { part, _ in
      let values = FloatStore(count: columns), delta = FloatStore(count: columns)
      for row in part.lowerBound * block..<min(part.upperBound * block, rows) {
        weight.rows(row..<row + 1, into: values.start)
        found.add(
          values.start, row * columns, columns, columns: columns, rowsAreOutputs: !weight.isTransposed, change, delta.start)
      }
    }
    return found.values
  }
}

/// Of a weight in a file, read in the order in which it is changed.
struct StoredLengths: RowLengths {
  let source: StoredTensor
  let transposing: Bool
  let columns: Int
  let outputs: Int
  let rowsAreOutputs: Bool

  func squares(adding pair: LowRankPair?) throws -> [Double] {
    let change = pair.map { LowRankChange(.init($0), rowsAreOutputs: rowsAreOutputs) }
    let found = FloatSquares(outputs: outputs)
    try source.forEachValues(transposing: transposing) { start, values, count, scratch in
      let delta = scratch.floatStart(ChangeSlot.first, count)
      found.add(values, start, count, columns: columns, rowsAreOutputs: rowsAreOutputs, change, delta)
    }
    return found.values
  }
}

/// Sums of the squares of rows, as their elements come by.
private final class FloatSquares: @unchecked Sendable {
  /// By output; each is added to by one thread.
  private let sums: UnsafeMutableBufferPointer<Double>

  init(outputs: Int) {
    sums = .allocate(capacity: outputs)
    sums.initialize(repeating: 0)
  }

  deinit { sums.deallocate() }

  var values: [Double] { Array(sums) }

  /// Adds elements `start..<start + count` in the order they are stored, changed in float32.
  func add(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, columns: Int, rowsAreOutputs: Bool, _ change: LowRankChange?,
    _ delta: UnsafeMutablePointer<Float>
  ) {
    change?.delta(values, start, count, into: delta)
    if change != nil { for index in 0..<count { delta[index] += values[index] } }
    let whole = change == nil ? values : UnsafePointer(delta)
    var index = 0
    while index < count {
      let (row, column) = (start + index).quotientAndRemainder(dividingBy: columns)
      let run = min(columns - column, count - index)
      if rowsAreOutputs {
        sums[row] = (index..<index + run).reduce(sums[row]) { $0 + Double(whole[$1]) * Double(whole[$1]) }
      } else {
        for at in 0..<run { sums[column + at] += Double(whole[index + at]) * Double(whole[index + at]) }
      }
      index += run
    }
  }
}
