import CNibbleKernels
import NibbleCompute
import NibbleCore

/// Rounds of coordinate descent on tr((T − Q) Ĥ (T − Q)ᵀ) over some rows of a weight: each block's scale, then twice each code.
struct Descent {
  private let feedback: ErrorFeedback
  private let rows: Range<Int>
  private let room: Int
  private let hessian: UnsafePointer<Float>
  private let levels: Levels
  private let grid: any BlockGrid
  private let shape: BlockShape
  private let numbers: UnsafeMutableBufferPointer<UInt8>
  private let scratch: Scratch
  private var inputs: Int { feedback.inputs }

  private typealias Slot = ErrorFeedback.Slot
  private static let sweeps = 2

  init(
    _ feedback: ErrorFeedback, _ rows: Range<Int>, _ room: Int, _ damped: FloatStore, _ levels: Levels, _ grid: any BlockGrid,
    _ numbers: UnsafeMutableBufferPointer<UInt8>, _ scratch: Scratch
  ) {
    (self.feedback, self.rows, self.room, self.levels) = (feedback, rows, room, levels)
    hessian = UnsafePointer(damped.start)
    (self.grid, shape, self.numbers, self.scratch) = (grid, grid.shape, numbers, scratch)
  }

  /// - Parameter target: T of these rows
  func run(_ target: UnsafePointer<Float>) {
    let n = inputs
    let gradient = scratch.floatStart(Slot.gradient, n * room), values = scratch.floatStart(Slot.values, n * room)
    let own = scratch.floatStart(Slot.turned, n * room), codes = scratch.start(Slot.codes, n * room).assumingMemoryBound(to: UInt8.self)
    let lack = scratch.floatStart(Slot.units, n * room)
    UnsafeMutableBufferPointer(start: lack, count: n * room).initialize(repeating: 0)
    UnsafeMutableBufferPointer(start: values, count: n * room).initialize(repeating: 0)
    UnsafeMutableBufferPointer(start: codes, count: n * room).initialize(repeating: numberOfZero)
    for column in 0..<n {
      for row in 0..<rows.count {
        let at = column * room + row
        codes[at] = numbers[(rows.lowerBound + row) * n + column]
        let block = block(row, column)
        values[at] = grid.scales[block] * levels.byCode[Int(codes[at])]
        lack[at] = target[row * n + column] - (values[at] - grid.shift(block))
      }
    }
    _ = BLAS.multiply(hessian, n, lack, room, transposed: false, gradient, room, m: n, n: room, k: n)
    fillScales(own)
    for _ in 0..<feedback.rounds {
      if n % shape.columns == 0, ErrorFeedback.run % shape.rows == 0 {
        for first in stride(from: 0, to: n, by: shape.columns) {
          rescale(first, gradient, values, codes)
          rezero(first, gradient)
        }
        fillScales(own)
      }
      for _ in 0..<Self.sweeps {
        for first in stride(from: 0, to: n, by: ErrorFeedback.group) {
          let count = min(ErrorFeedback.group, n - first)
          let steps = scratch.floatStart(Slot.errors, ErrorFeedback.group * room)
          let at = first * room
          levels.descend(
            hessian + first * n + first, stride: n, columns: count, rows: room, gradient: gradient + at, scales: own + at,
            values: values + at, codes: codes + at, steps: steps)
          follow(first, count, steps, gradient, besides: true)
        }
      }
    }
    for column in 0..<n {
      for row in 0..<rows.count { numbers[(rows.lowerBound + row) * n + column] = codes[column * room + row] }
    }
  }

  private var numberOfZero: UInt8 { UInt8(levels.byCode.firstIndex(of: 0) ?? 0) }

  private func block(_ row: Int, _ column: Int) -> Int {
    shape.block(rows.lowerBound + row, column, of: inputs)
  }

  private func fillScales(_ own: UnsafeMutablePointer<Float>) {
    for column in 0..<inputs {
      for row in 0..<rows.count { own[column * room + row] = grid.scales[block(row, column)] }
      for row in rows.count..<room { own[column * room + row] = 0 }
    }
  }

