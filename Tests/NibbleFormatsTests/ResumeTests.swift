import Foundation
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

/// Something a job writes.
struct Written: Sendable, CustomTestStringConvertible {
  let name: String
  let format: OutputFormat
  var compression = CompressionChoice.none

  var testDescription: String { "\(name) \(compression.isOn ? "compressed" : "")" }

  static let all = [
    Written(name: "o.nbl", format: .nbl), Written(name: "z.nbl", format: .nbl, compression: .zstd(3)),
    Written(name: "folder", format: .bnb), Written(name: "o.safetensors", format: .bnb),
  ]
}

@Suite("Interrupted work is taken up")
struct ResumeTests {
  let folder = TemporaryFolder()

  func job(_ written: Written, as name: String? = nil, from model: String = fixture("stories260K"), blockSize: Int = 64) throws
    -> StreamJob
  {
    var options = QuantizeOptions()
    options.blockSize = blockSize
    var output = try OutputSpec(path: folder.file(name ?? written.name), format: written.format, default: .nbl)
    output.compression = written.compression
    // Several shards, one of them with a single tensor.
    output.maximumShard = 60_000
    return try StreamJob.quantize(try Checkpoint.open(model), options, to: output)
  }

  /// Runs `job` until everything is written and nothing is visible.
  func interrupt(_ job: StreamJob) throws {
    var job = job
    job.resumes = true
    job.beforePublishing = { _ in throw NibbleError(.terminated, "terminated") }
    #expect { try job.run() } throws: { ($0 as? NibbleError)?.kind == .terminated && "\($0)".contains("resume goes on") }
  }

  func resume(_ job: StreamJob) throws -> StreamReport {
    var job = job
    job.resumes = true
    return try job.run()
  }

  /// All bytes of a file or folder.
  func content(_ name: String) throws -> [String: [UInt8]] {
    let path = folder.file(name)
    guard PathKind(path) == .folder else { return ["": try bytes(of: path)] }
    return try FileManager.default.contentsOfDirectory(atPath: path).reduce(into: [:]) {
      $0[$1] = try bytes(of: path + "/" + $1)
    }
  }

  /// Files of the unfinished output.
  func partial(_ name: String) throws -> [String] {
    let path = folder.file(".\(name).nibble-partial")
    guard PathKind(path) == .folder else { return [path] }
    return try FileManager.default.contentsOfDirectory(atPath: path).sorted().map { path + "/" + $0 }
  }

  func edit(_ path: String, _ change: (inout [UInt8]) -> Void) throws {
    var content = try bytes(of: path)
    change(&content)
    // In place: the file stays the same one.
    let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    try handle.truncate(atOffset: 0)
    handle.write(Data(content))
    try handle.close()
  }

  func numbers(_ report: StreamReport) -> String {
    var report = report
    report.seconds = 0
    report.resumed = .init()
    return "\(report)"
  }

  @Test("after any tensor: the same bytes and the same report", arguments: Written.all, [0, 1, 2, 20, 33, 46, 47])
  func anywhere(_ written: Written, _ tensors: Int) throws {
    let whole = try job(written).run()
    let expected = try content(written.name)
    try interrupt(try job(written, as: "again-" + written.name))
    try edit(folder.file(".again-\(written.name).nibble-journal")) { journal in
      // What stood behind these lines, and half of the next.
      let lines = journal.split(separator: 0x0A)
      #expect(lines.count == 48)
      journal = lines.prefix(1 + tensors).reduce([]) { $0 + $1 + [0x0A] }
      if tensors < 47 { journal += lines[1 + tensors].prefix(lines[1 + tensors].count / 2) }
    }
    let report = try resume(try job(written, as: "again-" + written.name))
    #expect(report.resumed.tensors == tensors)
    #expect(numbers(report) == numbers(whole))
    #expect(try content("again-" + written.name) == expected)
    #expect(folder.contents == [written.name, "again-" + written.name].sorted())
  }

  @Test("a journal by itself changes nothing, and nothing of it stays", arguments: Written.all)
  func uninterrupted(_ written: Written) throws {
    let whole = try job(written).run()
    let report = try resume(try job(written, as: "again-" + written.name))
    #expect(report.resumed == .init() && numbers(report) == numbers(whole))
    #expect(try content("again-" + written.name) == content(written.name))
    #expect(folder.contents == [written.name, "again-" + written.name].sorted())
  }

  @Test("damage to what is there is found, wherever it is", arguments: Written.all)
  func damage(_ written: Written) throws {
    let name = "again-" + written.name
    _ = try job(written).run()
    let expected = try content(written.name)
    var generator = Generator(7)
    var found = 0
    for _ in 0..<12 {
      try interrupt(try job(written, as: name))
      let files = try partial(name).filter { !$0.hasSuffix(".json") && !$0.hasSuffix(".model") }
      let file = files[Int.random(in: files.indices, using: &generator)]
      try edit(file) { $0[Int.random(in: $0.indices, using: &generator)] ^= 1 << UInt8(generator.next() % 8) }
      let report = try resume(try job(written, as: name))
      // Headers, tables and texts are written anew in any case.
      found += report.resumed.tensors < 47 ? 1 : 0
      #expect((report.resumed.tensors < 47) == report.warnings.contains { $0.message.contains("not as an earlier run left it") })
      #expect(try content(name) == expected)
      try FileManager.default.removeItem(atPath: folder.file(name))
    }
    #expect(found >= 3)
  }

