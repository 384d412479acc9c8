import Foundation
import NibbleCore
import TestSupport
import Testing

/// The library that makes system calls fail, compiled once.
enum Faults {
  static let library: String? = {
    let folder = NSTemporaryDirectory() + "nibble-faults-\(getpid())"
    try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("faults.c").path
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["clang", "-shared", "-fPIC", "-O1", "-o", folder + "/faults.so", source, "-ldl"]
    try? process.run()
    process.waitUntilExit()
    return process.terminationStatus == 0 ? folder + "/faults.so" : nil
  }()

  static func run(_ fault: String, _ arguments: [String]) throws -> Program.Result {
    let library = try #require(library, "clang could not compile faults.c")
    return try Program.run(
      arguments, environment: ["LD_PRELOAD": library, "NIBBLE_FAULT": fault, "SWIFT_BACKTRACE": "enable=no"])
  }
}

@Suite("Disks fill, signals come, editors write")
struct FaultTests {
  let folder = TemporaryFolder()

  private static let merge = ["merge", "--base", stories, "--adapter", fixture("shakespeare/adapter")]
  static let writes: [(name: String, arguments: [String])] =
    [
      ("o.nbl", ["quantize", stories]), ("folder", ["quantize", stories, "--format", "bnb"]),
      ("z.nbl", ["quantize", stories, "--compress", "zstd"]), ("plain", ["dequantize", stories]),
      ("merged", merge), ("merged.nbl", merge + ["--min-survival", "0.97", "--when-lost", "promote"]),
      ("kept", merge + ["--format", "nbl", "--min-survival", "0.999", "--when-lost", "keep"]),
      ("trained.nbl", merge + ["--trained-on", "nf4", "--min-survival", "0"]),
    ] + adapters
  /// What reads four times at most, and writes nothing that `verify` looks at.
  static let adapters: [(name: String, arguments: [String])] = [
    ("combined", ["adapter", "combine", fixture("shakespeare/adapter") + ":0.5"]),
    ("resized", ["adapter", "resize", fixture("shakespeare/adapter"), "--rank", "3"]),
    (
      "extracted",
      ["adapter", "extract", "--base", fixture("models/llama"), "--tuned", fixture("models/llama-bnb-nf4-dq"), "--rank", "3"]
    ), ("mlx", ["adapter", "convert", fixture("shakespeare/adapter"), "--to", "mlx"]),
    ("a.gguf", ["adapter", "convert", fixture("shakespeare/adapter"), "--base", stories]),
  ]

  @Test(
    "reads that fail are bad input, writes that fail are 7",
    arguments: [
      ("read-eio:4", 3), ("read-end:4", 3), ("write-enospc", 7), ("write-eio", 7), ("fsync-eio", 7), ("rename-eio", 7),
    ] as [(String, Int32)], 0..<13)
  func failures(_ fault: (String, Int32), _ write: Int) throws {
    let (name, arguments) = Self.writes[write]
    let fault = Self.adapters.contains { $0.name == name } ? (fault.0.replacingOccurrences(of: ":4", with: ":1"), fault.1) : fault
    let result = try Faults.run(fault.0, arguments + ["-o", folder.file(name)])
    #expect(result.code == fault.1, "\(fault.0) \(name): \(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents.isEmpty)
  }

