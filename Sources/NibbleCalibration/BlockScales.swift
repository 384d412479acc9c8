import NibbleCore
import NibbleQuant

/// The scales of a tensor's blocks, which may change, but only to what the file can hold: with double quantization to another 8-bit code,
/// while the codes' own scales and their offset stay.
final class BlockScales: BlockGrid, @unchecked Sendable {
  let scales: UnsafeMutableBufferPointer<Float>
  let zeros: UnsafeMutableBufferPointer<Float>? = nil
  var shape: BlockShape { BlockShape(columns: codec.blockSize) }
  private let codes: UnsafeMutableBufferPointer<UInt8>
  private let codec: BlockCodec
  /// The sections behind the codes as they were.
  private let original: [[UInt8]]
  private let map: [Float]
  private let nestedScales: [Float]
  private let offset: Float

  /// - Parameter sections: those behind the codes
  init(_ codec: BlockCodec, _ sections: [[UInt8]], count: Int) {
    (self.codec, original) = (codec, sections)
    scales = .allocate(capacity: codec.blocks(count))
    _ = scales.initialize(from: codec.restoredScales(sections, count: count))
    codes = .allocate(capacity: codec.nested == nil ? 0 : codec.blocks(count))
    func floats(_ bytes: [UInt8]) -> [Float] {
      bytes.withUnsafeBytes { raw in (0..<raw.count / 4).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) } }
    }
    guard let nested = codec.nested else {
      (map, nestedScales, offset) = ([], [], 0)
      return
    }
    _ = codes.initialize(from: sections[0])
    map = nested.codebook.values
    nestedScales = floats(sections[1])
    offset = floats(sections[2]).first ?? 0
  }

  private init(copying other: BlockScales) {
    (codec, original, map, nestedScales, offset) = (other.codec, other.original, other.map, other.nestedScales, other.offset)
    scales = .allocate(capacity: other.scales.count)
    _ = scales.initialize(from: other.scales)
    codes = .allocate(capacity: other.codes.count)
    _ = codes.initialize(from: other.codes)
  }

  deinit {
    scales.deallocate()
    codes.deallocate()
  }

  func copy() -> any BlockGrid { BlockScales(copying: self) }

  func nearest(_ wanted: Float, block: Int) -> (code: UInt8, value: Float) {
    guard let nested = codec.nested else { return (0, wanted) }
    let own = nestedScales[block / nested.blockSize]
    guard own > 0 else { return (codes[block], scales[block]) }
    let x = (wanted - offset) / own
    // The map ascends.
    var low = 0, high = map.count - 1
    while low < high {
      let middle = (low + high) / 2
      if map[middle] < x { low = middle + 1 } else { high = middle }
    }
    if low > 0, x - map[low - 1] < map[low] - x { low -= 1 }
    return (UInt8(low), map[low] * own + offset)
  }

  func set(_ block: Int, _ scale: (code: UInt8, value: Float)) {
    scales[block] = scale.value
    if codec.nested != nil { codes[block] = scale.code }
  }

  var sections: [[UInt8]] {
    if codec.nested != nil { return [Array(codes)] + original.dropFirst() }
    return [Array(UnsafeRawBufferPointer(scales))]
  }
}