  /// g −= Ĥ · steps of some columns; where these are up to date themselves, of all others.
  private func follow(
    _ first: Int, _ count: Int, _ steps: UnsafePointer<Float>, _ gradient: UnsafeMutablePointer<Float>, besides: Bool
  ) {
    let n = inputs
    func part(_ columns: Range<Int>) {
      guard !columns.isEmpty else { return }
      _ = BLAS.multiply(
        hessian + columns.lowerBound * n + first, n, steps, room, transposed: false, gradient + columns.lowerBound * room, room,
        m: columns.count, n: room, k: count, alpha: -1, beta: 1)
    }
    if besides {
      part(0..<first)
      part(first + count..<n)
    } else {
      part(0..<n)
    }
  }

  /// The scales of one block of every row: the one that lowers the error most among those the file can hold.
  private func rescale(
    _ first: Int, _ gradient: UnsafeMutablePointer<Float>, _ values: UnsafeMutablePointer<Float>, _ codes: UnsafePointer<UInt8>
  ) {
    let count = shape.columns
    let units = scratch.floatStart(Slot.units, count * room)
    for place in 0..<count * room { units[place] = levels.byCode[Int(codes[first * room + place])] }
    if let zeros = grid.zeros, !grid.areOffsets {
      for column in 0..<count { for row in 0..<rows.count { units[column * room + row] -= zeros[block(row, first)] } }
    }
    let changes = move(first, units, gradient) { row, step in
      let block = block(row, first)
      let found = grid.nearest(grid.scales[block] + step, block: block)
      return found.value == 0 ? nil : (found.value - grid.scales[block], { grid.set(block, found) })
    }
    guard let changes else { return }
    for column in 0..<count {
      for row in 0..<room {
        let at = column * room + row
        values[first * room + at] += levels.byCode[Int(codes[first * room + at])] * changes[row]
      }
    }
  }

  /// The zeros of one block of every row, where files hold more than whole ones. Codes are chosen for σ · level, which stays.
  private func rezero(_ first: Int, _ gradient: UnsafeMutablePointer<Float>) {
    guard let zeros = grid.zeros, grid.nearest(zero: 0, block: 0) != nil else { return }
    let count = shape.columns
    let units = scratch.floatStart(Slot.units, count * room)
    for column in 0..<count {
      for row in 0..<room { units[column * room + row] = row >= rows.count ? 0 : grid.areOffsets ? 1 : -grid.scales[block(row, first)] }
    }
    _ = move(first, units, gradient) { row, step in
      let block = block(row, first)
      guard let found = grid.nearest(zero: zeros[block] + step, block: block) else { return nil }
      return (found - zeros[block], { zeros[block] = found })
    }
  }

  /// Moves the values of one block of every row along `units`, which are spoiled, as far as lowers the error most.
  ///
  /// - Parameter step: the change nearest to a wanted one that the block of a row can make, and what makes it; nil for none
  /// - Returns: the change of each row; nil if there is none
  private func move(
    _ first: Int, _ units: UnsafeMutablePointer<Float>, _ gradient: UnsafeMutablePointer<Float>,
    _ step: (_ row: Int, _ wanted: Float) -> (change: Float, make: () -> Void)?
  ) -> UnsafePointer<Float>? {
    let count = shape.columns
    let sums = scratch.floatStart(Slot.sums, 3 * room)
    nibble_scale_sums(
      units, hessian + first * inputs + first, inputs, count, room, gradient + first * room, sums, sums + room)
    let changes = sums + 2 * room
    UnsafeMutableBufferPointer(start: changes, count: room).initialize(repeating: 0)
    var isAnyChanged = false
    for row in stride(from: 0, to: rows.count, by: shape.rows) {
      let own = row..<min(row + shape.rows, rows.count)
      let slope = own.reduce(Float(0)) { $0 + sums[$1] }, curvature = own.reduce(Float(0)) { $0 + sums[room + $1] }
      guard curvature > 0, let (change, make) = step(row, slope / curvature) else { continue }
      // What the error becomes less by; NaN is no gain.
      guard 2 * change * slope - change * change * curvature > 0 else { continue }
      make()
      for row in own { changes[row] = change }
      isAnyChanged = true
    }
    guard isAnyChanged else { return nil }
    for column in 0..<count { for row in 0..<room { units[column * room + row] *= changes[row] } }
    follow(first, count, units, gradient, besides: false)
    return UnsafePointer(changes)
  }
}
