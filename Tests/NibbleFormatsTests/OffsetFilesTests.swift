import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Files of blocks with offsets")
struct OffsetFilesTests {
  let bench = Bench()
  let stories = fixture("stories260K")

  @Test("are the same for any number of threads, and after compression")
  func sameBytes() throws {
    let report = try bench.quantize(stories, "a.nbl", threads: 1) { $0.offsets = OffsetSearch() }
    #expect(report.packed.count == 35 && report.packed.allSatisfy { $0.encoding.name == "nf4-offsets" })
    try bench.quantize(stories, "b.nbl", threads: 3) { $0.offsets = OffsetSearch() }
    #expect(try bench.bytes("a.nbl") == bench.bytes("b.nbl"))
    try bench.quantize(stories, "z.nbl", compression: .zstd(3)) { $0.offsets = OffsetSearch() }
    try bench.convert(bench.folder.file("z.nbl"), "c.nbl", .nbl)
    #expect(try bench.bytes("a.nbl") == bench.bytes("c.nbl"))
    let opened = try Checkpoint.open(bench.folder.file("a.nbl"))
    let verified = try opened.verify()
    #expect(verified.identity == report.identity && verified.nonfinite.isEmpty)
    // Another search is another identity, because its codes are others.
    var error = OffsetSearch()
    error.score = .error
    let other = try bench.quantize(stories, "e.nbl") { $0.offsets = error }
    #expect(other.identity != report.identity)
    #expect(zip(other.packed, report.packed).allSatisfy { ($0.relativeError ?? 1) < ($1.relativeError ?? 0) })
    #expect(try Checkpoint.open(bench.folder.file("e.nbl")).provenance?["options"]?["encoder"]?.string == "icq:error")
  }

  @Test("have no place in bitsandbytes' layout or compressed-tensors'", arguments: [OutputFormat.bnb, .compressedTensors])
  func refused(_ format: OutputFormat) throws {
    try bench.quantize(stories, "a.nbl") { $0.offsets = OffsetSearch() }
    for make in [
      { try bench.convert(bench.folder.file("a.nbl"), "out", format) },
      { try bench.quantize(stories, "out", format) { $0.offsets = OffsetSearch() } },
    ] {
      let error = #expect(throws: NibbleError.self) { try make() }
      #expect(error?.kind == .usage && error?.message.contains("nf4-offsets") == true, "\(error?.message ?? "")")
    }
    #expect(bench.folder.contents == ["a.nbl"])
  }

  @Test("are only made of nf4")
  func onlyNF4() throws {
    let error = #expect(throws: NibbleError.self) {
      try bench.quantize(stories, "a.nbl") { ($0.codec, $0.offsets) = (.packed(.fp4), OffsetSearch()) }
    }
    #expect(error?.kind == .usage && error?.message.contains("blocks of nf4") == true)
    let report = try bench.quantize(stories, "b.nbl") {
      ($0.rules, $0.offsets) = ([try PackingRule("q_proj=fp4"), try PackingRule("v_proj=int4")], OffsetSearch())
    }
    let names = Set(report.packed.map(\.encoding.name))
    #expect(names == ["fp4", "int4", "nf4-offsets"])
  }

  @Test("keep a damaged offset from being read", arguments: [SectionKind.offsetCodes, .offsetScales])
  func damage(_ kind: SectionKind) throws {
    try bench.quantize(stories, "a.nbl") { $0.offsets = OffsetSearch() }
    let opened = try Checkpoint.open(bench.folder.file("a.nbl"))
    let section = try #require(opened.packed.first?.section(kind))
    guard case .file(_, let offset) = section.source else { return #expect(Bool(false)) }
    var bytes = try bench.bytes("a.nbl")
    bytes[offset] ^= 1
    try bench.folder.write("bad.nbl", bytes)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(bench.folder.file("bad.nbl")).verify() }
    #expect(error?.kind == .integrity)
  }
}
