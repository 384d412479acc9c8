import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Verbs that were killed go on")
struct ResumeCommandTests {
  let folder = TemporaryFolder()

  static let merge = ["merge", "--base", stories, "--adapter", fixture("shakespeare/adapter")]
  static let writes: [(name: String, arguments: [String])] = [
    ("o.nbl", ["quantize", stories]), ("folder", ["quantize", stories, "--format", "bnb", "--max-shard-size", "90kB"]),
    ("z.nbl", ["quantize", stories, "--compress", "zstd"]), ("merged", merge + ["--max-shard-size", "200kB"]),
    ("merged.nbl", merge + ["--min-survival", "0.97", "--when-lost", "promote"]),
    ("trained.nbl", merge + ["--trained-on", "nf4", "--min-survival", "0"]), ("plain", ["dequantize", stories]),
  ]

  /// The summary, but for what a machine takes for it.
  func summary(_ result: Program.Result) throws -> JSON {
    var json = try JSON.parse(result.output)
    let own = ["seconds", "cpu_seconds", "gigabytes_per_second", "peak_memory", "resumed_tensors", "resumed_bytes"]
    for key in own { json = json.removing(key) }
    return json
  }

  /// What `arguments` write and say if nothing comes between, under the same name.
  func whole(_ name: String, _ arguments: [String]) throws -> (files: [String: [UInt8]], summary: JSON) {
    let result = try Program.run(arguments + ["-o", folder.file(name), "--json"])
    #expect(result.code == 0, "\(result.errors)")
    let files = try content(name)
    try FileManager.default.removeItem(atPath: folder.file(name))
    return (files, try summary(result))
  }

  func content(_ name: String) throws -> [String: [UInt8]] {
    let path = folder.file(name)
    guard PathKind(path) == .folder else { return ["": try bytes(of: path)] }
    return try FileManager.default.contentsOfDirectory(atPath: path).reduce(into: [:]) {
      $0[$1] = try bytes(of: path + "/" + $1)
    }
  }

  @Test("killed three times at random points: the same bytes, the same summary", arguments: 0..<7, 0..<3)
  func killed(_ write: Int, _ round: Int) throws {
    let (name, arguments) = Self.writes[write]
    let (files, summary) = try whole(name, arguments)
    let seed = UInt64.random(in: 1...UInt64.max)
    var generator = Generator(seed)
    // The packed form for `--trained-on` is made before all else. Later calls might be those that publish the output.
    let first = name == "trained.nbl" ? 2 : 0
    for _ in 0..<3 {
      let fault = Bool.random(using: &generator) ? "write-kill" : "fsync-kill"
      let calls = first + Int.random(in: 0..<3, using: &generator)
      let result = try Faults.run("\(fault):\(calls)", arguments + ["-o", folder.file(name), "--json", "--resume"])
      #expect(result.signal == SIGKILL, "seed \(seed), \(fault):\(calls): \(result.code) \(result.errors)")
      #expect(!folder.contents.contains(name))
    }
    let last = try Program.run(arguments + ["-o", folder.file(name), "--json", "--resume"])
    #expect(last.code == 0, "seed \(seed): \(last.errors)")
    #expect(try content(name) == files, "seed \(seed)")
    #expect(try self.summary(last) == summary, "seed \(seed)")
    #expect(folder.contents == [name])
  }

  @Test("killed at each write in turn, it comes to an end", arguments: [(0, 5), (1, 9), (3, 16)])
  func progress(_ write: Int, _ calls: Int) throws {
    let (name, arguments) = Self.writes[write]
    let (files, _) = try whole(name, arguments)
    var runs = 0
    // No run lives long enough for all of it. Taking up what is there takes a write a shard.
    while runs < 100 {
      runs += 1
      let result = try Faults.run("write-kill:\(calls)", arguments + ["-o", folder.file(name), "--json", "--resume"])
      if result.signal == nil {
        #expect(result.code == 0, "\(result.errors)")
        break
      }
    }
    #expect(runs > 1)
    #expect(try content(name) == files)
  }