  @Test(
    "short reads and writes and interrupted calls change nothing",
    arguments: ["read-short", "read-eintr", "write-short", "write-eintr"], [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  func partial(_ fault: String, _ write: Int) throws {
    let (name, arguments) = Self.writes[write]
    let result = try Faults.run(fault, arguments + ["-o", folder.file(name)])
    #expect(result.code == 0, "\(result.errors)")
    #expect(try Program.run(arguments + ["-o", folder.file("good-" + name)]).code == 0)
    // A model card tells the command it was made with.
    let inside = (try? FileManager.default.contentsOfDirectory(atPath: folder.file(name))) ?? []
    let files = inside.isEmpty ? [""] : inside.filter { $0 != "README.md" }.map { "/" + $0 }
    for file in files { #expect(try bytes(of: folder.file(name + file)) == bytes(of: folder.file("good-" + name + file))) }
  }

  @Test(
    "killed at any point: nothing under the final name, and the next run cleans up",
    arguments: ["write-kill:0", "write-kill:1", "write-kill:3", "fsync-kill:0", "fsync-kill:2", "rename-kill"],
    [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  func killed(_ fault: String, _ write: Int) throws {
    let (name, arguments) = Self.writes[write]
    let result = try Faults.run(fault, arguments + ["-o", folder.file(name)])
    // A fault may lie behind the last such call of a small job.
    guard result.signal != nil else { return }
    #expect(!folder.contents.contains(name) || fault.hasPrefix("fsync-kill"))
    let again = try Program.run(arguments + ["-o", folder.file(name), "--force"])
    #expect(again.code == 0, "\(again.errors)")
    #expect(folder.contents == [name])
    guard !Self.adapters.contains(where: { $0.name == name }) else { return }
    #expect(try Program.run(["verify", folder.file(name == "kept" ? "kept/model.nbl" : name)]).code == 0)
  }

  /// A model that takes a while: 64 MB of float32.
  func largeModel() throws -> String {
    let rows = 4096
    let data = [UInt8](unsafeUninitializedCapacity: rows * 4096 * 4) { buffer, count in
      for index in buffer.indices { buffer[index] = UInt8(truncatingIfNeeded: index &* 31 >> 4) & 0x3F }
      count = buffer.count
    }
    var builder = SafetensorsBuilder()
    builder.add("w.weight", "F32", [rows, 4096], data)
    return try folder.write("large.safetensors", builder.bytes)
  }

  @Test(
    "large files, which are written past the page cache",
    arguments: ["write-short", "write-eintr", "write-indirect", "write-enospc:5", "write-kill:5"])
  func large(_ fault: String) throws {
    let model = try largeModel()
    let arguments = ["convert", model, "-o", folder.file("o.nbl"), "-q"]
    let result = try Faults.run(fault, arguments)
    switch fault {
    case "write-enospc:5":
      #expect(result.code == 7)
      #expect(folder.contents == ["large.safetensors"])
      return
    case "write-kill:5":
      #expect(result.signal == SIGKILL)
      #expect(!folder.contents.contains("o.nbl"))
      #expect(try Program.run(arguments).code == 0)
    default: #expect(result.code == 0, "\(result.errors)")
    }
    #expect(folder.contents == ["large.safetensors", "o.nbl"])
    #expect(try Program.run(["verify", folder.file("o.nbl")]).code == 0)
    #expect(try JSON.parse(Program.run(["diff", model, folder.file("o.nbl"), "--json"]).output)["unchanged"]?.int == 1)
  }

  /// Quantizes with reads slow enough that `meanwhile` hits it in the middle.
  func quantizeSlowly(_ model: String, meanwhile: (Process) -> Void) throws -> Program.Result {
    let library = try #require(Faults.library)
    return try Program.run(
      ["quantize", model, "-o", folder.file("o.nbl"), "-j", "1"],
      environment: ["LD_PRELOAD": library, "NIBBLE_FAULT": "read-slow", "NIBBLE_KERNELS": "portable"]
    ) { process in
      while !folder.contents.contains(".o.nbl.nibble-partial"), process.isRunning { usleep(500) }
      usleep(20_000)
      meanwhile(process)
    }
  }

  @Test(
    "Ctrl-C and SIGTERM stop within a second and leave nothing",
    arguments: [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 143)] as [(Int32, Int32)])
  func signals(_ signal: (Int32, Int32)) throws {
    let model = try largeModel()
    var stopped = Date()
    let result = try quantizeSlowly(model) { process in
      stopped = Date()
      kill(process.processIdentifier, signal.0)
    }
    #expect(Date().timeIntervalSince(stopped) < 1)
    #expect(result.code == signal.1, "\(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents == ["large.safetensors"])
  }

  @Test("an input that changes while it is read is refused", arguments: ["append", "cut", "touch"])
  func changes(_ how: String) throws {
    let model = try largeModel()
    let result = try quantizeSlowly(model) { process in
      guard let handle = FileHandle(forUpdatingAtPath: model) else { return }
      switch how {
      case "append": _ = try? handle.seekToEnd(); handle.write(Data([0]))
      case "cut": try? handle.truncate(atOffset: 40_000_000)
      default: try? handle.seek(toOffset: 30_000_000); handle.write(Data([1, 2, 3]))
      }
      try? handle.close()
    }
    #expect(result.code == 3, "\(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents == ["large.safetensors"])
  }

  @Test("a second writer on the same output is refused")
  func secondWriter() throws {
    let model = try largeModel()
    var second: Program.Result?
    let first = try quantizeSlowly(model) { _ in
      second = try? Program.run(["quantize", stories, "-o", folder.file("o.nbl")])
    }
    #expect(first.code == 0, "\(first.errors)")
    #expect(second?.code == 2)
    #expect(second?.errors.contains("another process") == true)
    #expect(try Program.run(["verify", folder.file("o.nbl")]).code == 0)
  }
}
