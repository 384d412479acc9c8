import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Patches between block files")
struct PatchTests {
  let bench = Bench()
  /// Bytes that are combined at once.
  static let span = 262144

  /// A block file of one tensor of bytes.
  func file(_ name: String, _ bytes: [UInt8], more: [String] = []) throws -> String {
    var builder = SafetensorsBuilder()
    builder.add("bytes", "U8", [bytes.count], bytes)
    for name in more { builder.add(random: name, [3, 40]) }
    try bench.folder.write(name + ".safetensors", builder.bytes)
    try bench.quantize(bench.folder.file(name + ".safetensors"), name + ".nbl")
    return bench.folder.file(name + ".nbl")
  }

  func patch(_ a: String, _ b: String, _ name: String = "p.patch") throws -> PatchReport {
    var job = try PatchJob(from: Checkpoint.open(a), to: Checkpoint.open(b), output: bench.folder.file(name))
    job.force = true
    return try job.run()
  }

  func swap(_ file: String, _ name: String = "p.patch", to output: String = "out.nbl") throws {
    var job = try SwapJob(file, PatchFile(bench.folder.file(name)), output: bench.folder.file(output))
    job.force = true
    _ = try job.run()
  }

  /// What differs: nothing, a byte, runs longer than a gap counts, whole spans, ends.
  static let differences: [(name: String, from: [UInt8], to: [UInt8])] = {
    var generator = Generator(3)
    let base = (0..<3 * span + 1000).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    func changed(_ places: some Sequence<Int>) -> [UInt8] {
      places.reduce(into: base) { $0[$1] ^= UInt8(1 + $1 % 255) }
    }
    return [
      ("nothing", base, base), ("one byte", base, changed([2 * span + 7])),
      ("the first and the last", base, changed([0, base.count - 1])),
      ("far apart", base, changed([255, 511, 1021, 2000, span - 1, span, span + 256])),
      ("every third", base, changed(stride(from: 1, to: base.count, by: 3))),
      ("half of one span", base, changed(0..<span / 2)), ("half and one", base, changed(span..<span + span / 2 + 1)),
      ("everything", base, base.map { ~$0 }), ("longer", Array(base.prefix(span + 3)), base),
      ("shorter", base, Array(base.prefix(5))),
      ("from nothing", [], base),
    ]
  }()

  @Test("each way of differing is led both ways", arguments: 0..<11)
  func ways(_ index: Int) throws {
    let (_, from, to) = Self.differences[index]
    let (a, b) = (try file("a", from), try file("b", to))
    let report = try patch(a, b)
    try swap(a)
    #expect(try bench.bytes("out.nbl") == bench.bytes("b.nbl"))
    try swap(b)
    #expect(try bench.bytes("out.nbl") == bench.bytes("a.nbl"))
    #expect(report.isEmpty == (from == to))
    #expect(try PatchFile(bench.folder.file("p.patch")).report.bytes == report.bytes)
  }

  @Test("the test vector", arguments: [("first", "second"), ("second", "first")])
  func vector(_ name: String, _ other: String) throws {
    let vectors = fixture("../../formats/patch/vectors") + "/"
    _ = try SwapJob(vectors + name + ".nbl", PatchFile(vectors + "task.patch"), output: bench.folder.file("out.nbl")).run()
    #expect(try bench.bytes("out.nbl") == TestSupport.bytes(of: vectors + other + ".nbl"))
  }

  @Test("what differs in few bytes takes few: a listed byte costs less than three")
  func sizes() throws {
    let base = Self.differences[0].from
    var generator = Generator(9)
    var other = base
    for _ in 0..<base.count / 50 { other[Int(generator.next() % UInt64(base.count))] ^= 0x10 }
    let report = try patch(try file("a", base), try file("b", other))
    #expect(report.changes.map(\.name) == ["bytes"])
    #expect(report.bytes - report.headBytes < 3 * base.count / 50)
  }

  @Test("tensors that only one file has, and others codecs")
  func layouts() throws {
    let bytes = Array(Self.differences[0].from.prefix(9))
    let a = try file("a", bytes, more: ["m.weight", "n.weight"]), b = try file("b", bytes, more: ["m.weight", "z.weight"])
    try bench.quantize(bench.folder.file("b.safetensors"), "c.nbl") { $0.codec = .int8 }
    for other in [b, bench.folder.file("c.nbl")] {
      let report = try patch(a, other)
      #expect(report.changes.contains { $0.name == "n.weight" && $0.second == 0 })
      #expect(report.changes.contains { $0.name == "z.weight" && $0.first == 0 })
      try swap(a)
      #expect(try bench.bytes("out.nbl") == TestSupport.bytes(of: other))
      try swap(other)
      #expect(try bench.bytes("out.nbl") == bench.bytes("a.nbl"))
    }
  }

  /// A small patch that holds listed spans, and what it is for.
  func small() throws -> [UInt8] {
    let bytes = Array(Self.differences[0].from.prefix(600))
    var other = bytes
    for at in stride(from: 0, to: 600, by: 7) { other[at] ^= 3 }
    _ = try patch(try file("a", bytes, more: ["m.weight"]), try file("b", other, more: ["n.weight"]))
    return try bench.bytes("p.patch")
  }

