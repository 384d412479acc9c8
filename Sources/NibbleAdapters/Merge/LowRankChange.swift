import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// Δ = gain ∘ W + left · right, in the order a matrix's elements are stored: what methods make of a weight, the pairs of several side
/// by side.
struct LowRankChange: TensorChange {
  /// What one adapter has part in it.
  struct Part {
    var factors: LowRankFactors?
    /// Numbers for tiles of the weight.
    var tiles: PooledTerm?
    /// s, [outputs]: outputs of W + D are scaled by it.
    var scales: [Double]?
    /// How much of the whole is taken.
    var weight = 1.0
  }

  /// [rows, rank], scaled.
  private let left: FloatStore
  /// [rank, columns]
  private let right: FloatStore
  private let columns: Int
  private let outputs: Int
  private let rank: Int
  /// s − 1, one number an output; nil where nothing scales.
  private let gain: FloatStore?
  /// Whether rows are the layer's outputs, and so read its inputs.
  private let rowsAreOutputs: Bool
  let sharedColumns: Int
  let sharedRows: Int
  /// What is added to tiles, and how many rows and columns each has.
  private let tiles: [(values: FloatStore, rows: Int, columns: Int, isTurned: Bool)]

  /// - Parameters:
  ///   - rowsAreOutputs: whether elements are stored [outputs, inputs]
  ///   - shared: inputs and outputs, one after another, that all parts add the same to
  init(_ parts: [Part], inputs: Int, outputs: Int, rowsAreOutputs: Bool, shared: (inputs: Int, outputs: Int) = (1, 1)) {
    tiles = parts.compactMap { part in
      part.tiles.map {
        let (rows, columns) = rowsAreOutputs ? ($0.outputs, $0.inputs) : ($0.inputs, $0.outputs)
        return ($0.changes(weight: part.weight), rows, columns, !rowsAreOutputs)
      }
    }
    let isShared = rowsAreOutputs && parts.allSatisfy { $0.scales == nil }
    (sharedColumns, sharedRows) = isShared ? (shared.inputs, shared.outputs) : (1, 1)
    rank = parts.reduce(0) { $0 + ($1.factors?.rank ?? 0) }
    columns = rowsAreOutputs ? inputs : outputs
    self.outputs = outputs
    self.rowsAreOutputs = rowsAreOutputs
    (left, right) = (FloatStore(count: (rowsAreOutputs ? outputs : inputs) * rank), FloatStore(count: rank * columns))
    let gains = parts.filter { $0.scales != nil }
    gain = gains.isEmpty ? nil : FloatStore([Float](repeating: 0, count: outputs))
    for part in gains {
      for (output, scale) in (part.scales ?? []).enumerated() { gain?.start[output] += Float(part.weight * (scale - 1)) }
    }
    var at = 0
    for part in parts {
      guard let factors = part.factors else { continue }
      fill(factors, scales: part.scales, at)
      at += factors.rank
    }
  }

  /// Of one pair.
  init(_ factors: LowRankFactors, rowsAreOutputs: Bool) {
    self.init([Part(factors: factors)], inputs: factors.inputs, outputs: factors.outputs, rowsAreOutputs: rowsAreOutputs)
  }

