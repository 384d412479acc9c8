import NibbleCore
import NibbleQuant

/// Scales and zeros, or offsets, of int4 groups.
final class GroupGrid: BlockGrid, @unchecked Sendable {
  /// Elements of a group.
  let length: Int
  var shape: BlockShape { BlockShape(columns: length) }
  let scales: UnsafeMutableBufferPointer<Float>
  let zeros: UnsafeMutableBufferPointer<Float>?
  var areOffsets: Bool { codec.zero == .offset }
  private let codec: Int4Groups

  /// - Parameter sections: all of the tensor, codes first
  convenience init(_ codec: Int4Groups, _ sections: [[UInt8]], _ shape: [Int]) {
    let memory = Scratch()
    let values = codec.values(of: Array(sections.dropFirst()), memory)
    self.init(codec, length: codec.length(columns: shape.last ?? 0), count: codec.groups(shape))
    withExtendedLifetime(memory) {
      scales.baseAddress?.update(from: values.scales, count: scales.count)
      if let from = values.zeros { zeros?.baseAddress?.update(from: from, count: scales.count) }
    }
  }

  /// Scales of 0.
  init(_ codec: Int4Groups, length: Int, count: Int) {
    (self.codec, self.length) = (codec, length)
    func floats(_ value: Float) -> UnsafeMutableBufferPointer<Float> {
      let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: count)
      buffer.initialize(repeating: value)
      return buffer
    }
    (scales, zeros) = (floats(0), floats(codec.zero == .offset ? 0 : Int4Groups.middle))
  }

  deinit {
    scales.deallocate()
    zeros?.deallocate()
  }

  func copy() -> any BlockGrid {
    let other = GroupGrid(codec, length: length, count: scales.count)
    _ = other.scales.update(fromContentsOf: scales)
    if let zeros { _ = other.zeros?.update(fromContentsOf: zeros) }
    return other
  }

  func nearest(_ wanted: Float, block: Int) -> (code: UInt8, value: Float) { (0, codec.stored(scale: wanted)) }

  func nearest(zero wanted: Float, block: Int) -> Float? {
    codec.zero == .none || codec.zero == .int ? nil : codec.stored(zero: wanted)
  }

  func set(_ block: Int, _ scale: (code: UInt8, value: Float)) { scales[block] = scale.value }

  /// Gives a group the scale and zero of values from `low` to `high`.
  func set(_ block: Int, low: Float, high: Float) {
    let grid = codec.grid(low, high, roundsZero: true)
    scales[block] = grid.scale
    zeros?[block] = grid.zero
  }

  var sections: [[UInt8]] { codec.sections(scales: UnsafeBufferPointer(scales), zeros: zeros.map { UnsafeBufferPointer($0) }) }
}