  @Test("any flipped bit is noticed, and what there was stays")
  func flips() throws {
    let good = try small()
    let before = try bench.bytes("a.nbl")
    var generator = Generator(1)
    for at in stride(from: 0, to: good.count, by: 3) {
      var bad = good
      bad[at] ^= 1 << UInt8(generator.next() % 8)
      try bench.folder.write("p.patch", bad)
      let error = #expect(throws: NibbleError.self, "byte \(at)") {
        _ = try SwapJob(bench.folder.file("a.nbl"), PatchFile(bench.folder.file("p.patch")), output: nil).run()
      }
      #expect(error?.kind == .integrity || error?.kind == .badInput, "byte \(at): \(error?.message ?? "")")
      #expect(throws: NibbleError.self, "byte \(at)") { try PatchFile(bench.folder.file("p.patch")).verify() }
    }
    try bench.folder.write("p.patch", good)
    try PatchFile(bench.folder.file("p.patch")).verify()
    #expect(try bench.bytes("a.nbl") == before)
  }

  @Test("any cut, anything appended")
  func cuts() throws {
    let good = try small()
    for length in stride(from: 0, to: good.count, by: 5) {
      let path = try bench.folder.write("p.patch", Array(good.prefix(length)))
      #expect(throws: NibbleError.self) { try PatchFile(path) }
    }
    let path = try bench.folder.write("p.patch", good + [0])
    #expect(throws: NibbleError.self) { try PatchFile(path) }
  }

  /// Fields of the last span in the index, by what they are.
  enum Field: Int, CaseIterable { case part, number, listed, gaps, storedGaps, storedValues }

  @Test("an index that makes no sense, its checksum in order", arguments: Field.allCases, [0, 1, 5, 262145, UInt32.max])
  func index(_ field: Field, _ value: UInt32) throws {
    var bad = try small()
    let at = bad.count - 32 + 4 * field.rawValue
    guard Array(bad[at..<at + 4]) != littleEndian(value) else { return }
    bad.replaceSubrange(at..<at + 4, with: littleEndian(value))
    try bench.folder.write("p.patch", signed(bad))
    let error = #expect(throws: NibbleError.self) { try swap(bench.folder.file("a.nbl")) }
    #expect(error?.kind == .integrity || error?.kind == .badInput, "\(error?.message ?? "")")
    #expect(bench.folder.contents.contains("out.nbl") == false)
  }

  @Test("spans out of order, or twice")
  func order() throws {
    let good = try small()
    let last = Array(good.suffix(32)), before = Array(good.suffix(64).prefix(32))
    for index in [last + before, last + last] {
      let path = try bench.folder.write("p.patch", signed(Array(good.dropLast(64)) + index))
      #expect { try PatchFile(path) } throws: { ($0 as? NibbleError)?.message.contains("out of order") == true }
    }
  }

  @Test(
    "a header that makes no sense, its checksum in order",
    arguments: [
      (8, 2), (12, 1), (16, 1), (32, 1), (40, UInt64.max), (40, 1 << 62), (48, 0), (56, UInt64.max), (56, 1 << 60), (56, 0),
    ]
      as [(Int, UInt64)])
  func header(_ field: (Int, UInt64)) throws {
    var bad = try small()
    let width = field.0 < 16 ? 4 : 8
    bad.replaceSubrange(field.0..<field.0 + width, with: littleEndian(field.1).prefix(width))
    let path = try bench.folder.write("p.patch", signed(bad))
    let error = #expect(throws: NibbleError.self) { try PatchFile(path) }
    #expect(error?.kind == .integrity || error?.kind == .badInput)
  }

  @Test("a patch that makes a file no one can open is refused, its checksums in order")
  func unreadable() throws {
    var bad = try small()
    let number = { (at: Int) in (0..<8).reduce(0) { $0 | Int(bad[at + $1]) << (8 * $1) } }
    let head = 80 + number(40), table = head + 64..<head + number(48)
    let place = try #require(bad[table].firstRange(of: Array(#""verb""#.utf8))).lowerBound
    bad[place] = 1
    bad.replaceSubrange(head + 48..<head + 56, with: littleEndian(XXH3.digest64(of: Array(bad[table]))))
    bad.replaceSubrange(head + 56..<head + 64, with: littleEndian(XXH3.digest64(of: Array(bad[head..<head + 56]))))
    try bench.folder.write("p.patch", signed(bad))
    let error = #expect(throws: NibbleError.self) { try swap(bench.folder.file("a.nbl")) }
    #expect(error?.kind == .badInput && error?.message.contains("p.patch") == true, "\(error?.message ?? "")")
    #expect(!bench.folder.contents.contains("out.nbl"))
  }

  @Test("features that need not be known are passed over")
  func optional() throws {
    var patch = try small()
    patch[24] = 1
    try bench.folder.write("p.patch", signed(patch))
    try swap(bench.folder.file("a.nbl"))
    #expect(try bench.bytes("out.nbl") == bench.bytes("b.nbl"))
  }

  /// `patch` with its two checksums made to hold.
  func signed(_ patch: [UInt8]) -> [UInt8] {
    func number(_ at: Int) -> Int {
      Int(truncatingIfNeeded: (0..<8).reduce(UInt64(0)) { $0 | UInt64(patch[at + $1]) << (8 * UInt64($1)) })
    }
    var out = patch
    let heads = 80..<80 + max(0, min(number(40) &+ number(48), patch.count - 80))
    let index = patch.suffix(max(0, min(number(56) &* 32, patch.count - 80)))
    out.replaceSubrange(64..<72, with: littleEndian(XXH3.digest64(of: Array(patch[heads]) + Array(index))))
    out.replaceSubrange(72..<80, with: littleEndian(XXH3.digest64(of: Array(out[..<72]))))
    return out
  }
}