  @Test(
    "SIGTERM and a full disk keep what is done, and say so",
    arguments: [("write-term:9", 143), ("write-enospc:9", 7)] as [(String, Int32)], [0, 1, 3])
  func kept(_ fault: (String, Int32), _ write: Int) throws {
    let (name, arguments) = Self.writes[write]
    let (files, summary) = try whole(name, arguments)
    let result = try Faults.run(fault.0, arguments + ["-o", folder.file(name), "--resume", "--json"])
    #expect(result.code == fault.1 && result.errorLines.count == 1, "\(result.errors)")
    #expect(result.errors.contains("--resume"))
    #expect(folder.contents == [".\(name).nibble-journal", ".\(name).nibble-partial"])
    let last = try Program.run(arguments + ["-o", folder.file(name), "--json", "--resume"])
    #expect(last.code == 0, "\(last.errors)")
    #expect(try JSON.parse(last.output)["resumed_tensors"]?.int ?? 0 > 0)
    #expect(try self.summary(last) == summary)
    #expect(try content(name) == files)
    #expect(folder.contents == [name])
  }

  @Test("compression is reported by kind of section; a compressed file is not run in place, and how to unpack it is said")
  func compressed() throws {
    let result = try Program.run(["quantize", stories, "-o", folder.file("z.nbl"), "--compress", "zstd:19", "--json"])
    let reported = try #require(try JSON.parse(result.output)["compression"])
    #expect(reported["method"]?.string == "zstd" && reported["level"]?.int == 19)
    for part in ["codes", "scales", "plain_tensors", "files"] {
      #expect(try #require(reported[part]?["plain_bytes"]?.int) > 0 && reported[part]?["stored_bytes"]?.int ?? 0 > 0)
    }
    #expect(
      try JSON.parse(Program.run(["quantize", stories, "-o", folder.file("o.nbl"), "--json"]).output)["compression"] == .null)
    let run = try Program.run(["generate", "--base", folder.file("z.nbl"), "--prompt", "Once"])
    #expect(run.code == 3 && run.errorLines.count == 1)
    let command = "nibble convert \(folder.file("z.nbl")) -o OUT.nbl"
    #expect(run.errors.contains(command), "\(run.errors)")
    let words = command.replacing("OUT.nbl", with: folder.file("u.nbl")).split(separator: " ").map(String.init)
    #expect(try Program.run(Array(words.dropFirst())).code == 0)
    #expect(try bytes(of: folder.file("u.nbl")) == bytes(of: folder.file("o.nbl")))
  }

  @Test("another alpha is another merge")
  func alpha() throws {
    let adapter = folder.file("adapter")
    try FileManager.default.copyItem(atPath: fixture("shakespeare/adapter"), toPath: adapter)
    let arguments = ["merge", "--base", stories, "--adapter", adapter, "-o", folder.file("merged"), "--json", "--resume"]
    #expect(try Faults.run("write-kill:12", arguments).signal == SIGKILL)
    let config = adapter + "/adapter_config.json"
    let text = String(decoding: try bytes(of: config), as: UTF8.self)
    let json = try JSON.parse(text)
    let alpha = try #require(json["lora_alpha"]?.double)
    try Data(json.setting("lora_alpha", to: JSON(alpha / 2)).text().utf8).write(to: URL(fileURLWithPath: config))
    let result = try Program.run(arguments)
    #expect(result.code == 0 && result.errors.contains("starting anew"), "\(result.errors)")
    #expect(try JSON.parse(result.output)["resumed_tensors"]?.int == 0)
  }

  @Test("with nothing to go on with it just runs; a bundle is not resumed")
  func nothing() throws {
    let result = try Program.run(["quantize", stories, "-o", folder.file("o.nbl"), "--resume"])
    #expect(result.code == 0 && result.errors.isEmpty && !result.output.contains("resumed"))
    #expect(folder.contents == ["o.nbl"])
    let bundle = try Program.run(
      Self.merge + ["-o", folder.file("kept"), "--format", "nbl", "--when-lost", "keep", "--resume", "-q"])
    #expect(bundle.code == 2 && bundle.errorLines.count == 1)
  }
}
