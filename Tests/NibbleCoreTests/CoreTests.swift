import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Names, sizes and hashes")
struct NameTests {
  @Test("names that look alike stay apart")
  func byteNames() {
    #expect("\u{E9}" == "e\u{301}")
    #expect(ByteName("\u{E9}") != ByteName("e\u{301}"))
    #expect(Set([ByteName("\u{E9}"), ByteName("e\u{301}")]).count == 2)
    #expect(ByteName("layers.10") < ByteName("layers.2"))
  }

  @Test("an error is one line, whatever it quotes")
  func oneLiners() {
    let error = NibbleError.badInput("tensor 'a\nb\u{1B}[31m\u{202E}c\u{2028}'")
    #expect(!error.message.unicodeScalars.contains { $0.value < 32 || $0.value == 0x202E || $0.value == 0x2028 })
    #expect(error.message.contains(#"a\u{A}b\u{1B}"#))
    #expect(quoted(String(repeating: "x", count: 5000)).count < 300)
  }

  @Test("sizes that overflow have no size")
  func overflow() {
    #expect(elementCount(of: []) == 1)
    #expect(elementCount(of: [3, 0, 5]) == 0)
    #expect(elementCount(of: [1 << 40, 1 << 40]) == nil)
    #expect(elementCount(of: [-1]) == nil)
    // A zero does not hide an overflow, wherever it stands.
    #expect(elementCount(of: [0, 1 << 62, 1 << 62]) == nil)
    #expect(elementCount(of: [1 << 62, 1 << 62, 0]) == nil)
    #expect(DType.f64.byteCount(of: Int.max / 4) == nil)
    #expect(DType.f4.byteCount(of: 3) == nil)
    #expect(DType.f4.byteCount(of: 4) == 2)
    #expect(DType.f6e2m3.byteCount(of: 4) == 3)
  }

  @Test("XXH3 by pieces is XXH3 at once, both widths from one state", arguments: [0, 1, 16, 17, 240, 241, 1024, 100_003])
  func hashes(_ count: Int) {
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 5) }
    let hash = XXH3()
    hash.update(Array(bytes.prefix(count / 3)))
    #expect(hash.digest64 == XXH3.digest64(of: Array(bytes.prefix(count / 3))))
    hash.update(Array(bytes.dropFirst(count / 3)))
    #expect(hash.digest64 == XXH3.digest64(of: bytes))
    if count == 0 { #expect(hash.digest128.description == "99aa06d3014798d86001c324468d497f") }
    #expect(Digest128(hex: hash.digest128.description) == hash.digest128)
  }

  @Test("patterns answer in bounded time")
  func patterns() throws {
    #expect(try Pattern(#"mlp\.(up|down)"#).isFound(in: "a.mlp.down_proj.weight"))
    #expect(try !Pattern("^mlp").isFound(in: "a.mlp"))
    #expect(throws: NibbleError.self) { try Pattern("(") }
    let bomb = try Pattern("(a+)+$")
    let started = Date()
    #expect(throws: NibbleError.self) { try bomb.isFound(in: String(repeating: "a", count: 200) + "b") }
    #expect(Date().timeIntervalSince(started) < 2)
  }
}

@Suite("Outputs become visible whole or not at all")
struct StagedOutputTests {
  let folder = TemporaryFolder()

