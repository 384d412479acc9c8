import NibbleCore
import NibbleQuant

/// What the codes of a tensor's blocks stand for: σ · (level − z), or σ · level + m. σ, z and m may change, but only to what the file can hold.
protocol BlockGrid: AnyObject, Sendable {
  /// The elements of a block.
  var shape: BlockShape { get }
  /// σ of each block, as a reader restores it.
  var scales: UnsafeMutableBufferPointer<Float> { get }
  /// z or m of each block; nil where all are 0.
  var zeros: UnsafeMutableBufferPointer<Float>? { get }
  /// Whether these are m.
  var areOffsets: Bool { get }
  /// One that changes by itself.
  func copy() -> any BlockGrid
  /// The scale nearest to `wanted` that a block can have, and how it is stored.
  func nearest(_ wanted: Float, block: Int) -> (code: UInt8, value: Float)
  /// The zero nearest to `wanted` that a block can have; nil if zeros stay.
  func nearest(zero wanted: Float, block: Int) -> Float?
  /// Takes a scale that `nearest` gave.
  func set(_ block: Int, _ scale: (code: UInt8, value: Float))
  /// The sections behind the codes as they are now.
  var sections: [[UInt8]] { get }
}

extension BlockGrid {
  func nearest(zero wanted: Float, block: Int) -> Float? { nil }

  var areOffsets: Bool { false }

  /// How far level 0 of a block lies below zero: σ · z, or −m.
  func shift(_ block: Int) -> Float { zeros.map { areOffsets ? -$0[block] : scales[block] * $0[block] } ?? 0 }
}

/// Elements that share a scale: so many columns of so many rows. A block of one row is a run of the flattened tensor, and may cross rows.
struct BlockShape {
  var rows = 1
  var columns: Int

  /// The block of an element of a matrix with so many columns.
  func block(_ row: Int, _ column: Int, of width: Int) -> Int {
    rows == 1 ? (row * width + column) / columns : row / rows * (width / columns) + column / columns
  }
}

/// A codec whose codes can be chosen one at a time.
protocol FeedbackCodec: WeightCodec {
  /// The level of each of the 16 codes; none where there are other numbers of levels.
  var levels: [Float] { get }
  /// What fills the last byte of an odd number of codes.
  var filler: UInt8 { get }
  /// Scales for codes that are chosen later, of a tensor whose values are in memory.
  func searchedGrid(_ values: UnsafeMutablePointer<Float>, _ task: (ScaleSearch) -> EncodingTask) throws -> any BlockGrid
  /// Brings the codes of a matrix with so many columns, row by row, into the order in which files have them.
  func order(_ codes: UnsafeMutableBufferPointer<UInt8>, columns: Int)
  /// All sections of a tensor with these codes, a byte each, and the scales of its grid.
  func sections(_ codes: UnsafeMutableBufferPointer<UInt8>, _ grid: any BlockGrid) -> [[UInt8]]
}

extension FeedbackCodec {
  func order(_ codes: UnsafeMutableBufferPointer<UInt8>, columns: Int) {}

  /// Two codes a byte, the first in the high half, and what the grid has behind them.
  func sections(_ codes: UnsafeMutableBufferPointer<UInt8>, _ grid: any BlockGrid) -> [[UInt8]] {
    let count = codes.count
    let packed = [UInt8](unsafeUninitializedCapacity: ceilDivide(count, 2)) { buffer, length in
      for place in 0..<count / 2 { buffer[place] = codes[2 * place] << 4 | codes[2 * place + 1] }
      if count % 2 == 1 { buffer[count / 2] = codes[count - 1] << 4 | filler }
      length = ceilDivide(count, 2)
    }
    return [packed] + grid.sections
  }
}

extension WeightCodec {
  /// Itself, if its codes can be chosen one at a time.
  var withFeedback: (any FeedbackCodec)? { (self as? any FeedbackCodec).flatMap { $0.levels.isEmpty ? nil : $0 } }
}

extension BlockCodec: FeedbackCodec {
  var levels: [Float] { codebook.values }
  var filler: UInt8 { UInt8(codebook.values.firstIndex(of: 0) ?? 0) }

  func searchedGrid(_ values: UnsafeMutablePointer<Float>, _ task: (ScaleSearch) -> EncodingTask) throws -> any BlockGrid {
    let task = task(.mseSigned)
    return BlockScales(self, try searchedScales(values, task), count: task.count)
  }
}

extension Int4Groups: FeedbackCodec {
  var levels: [Float] { (0..<16).map(Float.init) }
  var filler: UInt8 { 0 }

  func searchedGrid(_ values: UnsafeMutablePointer<Float>, _ task: (ScaleSearch) -> EncodingTask) throws -> any BlockGrid {
    let task = task(.mse)
    return GroupGrid(self, try encoded(values, task).sections, task.shape)
  }
}