  /// Scales of outputs are folded into B, which is [outputs, r]; A is [r, inputs].
  private func fill(_ part: LowRankFactors, scales: [Double]?, _ at: Int) {
    let (r, inputs, outputs) = (part.rank, part.inputs, part.outputs)
    func b(_ output: Int, _ k: Int) -> Float {
      Float(part.scale * (scales?[output] ?? 1) * Double(part.b[output * r + k]))
    }
    for k in 0..<r {
      if rowsAreOutputs {
        for output in 0..<outputs { left.start[output * rank + at + k] = b(output, k) }
        for input in 0..<inputs { right.start[(at + k) * columns + input] = part.a[k * inputs + input] }
      } else {
        for input in 0..<inputs { left.start[input * rank + at + k] = part.a[k * inputs + input] }
        for output in 0..<outputs { right.start[(at + k) * columns + output] = b(output, k) }
      }
    }
  }

  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _: Scratch
  ) {
    self.delta(values, start, count, into: delta)
  }

  /// left · right at the first column of each group.
  func shift(length: Int) -> GroupShift? {
    guard sharedColumns % length == 0, columns % length == 0 else { return nil }
    let groups = columns / length, rows = outputs
    let firsts = FloatStore(count: rank * groups)
    for k in 0..<rank { for group in 0..<groups { firsts.start[k * groups + group] = right.start[k * columns + group * length] } }
    let values = [Float](unsafeUninitializedCapacity: rows * groups) { buffer, count in
      if let out = buffer.baseAddress {
        ChangeKernels.lowRank(
          left.start, rows: rows, firsts.start, rightStride: groups, columns: groups, rank: rank, out, outStride: groups)
        for row in 0..<rows { for group in 0..<groups { out[row * groups + group] += tile(row, group * length) } }
      }
      count = rows * groups
    }
    return withExtendedLifetime(firsts) { GroupShift(values, length: length, across: groups) }
  }

  func delta(_ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>) {
    // Whole rows together; a row that is begun or left in the middle by itself.
    var done = 0
    while done < count {
      let (row, column) = (start + done).quotientAndRemainder(dividingBy: columns)
      let left = count - done
      let (rows, width) = column == 0 && left >= columns ? (left / columns, columns) : (1, min(columns - column, left))
      product(row, rows, column, width, into: delta + done)
      if !tiles.isEmpty { addTiles(row, rows, column, width, to: delta + done) }
      addGain(row, rows, column, width, values + done, to: delta + done)
      done += rows * width
    }
  }

  /// What tiles add to one element.
  private func tile(_ row: Int, _ column: Int) -> Float {
    tiles.reduce(Float(0)) { sum, one in
      let (i, j) = (row / one.rows, column / one.columns), across = columns / one.columns
      return sum + (one.isTurned ? one.values.start[j * (one.values.count / across) + i] : one.values.start[i * across + j])
    }
  }

  private func addTiles(_ row: Int, _ rows: Int, _ column: Int, _ width: Int, to out: UnsafeMutablePointer<Float>) {
    for one in tiles {
      let across = columns / one.columns, down = one.values.count / across
      for i in 0..<rows {
        for j in 0..<width {
          let (r, c) = ((row + i) / one.rows, (column + j) / one.columns)
          out[i * width + j] += one.values.start[one.isTurned ? c * down + r : r * across + c]
        }
      }
    }
  }

  var rowSpace: RowSpace? { rank == 0 ? nil : RowSpace(right.start, rank: rank, columns: columns, isOfInputs: rowsAreOutputs) }

  private func product(_ row: Int, _ rows: Int, _ column: Int, _ width: Int, into out: UnsafeMutablePointer<Float>) {
    ChangeKernels.lowRank(
      left.start + row * rank, rows: rows, right.start + column, rightStride: columns, columns: width, rank: rank, out,
      outStride: width)
  }

  private func addGain(
    _ row: Int, _ rows: Int, _ column: Int, _ width: Int, _ values: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>
  ) {
    guard let gain = gain?.start else { return }
    for i in 0..<rows {
      let (from, to) = (values + i * width, out + i * width)
      if !rowsAreOutputs {
        for j in 0..<width { to[j] += gain[column + j] * from[j] }
      } else {
        let factor = gain[row + i]
        for j in 0..<width { to[j] += factor * from[j] }
      }
    }
  }
}

/// Δ = gain ∘ b + a given vector: what methods make of a bias.
struct VectorChange: TensorChange {
  private let values: FloatStore
  /// s − 1; nil where nothing scales.
  private var gain: FloatStore?

  /// No change.
  init(count: Int) { values = FloatStore([Float](repeating: 0, count: count)) }

  /// Adds what one adapter makes of it, as far as its weight goes.
  mutating func add(_ bias: FloatStore?, scale: FloatStore?, weight: Double) {
    if let bias { for (index, value) in bias.values.enumerated() { values.start[index] += Float(weight * Double(value)) } }
    guard let scale else { return }
    let sum = gain ?? FloatStore([Float](repeating: 0, count: values.count))
    for (index, value) in scale.values.enumerated() { sum.start[index] += Float(weight * Double(value - 1)) }
    gain = sum
  }

  func delta(
    _ bias: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _: Scratch
  ) {
    delta.update(from: values.start + start, count: count)
    guard let gain else { return }
    for index in 0..<count { delta[index] += gain.start[start + index] * bias[index] }
  }
}
