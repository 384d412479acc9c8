import NibbleCore

extension CodecKind {
  /// NF4 in blocks that are tiles of a matrix, with an offset a tile.
  public static let nf4Tiles = CodecKind(
    number: 6, name: "nf4-tiles", hasBlocks: true, hasTiles: true,
    make: { TileBlocks(rows: $0.tile.rows, columns: $0.tile.columns, nested: $0.doubleQuant ? .init() : nil) },
    read: { try TileBlocks.read(&$0) })
}

/// NF4 in blocks that are tiles of so many rows and columns of a matrix, with a float32 offset a tile: element = value of the code · scale +
/// offset.
///
/// Tiles follow one another along rows of tiles, the elements of a tile row by row. Rounding leaves offsets at 0; a change that is the same for
/// all elements of a tile, such as QA-HiRA's, is added to its offset without a code being touched.
public struct TileBlocks: WeightCodec {
  /// Of a tile.
  public private(set) var rows: Int
  public private(set) var columns: Int
  /// The codec of what is left when offsets are taken off, in the order of tiles.
  public private(set) var blocks: BlockCodec

  /// - Parameter nested: nil where scales stay float32
  public init(rows: Int = 8, columns: Int = 4, nested: BlockCodec.Nested? = .init()) {
    (self.rows, self.columns) = (rows, columns)
    blocks = BlockCodec(.nf4, blockSize: max(rows * columns, 1), nested: nested)
  }

  package var kind: CodecKind { .nf4Tiles }
  public var summary: String { blocks.summary + ", tiles of \(rows) x \(columns) with offsets" }
  package var description: [(key: String, value: JSON)] { blocks.description + [("tile", JSON("\(rows)x\(columns)"))] }
  package var codebooks: [Codebook] { blocks.codebooks }

  /// Reads `8x4`; nil for what names no tile that has a block size.
  public static func tile(_ text: String) -> (rows: Int, columns: Int)? {
    let parts = text.split(separator: "x", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
    guard parts.count == 2, parts.allSatisfy({ (1...4096).contains($0) }), BlockCodec.blockSizes.contains(parts[0] * parts[1]) else { return nil }
    return (parts[0], parts[1])
  }

  // MARK: On disk

  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    guard shape.count == 2, elementCount(of: shape) ?? 0 > 0 else { return "it is no matrix" }
    guard BlockCodec.blockSizes.contains(rows * columns) else { return "tiles of \(rows) x \(columns) have no block size" }
    return shape[0] % rows == 0 && shape[1] % columns == 0 ? nil : "its shape \(shape) is no multiple of tiles of \(rows) x \(columns)"
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    blocks.sections(dtype, shape) + [(.tileOffsets, 4 * blocks.blocks(elementCount(of: shape) ?? 0))]
  }

  package func writeParameters(_ parameters: inout CodecParameters) {
    blocks.writeParameters(&parameters)
    parameters.out.u32(rows)
    parameters.out.u32(columns)
  }

  fileprivate static func read(_ parameters: inout CodecParameters) throws -> TileBlocks? {
    guard let blocks = try BlockCodec.read(.nf4, &parameters) else { return nil }
    let (rows, columns) = (try parameters.input.u32(), try parameters.input.u32())
    guard 1...4096 ~= rows, 1...4096 ~= columns, rows * columns == blocks.blockSize else { return nil }
    var codec = TileBlocks(rows: rows, columns: columns)
    codec.blocks = blocks
    return codec
  }

  package func writeIdentity(_ out: inout ByteWriter) {
    blocks.writeIdentity(&out)
    out.u32(rows)
    out.u32(columns)
  }

  // MARK: At work

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { TileEncoder(self, task) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    TileDecoder(self, shape, sections, memory)
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    let count = elementCount(of: shape) ?? 0, strip = rows * (shape.last ?? 0)
    var memory = blocks.memory(work, shape, chunk: max(chunk, strip))
    memory.perTensor += 8 * blocks.blocks(count)
    memory.perThread += 4 * max(strip, min(count, 2 * chunk))
    return memory
  }

  package func movingRefusal(_ shape: [Int], length: Int, rows shared: Int) -> String? {
    length % columns == 0 && shared % rows == 0
      ? nil : "its tiles are of \(rows) x \(columns), the adapter's of \(shared) x \(length)"
  }

  package func movedLength(columns: Int) -> Int { self.columns }

  package func moved(_ sections: [[UInt8]], by shift: GroupShift) -> MovedGroups? {
    guard var offsets = sections.last.map(Self.floats), !offsets.isEmpty, shift.values.count == offsets.count * rows else { return nil }
    let across = shift.across
    var moved = [Float](repeating: 0, count: shift.values.count)
    for tile in offsets.indices {
      let (i, j) = (tile / across, tile % across), before = offsets[tile]
      offsets[tile] += shift.values[i * rows * across + j]
      for row in 0..<rows { moved[(i * rows + row) * across + j] = offsets[tile] - before }
    }
    return MovedGroups(sections: sections.dropLast() + [Self.bytes(offsets)], moved: moved)
  }

