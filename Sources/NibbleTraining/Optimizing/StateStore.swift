import NibbleCompute
import NibbleCore

/// One state of one tensor where it lies: as float32, or as codes and the greatest magnitude of each block.
package struct StateStore {
  package let state: OptimizerState
  /// nil for float32.
  private let map: StateMap?
  private let start: UnsafeMutableRawPointer
  /// Where it lies in the optimizer's memory.
  private let offset: Int

  /// Smaller tensors keep float32 states, as bitsandbytes' do (`min_8bit_size`).
  package static let leastEightBit = 4096

  init(_ state: OptimizerState, isEightBit: Bool, in memory: UnsafeMutableRawPointer, at offset: Int) {
    (self.state, self.offset) = (state, offset)
    map = Self.map(state, isEightBit)
    start = memory + offset
  }

  private static func map(_ state: OptimizerState, _ isEightBit: Bool) -> StateMap? {
    isEightBit && state.count >= leastEightBit ? state.map : nil
  }

  /// Bytes of a state, its scales included.
  static func bytes(_ state: OptimizerState, isEightBit: Bool) -> Int {
    guard map(state, isEightBit) != nil else { return 4 * state.count }
    return codeBytes(state.count) + 4 * ceilDivide(state.count, StateMap.block)
  }

  /// Codes, with the room up to the scales.
  private static func codeBytes(_ count: Int) -> Int { ceilDivide(count, 64) * 64 }

  package var isEightBit: Bool { map != nil }

  private var codes: UnsafeMutablePointer<UInt8> { start.assumingMemoryBound(to: UInt8.self) }
  private var absmax: UnsafeMutablePointer<Float> {
    (start + Self.codeBytes(state.count)).assumingMemoryBound(to: Float.self)
  }

  /// The numbers from `first` on, where they are float32.
  package func floats(from first: Int) -> UnsafeMutablePointer<Float> { start.assumingMemoryBound(to: Float.self) + first }

  /// Numbers from `first` on, the first of a block.
  func decode(from first: Int, count: Int, _ out: UnsafeMutablePointer<Float>) {
    guard let map else { return out.update(from: floats(from: first), count: count) }
    map.decode(codes + first, count: count, absmax: absmax + first / StateMap.block, out)
  }

  func encode(_ x: UnsafeMutablePointer<Float>, count: Int, at first: Int) {
    guard let map else { return floats(from: first).update(from: x, count: count) }
    map.encode(x, count: count, codes: codes + first, absmax: absmax + first / StateMap.block)
  }

  /// Where the numbers of `range` lie in the optimizer's memory.
  func ranges(_ range: Range<Int>) -> [Range<Int>] {
    guard isEightBit else { return [offset + 4 * range.lowerBound..<offset + 4 * range.upperBound] }
    let scales = offset + Self.codeBytes(state.count)
    let blocks = range.lowerBound / StateMap.block..<ceilDivide(range.upperBound, StateMap.block)
    return [
      offset + range.lowerBound..<offset + range.upperBound, scales + 4 * blocks.lowerBound..<scales + 4 * blocks.upperBound,
    ]
  }

  /// What a checkpoint keeps of it.
  func parts(of tensor: String) -> [OptimizerPart] {
    guard isEightBit else {
      return [OptimizerPart("\(state.name)/\(tensor)", .f32, UnsafeMutableRawBufferPointer(start: start, count: 4 * state.count))]
    }
    let blocks = ceilDivide(state.count, StateMap.block)
    return [
      OptimizerPart("\(state.name)/\(tensor)", .u8, UnsafeMutableRawBufferPointer(start: start, count: state.count)),
      OptimizerPart("\(state.name).absmax/\(tensor)", .f32, UnsafeMutableRawBufferPointer(start: absmax, count: 4 * blocks)),
    ]
  }
}

/// Numbers that a step changes, where they lie.
package struct OptimizerPart {
  package let name: String
  package let dtype: DType
  package let bytes: UnsafeMutableRawBufferPointer

  init(_ name: String, _ dtype: DType, _ bytes: UnsafeMutableRawBufferPointer) {
    (self.name, self.dtype, self.bytes) = (name, dtype, bytes)
  }

  package var count: Int { bytes.count * 8 / dtype.bitWidth }
}