  @Test("links put in its place are taken away and their tensors done again; a folder put there stops it and takes nothing away")
  func strangers() throws {
    let written = Written.all[2]
    _ = try job(written).run()
    try interrupt(try job(written, as: "again"))
    let staging = folder.file(".again.nibble-partial")
    let shard = try #require(try partial("again").first { $0.hasSuffix(".safetensors") })
    let outside = folder.file("outside")
    try FileManager.default.moveItem(atPath: shard, toPath: outside)
    let kept = try bytes(of: outside)
    symlink(outside, shard)
    mkfifo(staging + "/pipe", 0o600)
    mkdir(staging + "/stranger", 0o700)
    var files = try FileManager.default.contentsOfDirectory(atPath: staging).count
    for _ in 0..<2 {
      #expect { try resume(try job(written, as: "again")) } throws: {
        ($0 as? NibbleError)?.kind == .cannotWrite && "\($0)".contains("holds 'stranger', which cannot be removed")
      }
      let now = try FileManager.default.contentsOfDirectory(atPath: staging)
      #expect(now.contains("stranger") && now.count >= files - 2 && folder.contents.contains(".again.nibble-journal"))
      files = now.count
    }
    rmdir(staging + "/stranger")
    let report = try resume(try job(written, as: "again"))
    #expect(report.resumed.tensors < 47)
    #expect(try content("again") == content(written.name) && bytes(of: outside) == kept)
  }

  @Test("so is what was cut off or removed", arguments: Written.all)
  func missing(_ written: Written) throws {
    let name = "again-" + written.name
    _ = try job(written).run()
    for cut in [true, false] {
      try interrupt(try job(written, as: name))
      let largest = try #require(try partial(name).max { try bytes(of: $0).count < bytes(of: $1).count })
      if cut {
        try edit(largest) { $0.removeLast($0.count / 2) }
      } else {
        try FileManager.default.removeItem(atPath: largest)
      }
      let report = try resume(try job(written, as: name))
      #expect(
        report.resumed.tensors < 47
          && report.warnings.contains { $0.message.contains("going on from there") || $0.message.contains("anew") })
      #expect(try content(name) == content(written.name))
      try FileManager.default.removeItem(atPath: folder.file(name))
    }
  }

  @Test("a damaged journal is believed as far as it holds", arguments: 0..<24)
  func journal(_ seed: Int) throws {
    _ = try job(.all[0]).run()
    try interrupt(try job(.all[0], as: "again"))
    var generator = Generator(UInt64(seed + 1))
    var at = 0
    try edit(folder.file(".again.nibble-journal")) {
      let place = Int.random(in: $0.indices, using: &generator)
      at = $0[..<place].count { $0 == 0x0A }
      $0[place] ^= 1 << UInt8(generator.next() % 8)
    }
    let report = try resume(try job(.all[0], as: "again"))
    #expect(report.resumed.tensors == max(0, at - 1))
    #expect(report.warnings.contains { $0.message.contains("no journal that can be trusted") } == (at == 0))
    #expect(try content("again") == content("o.nbl"))
  }

  @Test(
    "what another job left is not touched but started anew, and that is said",
    arguments: ["options", "data", "time set back", "config", "format", "copy"])
  func otherJob(_ what: String) throws {
    let model = folder.file("model")
    try FileManager.default.copyItem(atPath: fixture("stories260K"), toPath: model)
    try interrupt(try job(.all[0], as: "again", from: model))
    var (written, blockSize) = (Written.all[0], 64)
    let weights = model + "/model.safetensors"
    switch what {
    case "options": blockSize = 128
    case "data": try edit(weights) { $0[$0.count - 5] ^= 1 }
    case "time set back":
      let time = try FileManager.default.attributesOfItem(atPath: weights)[.modificationDate]
      try edit(weights) { $0[$0.count - 5] ^= 1 }
      try FileManager.default.setAttributes([.modificationDate: time as Any], ofItemAtPath: weights)
    case "config": try edit(model + "/config.json") { $0.append(0x0A) }
    case "format": written.compression = .zstd(3)
    default:
      try FileManager.default.moveItem(atPath: model, toPath: folder.file("aside"))
      try FileManager.default.copyItem(atPath: folder.file("aside"), toPath: model)
    }
    let report = try resume(try job(written, as: "again", from: model, blockSize: blockSize))
    #expect(report.resumed == .init())
    #expect(report.warnings.contains { $0.message.contains("another input, other options") })
    _ = try job(written, as: "whole.nbl", from: model, blockSize: blockSize).run()
    #expect(try content("again") == content("whole.nbl"))
  }

  @Test("without being asked, a run removes what is there")
  func notAsked() throws {
    try interrupt(try job(.all[0]))
    #expect(folder.contents == [".o.nbl.nibble-journal", ".o.nbl.nibble-partial"])
    let report = try job(.all[0]).run()
    #expect(report.resumed == .init() && report.warnings.isEmpty)
    #expect(folder.contents == ["o.nbl"])
  }

  @Test("an error that would come again leaves nothing")
  func lasting() throws {
    try interrupt(try job(.all[0]))
    var job = try job(.all[0])
    job.resumes = true
    job.maximumError = 0.01
    #expect { try job.run() } throws: { ($0 as? NibbleError)?.kind == .quality }
    #expect(folder.contents.isEmpty)
  }
}
