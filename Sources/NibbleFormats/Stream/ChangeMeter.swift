import NibbleCore
import NibbleQuant

/// Measures what became of one tensor's change, piece by piece.
struct ChangeMeter: Sendable {
  /// What was found in one piece: rows that begin or end in others are still to be put together.
  struct Piece: Sendable {
    var sums = ChangeSums()
    /// Projections of such rows.
    var partial: [(row: Int, values: [Float])] = []

    /// Puts the pieces of a tensor, in order, together.
    static func total(_ pieces: [Piece]) -> ChangeSums {
      var total = ChangeSums()
      var row = -1
      var values: [Float] = []
      for piece in pieces {
        total += piece.sums
        for part in piece.partial {
          if part.row == row {
            for k in values.indices { values[k] += part.values[k] }
          } else {
            total.inner += squares(values)
            (row, values) = part
          }
        }
      }
      total.inner += squares(values)
      return total
    }

    private static func squares(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) * Double($1) } }
  }

  /// Above it, measuring the noise where the adapter reads would take longer than all the rest.
  private static let mostRanks = 512
  private let basis: RowBasis?

  init(_ change: any TensorChange) {
    guard let space = change.rowSpace, space.isOfInputs, space.rank <= Self.mostRanks, space.columns > 0 else {
      basis = nil
      return
    }
    basis = RowBasis(space.start, rank: space.rank, columns: space.columns)
  }

  /// - Parameters:
  ///   - start: the tensor's element that the pieces begin with
  ///   - delta: overwritten with the noise
  func measure(
    _ start: Int, _ count: Int, base: UnsafePointer<Float>, written: UnsafePointer<Float>, delta: UnsafeMutablePointer<Float>,
    _ scratch: Scratch
  ) -> Piece {
    var piece = Piece(sums: ChangeKernels.measure(base: base, written: written, delta: delta, count: count))
    guard let basis, basis.rank > 0 else { return piece }
    for i in 0..<count { delta[i] = written[i] - base[i] - delta[i] }
    piece.sums.innerDelta = piece.sums.delta
    basis.byColumn.withUnsafeBufferPointer { vectors in
      guard let vectors = vectors.baseAddress else { return }
      let (columns, rank) = (basis.columns, basis.rank)
      var done = 0
      while done < count {
        let (row, column) = (start + done).quotientAndRemainder(dividingBy: columns)
        let left = count - done
        let isWhole = column == 0 && left >= columns
        let (rows, width) = isWhole ? (left / columns, columns) : (1, min(columns - column, left))
        let out = scratch.floatStart(TensorStream.Slot.projected, rows * rank)
        ChangeKernels.lowRank(
          delta + done, rows: rows, vectors + column * rank, rightStride: rank, columns: rank, rank: width, out, outStride: rank)
        if isWhole {
          for index in 0..<rows * rank { piece.sums.inner += Double(out[index]) * Double(out[index]) }
        } else {
          piece.partial.append((row, (0..<rank).map { out[$0] }))
        }
        done += rows * width
      }
    }
    return piece
  }
}
