import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Scales of ggml's blocks")
struct GgmlGridTests {
  @Test(
    "a block that holds no numbers is written as it was found, and those beside it keep their scales",
    arguments: [GGMLType.q4_k, .iq4_xs], [Float.nan, .infinity, 7e7, 1e9])
  func hostile(_ type: GGMLType, _ bad: Float) throws {
    var random = Generator(5)
    var values: [Float] = (0..<512).map { _ in random.normal() * 0.02 }
    values[5] = bad
    let codec = GGMLBlocks(type), form = try #require(GgmlGrid.Form(type))
    let grid = try codec.searchedGrid(&values) { search in
      EncodingTask(
        .f32, [2, 256], place: "test", rules: .nearest, search: search, threads: 1, pool: ScratchPool(), measures: false, memory: Scratch())
    }
    for wanted in [Float(0.1), .nan, .infinity] {
      #expect(grid.nearest(wanted, block: 0).value.isFinite && grid.nearest(zero: wanted, block: 0)?.isFinite != false)
    }
    let codes = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: 512)
    codes.initialize(repeating: 3)
    defer { codes.deallocate() }
    let again = GgmlGrid(form, codec.sections(codes, grid)[0], type)
    let (found, expected) = (Array(again.scales), Array(grid.scales))
    #expect(found[8...].map(\.bitPattern) == expected[8...].map(\.bitPattern) && found[8...].allSatisfy(\.isFinite))
    #expect((0..<8).allSatisfy { found[$0].isFinite == expected[$0].isFinite })
  }
}
