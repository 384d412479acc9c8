import NibbleCore

/// Elements into 4-bit whole numbers. A group is encoded whole, so what a reader sees of it is known at once.
final class Int4Encoder: TensorEncoder, @unchecked Sendable {
  private let codec: Int4Groups
  private let length: Int
  private let groups: Int
  private let search: ScaleSearch
  private let values: GroupValues
  /// The least scale of full precision.
  private let leastNormal: Float

  private enum Slot { static let scales = 0, zeros = 1, stored = 2, storedZeros = 3 }
  private let memory: Scratch

  init(_ codec: Int4Groups, _ task: EncodingTask) {
    (self.codec, search, memory) = (codec, task.search, task.memory)
    leastNormal = codec.scale == .f16 ? 0x1p-14 : .leastNormalMagnitude
    length = codec.length(columns: task.shape.last ?? 0)
    groups = codec.groups(task.shape)
    values = GroupValues(
      scales: memory.floatStart(Slot.scales, max(groups, 1)),
      zeros: codec.zero == .none ? nil : memory.floatStart(Slot.zeros, max(groups, 1)), areOffsets: codec.zero == .offset)
  }

  var grain: Int { length }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let codes = scratch.start(CodecSlot.codes, count / 2).assumingMemoryBound(to: UInt8.self)
    let wanted = scratch.floatStart(CodecSlot.wide, count)
    Kernels.widen(elements.dtype, elements.x, count: count, wanted)
    let found = restored ?? scratch.floatStart(CodecSlot.right, count)
    let first = elements.start / length
    var sums = EncodedSums()
    for group in 0..<count / length {
      let grid = code(wanted + group * length, found + group * length, scratch.floatStart(CodecSlot.left, length))
      values.scales[first + group] = grid.scale
      values.zeros?[first + group] = grid.zero
      note(grid, wanted + group * length, &sums.counts)
      for index in 0..<length / 2 {
        let at = group * length + 2 * index
        codes[at / 2] = UInt8(found[at]) << 4 | UInt8(found[at + 1])
      }
      for index in group * length..<(group + 1) * length { found[index] = value(found[index], grid) }
    }
    var difference = Difference()
    difference.add(wanted, found, count: count)
    (sums.error, sums.signal) = (difference.squaredDifference, difference.squaredA)
    return (UnsafeRawBufferPointer(start: codes, count: count / 2), sums)
  }

  private func note(_ grid: Grid, _ x: UnsafePointer<Float>, _ counts: inout EncodeCounts) {
    if grid.scale >= leastNormal, grid.scale.isFinite { return }
    if grid.scale == 0 {
      let all = values.areOffsets ? grid.zero : 0
      if values.areOffsets, (0..<length).contains(where: { x[$0] != 0 }), (0..<length).allSatisfy({ x[$0] == all }) { return }
      let isZero = (0..<length).allSatisfy { x[$0] == 0 }
      if isZero { counts.zeroBlocks += 1 } else { counts.vanished += 1 }
    } else if grid.scale > 0 {
      counts.subnormal += 1
    } else {
      counts.nonfinite += length
      counts.finiteLost += (0..<length).reduce(0) { $0 + (x[$1].isFinite ? 1 : 0) }
    }
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    let scales = memory.bytes(Slot.stored, groups * codec.scale.bitWidth / 8)
    codec.store(scales: values.scales, count: groups, scales)
    guard let dtype = codec.zero.dtype(codec.scale), let zeros = values.zeros else { return [UnsafeRawBufferPointer(scales)] }
    let bytes = memory.bytes(Slot.storedZeros, groups * dtype.bitWidth / 8)
    codec.store(zeros: zeros, count: groups, bytes)
    return [UnsafeRawBufferPointer(scales), UnsafeRawBufferPointer(bytes)]
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    let codes = scratch.floatStart(CodecSlot.right, length)
    for group in 0..<count / length {
      let at = values + group * length
      let grid = code(at, codes, scratch.floatStart(CodecSlot.left, length))
      for index in 0..<length { at[index] = value(codes[index], grid) }
    }
  }

  // MARK: One group

  private typealias Grid = Int4Groups.Grid

  /// What a code stands for.
  private func value(_ code: Float, _ grid: Grid) -> Float {
    values.areOffsets ? grid.scale * code + grid.zero : grid.scale * (code - grid.zero)
  }

  /// The grid of a group and its codes, as whole numbers.
  ///
  /// - Parameters:
  ///   - codes: room for `length` numbers
  ///   - trial: the same
  private func code(_ x: UnsafePointer<Float>, _ codes: UnsafeMutablePointer<Float>, _ trial: UnsafeMutablePointer<Float>) -> Grid
  {
    // Zeros lie within the codes, so that 0 lies within the range; offsets are free.
    var low: Float = values.areOffsets ? x[0] : 0, high = low, isFinite = true
    for index in 0..<length {
      let value = x[index]
      if !value.isFinite { isFinite = false }
      low = min(low, value)
      high = max(high, value)
    }
    guard isFinite else { return lost(codes) }
    var best = codec.grid(low, high, roundsZero: !search.searches)
    guard best.scale.isFinite, best.zero.isFinite else { return lost(codes) }
    var error = round(x, best, codes)
    guard search.searches, best.scale > 0 else { return best }
    // Shorter ranges cut off what is far out, and round the rest finer.
    for step in 1...Self.steps {
      let share = 1 - Float(step) * Self.step
      try_(codec.grid(low * share, high * share, roundsZero: !search.searches), x, &best, &error, codes, trial)
    }
    // The range that cuts nothing off: what lies on a grid already stays there.
    if codec.zero == .none { try_(Grid(scale: codec.stored(scale: max(-low / 8, high / 7)), zero: best.zero), x, &best, &error, codes, trial) }
    for _ in 0..<2 { if let fit = fitted(x, best, codes) { try_(fit, x, &best, &error, codes, trial) } }
    return best
  }

  private static let steps = 24
  private static let step: Float = 0.025

  private func try_(
    _ grid: Grid, _ x: UnsafePointer<Float>, _ best: inout Grid, _ error: inout Double, _ codes: UnsafeMutablePointer<Float>,
    _ trial: UnsafeMutablePointer<Float>
  ) {
    guard grid.scale > 0, grid.scale.isFinite else { return }
    let found = round(x, grid, trial)
    guard found < error else { return }
    (best, error) = (grid, found)
    codes.update(from: trial, count: length)
  }

  /// A group with values that are not finite: it has none that is.
  private func lost(_ codes: UnsafeMutablePointer<Float>) -> Grid {
    codes.update(repeating: Int4Groups.middle, count: length)
    return Grid(scale: .nan, zero: Int4Groups.middle)
  }

  /// The scale and zero with the least squared error for these codes.
  private func fitted(_ x: UnsafePointer<Float>, _ grid: Grid, _ codes: UnsafePointer<Float>) -> Grid? {
    var q = 0.0, qq = 0.0, xs = 0.0, xq = 0.0
    for index in 0..<length {
      let (code, value) = (Double(codes[index]), Double(x[index]))
      q += code
      qq += code * code
      xs += value
      xq += value * code
    }
    let n = Double(length)
    if codec.zero == .none || codec.zero == .int {
      let z = Double(grid.zero), square = qq - 2 * z * q + n * z * z
      guard square > 0 else { return nil }
      return Grid(scale: codec.stored(scale: Float((xq - z * xs) / square)), zero: grid.zero)
    }
    let spread = n * qq - q * q
    guard spread > 0 else { return nil }
    let slope = (n * xq - q * xs) / spread
    guard slope > 0 else { return nil }
    let scale = codec.stored(scale: Float(slope))
    if values.areOffsets { return Grid(scale: scale, zero: codec.stored(zero: Float((xs - Double(scale) * q) / n))) }
    return Grid(scale: scale, zero: codec.stored(zero: Float(q / n - xs / (n * Double(scale)))))
  }

  /// Adding this rounds to whole numbers, ties to even.
  private static let rounder: Float = 0x1.8p23

  /// Codes of a grid, and Σ(x − x′)².
  private func round(_ x: UnsafePointer<Float>, _ grid: Grid, _ codes: UnsafeMutablePointer<Float>) -> Double {
    guard grid.scale > 0 else {
      codes.update(repeating: values.areOffsets ? 0 : grid.zero.rounded(.toNearestOrEven), count: length)
      let all = values.areOffsets ? Double(grid.zero) : 0
      return (0..<length).reduce(0) { $0 + (Double(x[$1]) - all) * (Double(x[$1]) - all) }
    }
    let (offset, zero) = values.areOffsets ? (grid.zero, 0) : (0, grid.zero)
    let whole = zero == zero.rounded(.toNearestOrEven)
    var error: Float = 0
    for index in 0..<length {
      // Whole zeros are added after rounding, as the reference has it.
      let scaled = (x[index] - offset) / grid.scale
      let code = whole ? (scaled + Self.rounder) - Self.rounder + zero : (scaled + zero + Self.rounder) - Self.rounder
      codes[index] = max(0, min(15, code))
      let e = x[index] - (grid.scale * (codes[index] - zero) + offset)
      error += e * e
    }
    return Double(error)
  }
}
