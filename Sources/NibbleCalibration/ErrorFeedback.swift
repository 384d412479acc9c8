import CNibbleKernels
import NibbleCompute
import NibbleCore
import NibbleQuant

/// 4-bit codes of a weight [outputs, inputs], chosen column by column so that later columns make up for the errors of earlier ones: GPTQ
/// (arXiv:2210.17323) towards a target that also makes up for what the packed model lacks so far (GPTAQ, arXiv:2504.02692; QEP,
/// arXiv:2504.09629).
///
/// Rows do not depend on each other; each is computed by one thread, in runs of a fixed size.
struct ErrorFeedback {
  let codec: any FeedbackCodec
  let outputs: Int
  let inputs: Int
  /// The scale of every block of the flattened weight.
  let grid: any BlockGrid
  /// Whether groups take scale and zero from the weights as they are when their turn comes, as GPTQ does. Columns keep their order then.
  let takesRanges: Bool
  /// Rounds of descent over scales and codes that follow.
  let rounds: Int

  static let run = 256
  static let group = 64
  enum Slot {
    static let turned = 40, scales = 44, codes = 45, errors = 46
    static let gradient = 47, values = 48, units = 49, sums = 50
  }

  /// - Parameters:
  ///   - target: what the codes are to come to, [outputs, inputs]
  ///   - damped: Ĥ + λI [inputs, inputs]
  /// - Returns: the sections of the codes
  func codes(of target: FloatStore, _ factor: FeedbackFactor, damped: FloatStore, _ team: Team) -> [[UInt8]] {
    let numbers = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: outputs * inputs)
    defer { numbers.deallocate() }
    // Every run of rows has blocks of its own, unless blocks cross rows; then scales stay.
    let grid = grid.copy()
    let groups = takesRanges ? grid as? GroupGrid : nil
    let shared = Unchecked(numbers)
    let levels = Levels(codec)
    team.run(ceilDivide(outputs, Self.run)) { index, scratch in
      let numbers = shared.value
      let rows = index * Self.run..<min((index + 1) * Self.run, outputs)
      let room = (rows.count + 15) / 16 * 16
      let own = target.start + rows.lowerBound * inputs
      let turned = scratch.floatStart(Slot.turned, room * inputs)
      Self.turn(own, rows: rows.count, factor.order, turned, room: room)
      let step = groups.map { min(Self.group, $0.length) } ?? Self.group
      for first in stride(from: 0, to: inputs, by: step) {
        let count = min(step, inputs - first)
        if let groups, first % groups.length == 0 { take(groups, first, rows, room, turned) }
        code(first, count, rows, room, turned, factor, levels, grid, numbers, scratch)
      }
      guard rounds > 0 else { return }
      Descent(self, rows, room, damped, levels, grid, numbers, scratch).run(own)
    }
    codec.order(numbers, columns: inputs)
    return codec.sections(numbers, grid)
  }

  /// The groups that begin at a column get the range of what their codes are to come to.
  private func take(_ groups: GroupGrid, _ first: Int, _ rows: Range<Int>, _ room: Int, _ turned: UnsafePointer<Float>) {
    for row in 0..<rows.count {
      var low: Float = groups.areOffsets ? .infinity : 0, high = -low
      for column in first..<min(first + groups.length, inputs) {
        low = min(low, turned[column * room + row])
        high = max(high, turned[column * room + row])
      }
      groups.set(((rows.lowerBound + row) * inputs + first) / groups.length, low: low, high: high)
    }
  }

  /// One group of columns, and what the columns behind it are to make up for.
  private func code(
    _ first: Int, _ count: Int, _ rows: Range<Int>, _ room: Int, _ turned: UnsafeMutablePointer<Float>, _ factor: FeedbackFactor,
    _ levels: Levels, _ grid: any BlockGrid, _ numbers: UnsafeMutableBufferPointer<UInt8>, _ scratch: Scratch
  ) {
    let n = inputs, shape = grid.shape, scales = grid.scales
    let own = scratch.floatStart(Slot.scales, Self.group * room)
    let errors = scratch.floatStart(Slot.errors, Self.group * room)
    let codes = scratch.start(Slot.codes, Self.group * room).assumingMemoryBound(to: UInt8.self)
    for k in 0..<count {
      let column = factor.order[first + k]
      for row in 0..<rows.count {
        let block = shape.block(rows.lowerBound + row, column, of: n)
        own[k * room + row] = scales[block]
        // Towards σ · level, whatever z is: what is left over stays the same.
        if grid.zeros != nil { turned[(first + k) * room + row] += grid.shift(block) }
      }
      for row in rows.count..<room { own[k * room + row] = 0 }
    }
    let start = factor.factor.start + first * n + first
    levels.feedBack(start, stride: n, columns: count, rows: room, turned + first * room, scales: own, codes: codes, errors: errors)
    let left = n - first - count
    if left > 0 {
      _ = BLAS.multiply(
        start + count, n, errors, room, transposed: false, turned + (first + count) * room, room, m: left, n: room, k: count,
        alpha: -1, beta: 1, transposedLeft: true)
    }
    for k in 0..<count {
      let column = factor.order[first + k]
      for row in 0..<rows.count { numbers[(rows.lowerBound + row) * n + column] = codes[k * room + row] }
    }
  }

  /// out[place · room + row] = x[row · columns + order[place]]; rows behind the last are zeros.
  private static func turn(
    _ x: UnsafePointer<Float>, rows: Int, _ order: [Int], _ out: UnsafeMutablePointer<Float>, room: Int
  ) {
    for (place, column) in order.enumerated() {
      for row in 0..<rows { out[place * room + row] = x[row * order.count + column] }
      for row in rows..<room { out[place * room + row] = 0 }
    }
  }
}

