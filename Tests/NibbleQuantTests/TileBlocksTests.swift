import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Blocks that are tiles")
struct TileBlocksTests {
  let golden: TensorFile

  init() throws { golden = try TensorFile(fixture("quantized_methods.safetensors")) }

  private func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor("qa_hira/" + name), "\(name)")) }
  private func floats(_ bytes: [UInt8]) -> [Float] { bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) } }

  @Test("have the codes and scales of the paper's layout, and take a change of tiles into their offsets")
  func paper() throws {
    let codec = TileBlocks(rows: 8, columns: 4, nested: nil), shape = [32, 48]
    let made = try encoded(codec, floats("W"), encodingTask(shape))
    let packed = try golden.integers(#require(golden.tensor("qa_hira/packed_tiles"))).map { UInt8($0) }
    #expect(made.sections[0] == packed)
    #expect(try floats(made.sections[1]) == floats("absmax") && floats(made.sections[2]).allSatisfy { $0 == 0 })
    for (x, y) in zip(decoded(made, shape), try floats("W_dequant")) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y)) }
    // s / λ₁ · C, the same in 8 rows and 4 columns.
    let c = try floats("C")
    let shift = GroupShift((0..<32 * 12).map { 0.25 / 4 * c[$0 / 12 / 8 * 12 + $0 % 12] }, length: 4, across: 12)
    #expect(codec.movingRefusal(shape, length: 4, rows: 8) == nil && codec.movingRefusal(shape, length: 8, rows: 16) == nil)
    #expect(codec.movingRefusal(shape, length: 4, rows: 4) != nil && codec.movingRefusal(shape, length: 2, rows: 8) != nil)
    let moved = try #require(codec.moved(Array(made.sections.dropFirst()), by: shift))
    #expect(moved.sections[0] == made.sections[1])
    for (x, y) in zip(floats(moved.sections[1]), try floats("block_offset")) { #expect(abs(x - y) <= 1e-7 + 1e-5 * abs(y)) }
    let merged = DecidedCodes(codec, sections: [made.sections[0]] + moved.sections)
    for (x, y) in zip(decoded(merged, shape), try floats("W_merged")) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y)) }
  }

  @Test("encode the same in any chunks, on any threads; the error is that of what a reader sees", arguments: [BlockCodec.Nested(), nil] as [BlockCodec.Nested?])
  func chunks(_ nested: BlockCodec.Nested?) throws {
    var random = Generator(3)
    let shape = [64, 96], values = (0..<64 * 96).map { _ in random.normal() }
    for codec in [TileBlocks(rows: 8, columns: 4, nested: nested), TileBlocks(rows: 1, columns: 32, nested: nested), TileBlocks(rows: 32, columns: 2, nested: nested)] {
      let one = try encoded(codec, values, encodingTask(shape)), three = try encoded(codec, values, encodingTask(shape, threads: 3))
      #expect(one.sections == three.sections)
      #expect(relativeError(values, decoded(one, shape)) < 0.12)
    }
    // A tile of one row is a block of a row.
    let rows = try encoded(TileBlocks(rows: 1, columns: 32, nested: nested), values, encodingTask(shape))
    let blocks = try encoded(BlockCodec(.nf4, blockSize: 32, nested: nested), values, encodingTask(shape))
    #expect(Array(rows.sections.dropLast()) == blocks.sections)
  }

  @Test("parameters that make no sense are refused")
  func parameters() throws {
    let codec = TileBlocks()
    var good = CodecParameters(codebooks: codec.codebooks)
    codec.writeParameters(&good)
    let bytes = good.out.bytes
    func read(_ bytes: [UInt8]) -> (any WeightCodec)? {
      var parameters = CodecParameters(ByteReader(bytes, place: "test"), codebooks: codec.codebooks)
      guard let found = try? CodecKind.nf4Tiles.read(&parameters), parameters.input.isAtEnd else { return nil }
      return found
    }
    #expect(read(bytes) as? TileBlocks == codec && bytes.count == 24)
    // The block size, the rows and the columns of a tile.
    for (place, value) in [(0, 64), (0, 33), (16, 4), (16, 0), (19, 1), (20, 8), (23, 255)] {
      var bad = bytes
      bad[place] = UInt8(value)
      #expect(read(bad) == nil, "\(place) \(value)")
    }
    #expect(read(Array(bytes.dropLast())) == nil && read(bytes + [0]) == nil)
    #expect(TileBlocks.tile("8x4")?.rows == 8 && TileBlocks.tile("1x4096")?.columns == 4096)
    for text in ["8", "8x", "x4", "3x5", "8x4x1", "0x32", "-8x-4", "99999999999999999999x1", ""] { #expect(TileBlocks.tile(text) == nil, "\(text)") }
  }
}