  static func floats(_ bytes: [UInt8]) -> [Float] {
    bytes.withUnsafeBytes { raw in
      (0..<raw.count / 4).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self))) }
    }
  }

  static func bytes(_ floats: [Float]) -> [UInt8] { floats.withUnsafeBytes { Array($0) } }

  /// Moves strips of rows between the order of the matrix and that of tiles, adding something to each tile on the way into tiles.
  ///
  /// - Parameters:
  ///   - first: the first strip
  ///   - width: columns of the matrix
  func toTiles(
    _ from: UnsafePointer<Float>, _ to: UnsafeMutablePointer<Float>, count: Int, first: Int, width: Int, subtracting offsets: [Float]
  ) {
    forEachRun(count, first, width) { matrix, tiles, tile in
      let offset = offsets.isEmpty ? 0 : offsets[tile]
      for index in 0..<columns { to[tiles + index] = from[matrix + index] - offset }
    }
  }

  func fromTiles(
    _ from: UnsafePointer<Float>, _ to: UnsafeMutablePointer<Float>, count: Int, first: Int, width: Int, adding offsets: [Float]
  ) {
    forEachRun(count, first, width) { matrix, tiles, tile in
      let offset = offsets.isEmpty ? 0 : offsets[tile]
      for index in 0..<columns { to[matrix + index] = from[tiles + index] + offset }
    }
  }

  /// Calls `body` with the places of every run of a tile's columns: in strips of the matrix and of tiles, and the tile's number.
  ///
  /// - Parameters:
  ///   - count: elements of the strips
  ///   - first: the first strip
  ///   - width: columns of the matrix
  package func forEachRun(_ count: Int, _ first: Int, _ width: Int, _ body: (_ matrix: Int, _ tiles: Int, _ tile: Int) -> Void) {
    let across = width / columns, strip = rows * width
    for s in 0..<count / max(strip, 1) {
      for row in 0..<rows {
        for j in 0..<across {
          body(s * strip + row * width + j * columns, s * strip + (j * rows + row) * columns, (first + s) * across + j)
        }
      }
    }
  }
}

/// Elements into codes of tiles. Offsets are those of a source in the same tiles, or 0.
final class TileEncoder: TensorEncoder, @unchecked Sendable {
  private let codec: TileBlocks
  private let task: EncodingTask
  private let base: BlockEncoder
  private let width: Int
  private let offsets: [Float]
  private static let offsetSlot = 9

  init(_ codec: TileBlocks, _ task: EncodingTask) {
    (self.codec, self.task) = (codec, task)
    width = task.shape.last ?? 1
    base = BlockEncoder(codec.blocks, task)
    let kept = (task.source as? TileDecoder).flatMap { $0.codec == codec ? $0.offsets : nil } ?? []
    offsets = kept.contains { $0 != 0 } ? kept : []
  }

  var grain: Int { codec.rows * width }
  var needsScan: Bool { base.needsScan }
  var settlesAtOnce: Bool { false }

  private func tiles(_ elements: Elements, _ scratch: Scratch) -> Elements {
    let wide = scratch.floatStart(CodecSlot.wide, elements.count), own = scratch.floatStart(CodecSlot.right, elements.count)
    Kernels.widen(elements.dtype, elements.x, count: elements.count, wide)
    codec.toTiles(wide, own, count: elements.count, first: elements.start / grain, width: width, subtracting: offsets)
    return Elements(UnsafeMutableRawPointer(own), .f32, start: elements.start, count: elements.count)
  }

  func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts { base.scan(tiles(elements, scratch), scratch) }
  func endScan(_ counts: EncodeCounts) throws { try base.endScan(counts) }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    base.encode(tiles(elements, scratch), restored: nil, scratch)
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    let own = offsets.isEmpty ? [Float](repeating: 0, count: codec.blocks.blocks(task.count)) : offsets
    let bytes = task.memory.bytes(Self.offsetSlot, 4 * own.count)
    bytes.copyBytes(from: TileBlocks.bytes(own))
    return try base.finish(&sums) + [UnsafeRawBufferPointer(bytes)]
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    let own = scratch.floatStart(CodecSlot.wide, count)
    codec.toTiles(values, own, count: count, first: start / grain, width: width, subtracting: offsets)
    base.restore(own, start, count, scratch)
    codec.fromTiles(own, values, count: count, first: start / grain, width: width, adding: offsets)
  }
}

/// The restored scales and offsets of a tensor.
final class TileDecoder: TensorDecoder, @unchecked Sendable {
  let codec: TileBlocks
  let offsets: [Float]
  private let blocks: BlockDecoder
  private let width: Int

  init(_ codec: TileBlocks, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) {
    self.codec = codec
    width = shape.last ?? 1
    blocks = BlockDecoder(codec.blocks, count: elementCount(of: shape) ?? 0, Array(sections.dropLast()), memory)
    offsets = sections.last.map(TileBlocks.floats) ?? []
  }

  var grain: Int { codec.rows * width }
  func codes(_ start: Int, _ count: Int) -> Range<Int> { blocks.codes(start, count) }

  /// Whole strips of tiles.
  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: 2 * grain) { buffer in
      guard let own = buffer.baseAddress else { return }
      let values = own + grain
      for done in stride(from: 0, to: count, by: grain) {
        let part = min(grain, count - done)
        blocks.decode(codes + done / 2, start + done, part, .f32, own)
        codec.fromTiles(own, values, count: part, first: (start + done) / grain, width: width, adding: offsets)
        Kernels.narrow(dtype, values, count: part, out + done * (dtype.bitWidth / 8))
      }
    }
  }
}