/// The values of a codec's codes in ascending order, for the kernel.
struct Levels: Sendable {
  /// By code.
  let byCode: [Float]
  private let values: [Float]
  private let thresholds: [Float]
  private let numbers: [UInt8]

  init(_ codec: any FeedbackCodec) {
    let sorted = codec.levels.enumerated().sorted { ($0.element, $0.offset) < ($1.element, $1.offset) }
    byCode = codec.levels
    values = sorted.map(\.element)
    numbers = sorted.map { UInt8($0.offset) }
    thresholds = (0..<15).map { Float((Double(sorted[$0].element) + Double(sorted[$0 + 1].element)) / 2) }
  }

  private func plan<Result>(_ body: (UnsafePointer<nibble_feedback>) -> Result) -> Result {
    values.withUnsafeBufferPointer { values in
      thresholds.withUnsafeBufferPointer { thresholds in
        numbers.withUnsafeBufferPointer { numbers in
          var plan = nibble_feedback(codebook: values.baseAddress, thresholds: thresholds.baseAddress, numbers: numbers.baseAddress)
          return body(&plan)
        }
      }
    }
  }

  /// See `nibble_feed_back`.
  func feedBack(
    _ factor: UnsafePointer<Float>, stride: Int, columns: Int, rows: Int, _ t: UnsafeMutablePointer<Float>,
    scales: UnsafePointer<Float>, codes: UnsafeMutablePointer<UInt8>, errors: UnsafeMutablePointer<Float>
  ) {
    plan { nibble_feed_back($0, factor, stride, columns, rows, t, scales, codes, errors) }
  }

  /// See `nibble_descend`.
  func descend(
    _ hessian: UnsafePointer<Float>, stride: Int, columns: Int, rows: Int, gradient: UnsafeMutablePointer<Float>,
    scales: UnsafePointer<Float>, values: UnsafeMutablePointer<Float>, codes: UnsafeMutablePointer<UInt8>,
    steps: UnsafeMutablePointer<Float>
  ) {
    plan { nibble_descend($0, hessian, stride, columns, rows, gradient, scales, values, codes, steps) }
  }
}
