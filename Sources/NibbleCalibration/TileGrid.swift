import NibbleQuant

/// Scales and offsets of blocks that are tiles of a matrix. Offsets are numbers of their own, so any is one a file can hold.
final class TileGrid: BlockGrid, @unchecked Sendable {
  let shape: BlockShape
  let zeros: UnsafeMutableBufferPointer<Float>?
  let areOffsets = true
  var scales: UnsafeMutableBufferPointer<Float> { blocks.scales }
  private let blocks: any BlockGrid

  /// Offsets of 0.
  init(_ blocks: any BlockGrid, _ shape: BlockShape) {
    (self.blocks, self.shape) = (blocks, shape)
    let offsets = UnsafeMutableBufferPointer<Float>.allocate(capacity: blocks.scales.count)
    offsets.initialize(repeating: 0)
    zeros = offsets
  }

  deinit { zeros?.deallocate() }

  func copy() -> any BlockGrid {
    let other = TileGrid(blocks.copy(), shape)
    if let zeros { _ = other.zeros?.update(fromContentsOf: zeros) }
    return other
  }

  func nearest(_ wanted: Float, block: Int) -> (code: UInt8, value: Float) { blocks.nearest(wanted, block: block) }
  func nearest(zero wanted: Float, block: Int) -> Float? { wanted }
  func set(_ block: Int, _ scale: (code: UInt8, value: Float)) { blocks.set(block, scale) }
  var sections: [[UInt8]] { blocks.sections + [zeros.map { Array(UnsafeRawBufferPointer($0)) } ?? []] }
}

extension TileBlocks: FeedbackCodec {
  var levels: [Float] { blocks.levels }
  var filler: UInt8 { blocks.filler }

  func searchedGrid(_ values: UnsafeMutablePointer<Float>, _ task: (ScaleSearch) -> EncodingTask) throws -> any BlockGrid {
    let task = task(.mseSigned)
    let sections = try searchedScales(values, task)
    return TileGrid(
      BlockScales(blocks, Array(sections.dropLast()), count: task.count), BlockShape(rows: rows, columns: columns))
  }

  func order(_ codes: UnsafeMutableBufferPointer<UInt8>, columns width: Int) {
    let own = Array(codes)
    forEachRun(codes.count, 0, width) { matrix, tiles, _ in
      for index in 0..<columns { codes[tiles + index] = own[matrix + index] }
    }
  }
}