  @Test(
    "a file in windows, in any order",
    arguments: [0, 1, 5000, OutputFile.windowSize, 2 * OutputFile.windowSize + 77, 20 * OutputFile.windowSize + 1])
  func windows(_ size: Int) throws {
    let content = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 3) }
    let staged = try StagedOutput(folder.file("out"), .file, force: false)
    let file = try staged.file(expectedSize: size)
    let piece = 1_000_003
    for start in stride(from: 0, to: size, by: piece).reversed() {
      try file.write(Array(content[start..<min(start + piece, size)]), at: start)
    }
    #expect(PathKind(folder.file("out")) == .nothing)
    try file.finish(length: size)
    try staged.publish()
    #expect(folder.contents == ["out"])
    #expect(try bytes(of: folder.file("out")) == content)
  }

  @Test("a gap is no finished file")
  func gap() throws {
    let staged = try StagedOutput(folder.file("out"), .file, force: false)
    let file = try staged.file(expectedSize: 100)
    try file.write([1, 2, 3], at: 0)
    #expect(throws: NibbleError.self) { try file.finish(length: 4) }
    staged.discard()
    #expect(folder.contents.isEmpty)
  }

  @Test("two writers on one output: the second is refused")
  func lock() throws {
    let first = try StagedOutput(folder.file("out"), .file, force: false)
    #expect(throws: NibbleError.self) { try StagedOutput(folder.file("out"), .file, force: false) }
    #expect(throws: NibbleError.self) { try StagedOutput(folder.file("out"), .folder(owns: { _ in true }), force: false) }
    first.discard()
    _ = try StagedOutput(folder.file("out"), .file, force: false)
  }

  @Test("what a killed run left is taken over", arguments: [false, true])
  func stale(_ wasFolder: Bool) throws {
    if wasFolder {
      try folder.write(".out.nibble-partial/model.safetensors", "x")
    } else {
      try folder.write(".out.nibble-partial", "x")
    }
    for shape in [StagedOutput.Shape.file, .folder(owns: { _ in true })] {
      let staged = try StagedOutput(folder.file("out"), shape, force: true)
      let file = if case .file = shape { try staged.file(expectedSize: 1) } else { try staged.file("a", expectedSize: 1) }
      try file.write([7], at: 0)
      try file.finish(length: 1)
      staged.discard()
      #expect(folder.contents.isEmpty)
      try folder.write(".out.nibble-partial/model.safetensors", "x")
    }
  }

  @Test("an existing output stays without force, and strangers' files stay with it")
  func force() throws {
    try folder.write("out", "old")
    #expect(throws: NibbleError.self) { try StagedOutput(folder.file("out"), .file, force: false) }
    try folder.write("dir/mine", "old")
    try folder.write("dir/theirs", "old")
    let owns: @Sendable (String) -> Bool = { $0 == "mine" }
    #expect(throws: NibbleError.self) { try StagedOutput(folder.file("dir"), .folder(owns: owns), force: true) }
    #expect(throws: NibbleError.self) { try StagedOutput(folder.file("dir"), .file, force: true) }
    try FileManager.default.removeItem(atPath: folder.file("dir/theirs"))
    let staged = try StagedOutput(folder.file("dir"), .folder(owns: owns), force: true)
    let file = try staged.file("mine", expectedSize: 1)
    try file.write([7], at: 0)
    try file.finish(length: 1)
    #expect(try bytes(of: folder.file("dir/mine")) == Array("old".utf8))
    try staged.publish()
    #expect(try bytes(of: folder.file("dir/mine")) == [7])
    #expect(folder.contents == ["dir", "out"])
  }

  @Test("a missing folder is a place that cannot be written")
  func missingFolder() {
    let error = #expect(throws: NibbleError.self) { try StagedOutput(folder.file("no/out"), .file, force: false) }
    #expect(error?.kind == .cannotWrite)
  }
}

@Suite("Parallel loops")
struct ParallelTests {
  @Test("ordered parts come in order, the lowest error wins", arguments: [1, 2, 5])
  func order(_ threads: Int) throws {
    let seen = Seen()
    try forEachChunk(200, threads: threads, ScratchPool()) { index, _, turnstile in
      try turnstile.pass(index) { seen.list.append(index) }
    }
    #expect(seen.list == Array(0..<200))
    let error = #expect(throws: NibbleError.self) {
      try forEachChunk(200, threads: threads, ScratchPool()) { index, _, turnstile in
        if index == 50 { throw NibbleError(.failed, "50") }
        try turnstile.pass(index) {}
      }
    }
    #expect(error?.message == "50")
  }

  private final class Seen: @unchecked Sendable { var list: [Int] = [] }
}
