import Foundation
import NibbleCore
import TestSupport
import Testing

/// A small real model packed to 4 bits, and merges of one adapter into it, made once.
enum Tasks {
  static let base = made("base.nbl", ["quantize", stories])
  /// By rounding: codes and scales differ, no section's length.
  static let rounded = merged("rounded.nbl", ["--min-survival", "0"])
  /// With some tensors as rows of bytes: sections of other lengths, and some that only one file has.
  static let promoted = merged("promoted.nbl", ["--when-lost", "promote", "--min-survival", "0.7"])
  static let sixteen = merged("sixteen.nbl", ["--when-lost", "16bit", "--min-survival", "0.7"])
  /// The base once more with its sections compressed: the same tensors in another file.
  static let compressed = made("compressed.nbl", ["convert", base, "--compress", "zstd"])
  static let patch = made("rounded.patch", ["patch", "--from", base, "--to", rounded])

  private static let folder = TemporaryFolder()

  private static func made(_ name: String, _ arguments: [String]) -> String {
    let result = try? Program.run(arguments + ["-o", folder.file(name), "-q"])
    #expect(result?.code == 0, "\(result?.errors ?? name)")
    return folder.file(name)
  }

  private static func merged(_ name: String, _ more: [String]) -> String {
    made(name, ["merge", "--base", base, "--adapter", fixture("shakespeare/adapter")] + more)
  }
}

@Suite("Switching tasks")
struct PatchCommandTests {
  let folder = TemporaryFolder()

  func run(_ arguments: String...) throws {
    let result = try Program.run(arguments + ["-q"])
    #expect(result.code == 0, "\(arguments) \(result.errors)")
  }

  func refuse(_ arguments: [String], _ code: Int32, _ words: String...) throws {
    let before = folder.contents
    let result = try Program.run(arguments)
    #expect(result.code == code, "\(arguments) \(result.errors)")
    #expect(result.errorLines.count == 1 && result.errors.hasPrefix("nibble: error: "), "\(result.errors)")
    for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
    #expect(folder.contents == before)
  }

  func copied(_ path: String, as name: String = "f.nbl") throws -> String {
    try FileManager.default.copyItem(atPath: path, toPath: folder.file(name))
    return folder.file(name)
  }

  @Test(
    "a swap makes the other file, a second one the first again, byte for byte",
    arguments: [
      (Tasks.base, Tasks.rounded), (Tasks.rounded, Tasks.promoted), (Tasks.promoted, Tasks.sixteen),
      (Tasks.base, Tasks.compressed),
      (Tasks.base, Tasks.base),
    ], [1, 3])
  func swaps(_ ends: (String, String), _ threads: Int) throws {
    let patch = folder.file("task.patch")
    try run("patch", "--from", ends.0, "--to", ends.1, "-o", patch, "-j", "\(threads)")
    let file = try copied(ends.0)
    try run("swap", "--file", file, "--patch", patch, "-j", "\(threads)")
    #expect(try bytes(of: file) == bytes(of: ends.1))
    try run("swap", "--file", file, "--patch", patch)
    #expect(try bytes(of: file) == bytes(of: ends.0))
    try run("swap", "--file", ends.1, "--patch", patch, "-o", folder.file("other.nbl"))
    #expect(try bytes(of: folder.file("other.nbl")) == bytes(of: ends.0))
    #expect(folder.contents == ["f.nbl", "other.nbl", "task.patch"])
  }

  @Test("the same patch, whatever the number of threads; much smaller than the file")
  func deterministic() throws {
    for threads in [1, 2, 5] {
      let path = folder.file("\(threads).patch")
      try run("patch", "--from", Tasks.base, "--to", Tasks.rounded, "-o", path, "-j", "\(threads)")
      #expect(try bytes(of: path) == bytes(of: Tasks.patch))
    }
    #expect(try bytes(of: Tasks.patch).count * 5 < bytes(of: Tasks.base).count)
  }

  @Test("a patch tells what is in it")
  func inspect() throws {
    let result = try Program.run(["inspect", Tasks.patch, "--json"])
    #expect(result.code == 0, "\(result.errors)")
    let report = try JSON.parse(result.output)
    for (side, path) in [("from", Tasks.base), ("to", Tasks.rounded)] {
      let identity = try Program.run(["hash", path]).output.split(separator: " ").first.map(String.init)
      #expect(report[side]?["identity"]?.string == identity)
      #expect(try report[side]?["bytes"]?.int == bytes(of: path).count)
    }
    #expect(report["to"]?["provenance"]?["verb"]?.string == "merge")
    let changed = try #require(report["changed"]?.array)
    #expect(
      changed.contains { $0["kind"]?.string == "codes" } && changed.allSatisfy { $0["name"]?.string?.contains("proj") == true })
    #expect(try Program.run(["inspect", Tasks.patch]).output.contains("self_attn.q_proj.weight, codes"))
    #expect(try Program.run(["verify", Tasks.patch]).output.contains("verified"))
    try refuse(["quantize", Tasks.patch, "-o", folder.file("x")], 3, "a patch", "swap")
  }

  @Test(
    "a model runs with a patch in memory as it runs from the swapped file",
    arguments: [Tasks.rounded, Tasks.promoted, Tasks.sixteen])
  func inMemory(_ task: String) throws {
    try run("patch", "--from", Tasks.base, "--to", task, "-o", folder.file("p"))
    let untouched = try bytes(of: Tasks.base)
    func text(_ arguments: String...) throws -> String {
      let result = try Program.run(["generate", "--prompt", "Once upon a time", "--max-new-tokens", "40"] + arguments)
      #expect(result.code == 0, "\(result.errors)")
      return result.output
    }
    let swapped = try text("--base", task)
    #expect(try text("--base", Tasks.base, "--patch", folder.file("p")) == swapped)
    #expect(try text("--base", task, "--patch", folder.file("p")) == text("--base", Tasks.base))
    #expect(try bytes(of: Tasks.base) == untouched)
    let losses = try [["--base", task], ["--base", Tasks.base, "--patch", folder.file("p")]].map { model in
      let result = try Program.run(["evaluate", "--task", "perplexity", "--data", fixture("stories.txt"), "--json"] + model)
      #expect(result.code == 0, "\(result.errors)")
      return try JSON.parse(result.output)["perplexity"]
    }
    #expect(losses[0] == losses[1] && losses[0] != nil)
  }

  @Test("a swap holds some pieces of the file in memory, however many sections it has")
  func memory() throws {
    for (name, last) in [("a", UInt8(0)), ("b", 1)] {
      var model = SafetensorsBuilder()
      // Of a length that leaves zeros behind each section.
      for number in 0..<60 { model.add("t\(number)", "U8", [3_000_001], [UInt8](repeating: last, count: 3_000_001)) }
      try folder.write(name + ".safetensors", model.bytes)
      try run("quantize", folder.file(name + ".safetensors"), "-o", folder.file(name + ".nbl"))
    }
    try run("patch", "--from", folder.file("a.nbl"), "--to", folder.file("b.nbl"), "-o", folder.file("p"))
    let result = try Program.run(["swap", "--file", folder.file("a.nbl"), "--patch", folder.file("p"), "--json"])
    let peak = try #require(JSON.parse(result.output)["peak_memory"]?.int)
    #expect(peak < 110 << 20, "\(peak)")
  }

  @Test("only the two files a patch was made of are taken")
  func strangers() throws {
    let other = try copied(Tasks.promoted, as: "other.nbl")
    try refuse(["swap", "--file", other, "--patch", Tasks.patch], 5, "identity", "other.nbl")
    try refuse(["generate", "--base", other, "--patch", Tasks.patch, "--prompt", "x"], 5, "identity")
    // The same tensors, in another file: what came out could not be what the patch was made of.
    let compressed = try copied(Tasks.compressed, as: "compressed.nbl")
    try refuse(["swap", "--file", compressed, "--patch", Tasks.patch], 5, "compressed otherwise")
    try refuse(["swap", "--file", Tasks.base, "--patch", Tasks.base, "-o", folder.file("o.nbl")], 3, "not a patch")
    try refuse(["swap", "--file", stories, "--patch", Tasks.patch, "-o", folder.file("o.nbl")], 2, "block files")
    try refuse(["patch", "--from", stories, "--to", Tasks.base, "-o", folder.file("o.patch")], 2, "block files")
    try refuse(["swap", "--file", folder.file("none.nbl"), "--patch", Tasks.patch], 3, "no such file")
  }

  @Test("inputs are never what is replaced; outputs only with --force; a dry run writes nothing")
  func outputs() throws {
    let patch = try copied(Tasks.patch, as: "p"), file = try copied(Tasks.base)
    try refuse(["patch", "--from", file, "--to", Tasks.rounded, "-o", file, "--force"], 2, "input")
    try refuse(["swap", "--file", file, "--patch", patch, "-o", patch, "--force"], 2, "input")
    try refuse(["swap", "--file", file, "--patch", patch, "-o", file, "--force"], 2, "input")
    try refuse(["patch", "--from", file, "--to", Tasks.rounded, "-o", patch], 2, "--force")
    try refuse(["patch", "--from", file, "--to", Tasks.rounded], 2, "--output")
    try refuse(["patch", "--from", file, "--to", Tasks.rounded, "-o", folder.file("none/p")], 7, "does not exist")
    try run("swap", "--file", file, "--patch", patch, "--dry-run")
    try run("patch", "--from", file, "--to", Tasks.rounded, "-o", folder.file("q"), "--dry-run")
    #expect(folder.contents == ["f.nbl", "p"])
    #expect(try bytes(of: file) == bytes(of: Tasks.base))
    try run("patch", "--from", Tasks.base, "--to", Tasks.promoted, "-o", patch, "--force")
    try run("swap", "--file", file, "--patch", patch)
    #expect(try bytes(of: file) == bytes(of: Tasks.promoted))
  }

  @Test("a file that is swapped keeps its permissions, and a link to it leads to the new one")
  func linksAndPermissions() throws {
    let file = try copied(Tasks.base)
    #expect(chmod(file, 0o600) == 0)
    try FileManager.default.createSymbolicLink(atPath: folder.file("link.nbl"), withDestinationPath: file)
    try run("swap", "--file", folder.file("link.nbl"), "--patch", Tasks.patch)
    #expect(try bytes(of: file) == bytes(of: Tasks.rounded))
    #expect(try FileManager.default.destinationOfSymbolicLink(atPath: folder.file("link.nbl")) == file)
    let permissions = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
    #expect(permissions == 0o600)
  }

  @Test("it keeps its extended attributes, whatever their number and length", .enabled(if: Attributes.work))
  func attributes() throws {
    let file = try copied(Tasks.base)
    let values = ["user.origin": "https://example.org", "user.empty": "", "user.long": String(repeating: "x", count: 2000)]
    for (name, value) in values { #expect(Attributes.set(name, value, of: file)) }
    for expected in [Tasks.rounded, Tasks.base] {
      try run("swap", "--file", file, "--patch", Tasks.patch)
      #expect(try bytes(of: file) == bytes(of: expected))
      for (name, value) in values { #expect(Attributes.get(name, of: file) == value) }
    }
  }

  @Test("root's swap leaves the file to whom it belongs", .enabled(if: geteuid() == 0))
  func owner() throws {
    let file = try copied(Tasks.base)
    #expect(chown(file, 1234, 1235) == 0 && chmod(file, 0o640) == 0)
    try run("swap", "--file", file, "--patch", Tasks.patch)
    let found = try FileManager.default.attributesOfItem(atPath: file)
    #expect(found[.ownerAccountID] as? Int == 1234 && found[.groupOwnerAccountID] as? Int == 1235)
    #expect(found[.posixPermissions] as? Int == 0o640)
  }

  @Test("whoever holds the file open keeps the whole old one")
  func readers() throws {
    let file = try copied(Tasks.base)
    let held = try FileHandle(forReadingFrom: URL(fileURLWithPath: file))
    try run("swap", "--file", file, "--patch", Tasks.patch)
    #expect(try held.readToEnd().map { [UInt8]($0) } == bytes(of: Tasks.base))
  }

  @Test("bytes that are not what the table says are 4, and stay")
  func damagedFile() throws {
    for at in try [bytes(of: Tasks.base).count - 1, bytes(of: Tasks.base).count / 2] {
      var damaged = try bytes(of: Tasks.base)
      damaged[at] ^= 1
      try folder.write("f.nbl", damaged)
      try refuse(["swap", "--file", folder.file("f.nbl"), "--patch", Tasks.patch], 4, "f.nbl")
      try refuse(["patch", "--from", folder.file("f.nbl"), "--to", Tasks.rounded, "-o", folder.file("p")], 4, "f.nbl")
      #expect(try bytes(of: folder.file("f.nbl")) == damaged)
    }
  }

  @Test(
    "merge --undo writes the way back, with the output or not at all",
    arguments: [["--min-survival", "0"], ["--when-lost", "promote"]])
  func undo(_ more: [String]) throws {
    let (merged, undo) = (folder.file("m.nbl"), folder.file("undo.patch"))
    let merge = ["merge", "--base", Tasks.base, "--adapter", fixture("shakespeare/adapter"), "-o", merged, "--undo"]
    let result = try Program.run(merge + [undo, "--json"] + more)
    #expect(result.code == 0, "\(result.errors)")
    #expect(try JSON.parse(result.output)["undo_bytes"]?.int == bytes(of: undo).count)
    try run("unmerge", "--merged", merged, "--undo", undo, "-o", folder.file("back.nbl"))
    #expect(try bytes(of: folder.file("back.nbl")) == bytes(of: Tasks.base))
    try refuse(["unmerge", "--merged", Tasks.base, "--undo", undo, "-o", folder.file("x.nbl")], 5, "nothing to undo")
    try refuse(["unmerge", "--merged", merged, "--undo", undo, "--adapter", "a", "-o", folder.file("x.nbl")], 2, "--adapter")
    try refuse(merge + [undo, "--force", "--min-survival", "1"], 6)
    try refuse(merge + [merged, "--force", "--min-survival", "0"], 2, "output")
    try refuse(merge + [Tasks.base, "--force", "--min-survival", "0"], 2, "input")
  }

  @Test(
    "of folders and safetensors every tensor and small file comes back byte for byte",
    arguments: [
      (stories, "m", fixture("shakespeare/adapter")),
      (stories + "/model.safetensors", "m.safetensors", fixture("shakespeare/adapter")),
      (fixture("models/llama-sharded"), "m", fixture("adapters/dec_lora_qv")),
      (fixture("models/llama"), "m", fixture("adapters/dec_dora")),
      (fixture("models/llama-bnb-nf4-dq"), "m", fixture("adapters/dec_lora_qv")),
      (fixture("models/roberta"), "m", fixture("adapters/roberta_cls")),
    ])
  func undoFolders(_ base: String, _ name: String, _ adapter: String) throws {
    let (merged, undo, back) = (folder.file(name), folder.file("undo.patch"), folder.file("back-" + name))
    try run("merge", "--base", base, "--adapter", adapter, "-o", merged, "--undo", undo, "--min-survival", "0")
    try run("unmerge", "--merged", merged, "--undo", undo, "-o", back)
    let diff = try Program.run(["diff", base, back])
    #expect(diff.output.hasSuffix(" unchanged, 0 changed, 0 added, 0 removed\n"), "\(diff.output)")
    func identity(_ path: String) throws -> Substring? { try Program.run(["hash", path]).output.split(separator: " ").first }
    #expect(try identity(back) == identity(base))
    #expect(try identity(merged) != identity(base))
    if !base.hasSuffix(".safetensors"), !base.contains("bnb") {
      #expect(try bytes(of: back + "/config.json") == bytes(of: base + "/config.json"))
    }
    try refuse(["unmerge", "--merged", base, "--undo", undo, "-o", folder.file("x")], 5, "nothing to undo")
    try refuse(["unmerge", "--merged", fixture("models/gpt2"), "--undo", undo, "-o", folder.file("x")], 5, "identity")
    try refuse(["swap", "--file", merged, "--patch", undo], 2, "block files")
    // What is in the patch is checked, whatever it is applied to.
    var damaged = try bytes(of: undo)
    damaged[damaged.count * 3 / 4] ^= 1
    try folder.write("undo.patch", damaged)
    try refuse(["unmerge", "--merged", merged, "--undo", undo, "-o", folder.file("x")], 4, "undo.patch")
  }

  @Test("flags that count for nothing where a block file is turned back are warned of")
  func ignored() throws {
    let result = try Program.run(
      ["unmerge", "--merged", Tasks.base, "--undo", Tasks.patch, "-o", folder.file("x.nbl"), "--max-memory", "1MB", "--resume"])
    #expect(result.code == 0 && result.errors.contains("--resume, --max-memory: ignored"), "\(result.errors)")
  }

  @Test("what has no way back in a patch is refused by name")
  func noUndo() throws {
    let undo = ["--adapter", fixture("shakespeare/adapter"), "--undo", folder.file("u"), "-o", folder.file("m")]
    try refuse(["merge", "--base", stories, "--format", "nbl"] + undo, 2, "kind")
    try refuse(
      [
        "merge", "--base", stories, "--adapter", fixture("shakespeare/adapter"), "--undo", folder.file("m/u"), "-o",
        folder.file("m"),
      ], 2, "in it")
    try refuse(["merge", "--base", stories, "--trained-on", "nf4"] + undo, 2, "--trained-on")
    try refuse(["merge", "--base", Tasks.base, "--when-lost", "keep"] + undo, 2, "keep")
    try refuse(["unmerge", "--merged", Tasks.base, "-o", folder.file("m")], 2, "--adapter")
  }
}

/// Extended attributes of files, which the C library's module hides.
enum Attributes {
  private typealias Set = @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafePointer<CChar>, Int, CInt) -> CInt
  private typealias Get = @convention(c) (UnsafePointer<CChar>, UnsafePointer<CChar>, UnsafeMutableRawPointer, Int) -> Int

  /// Whether temporary files have them.
  static let work: Bool = {
    let folder = TemporaryFolder()
    return (try? folder.write("f", [])) != nil && set("user.test", "1", of: folder.file("f"))
  }()

  static func set(_ name: String, _ value: String, of path: String) -> Bool {
    dlsym(nil, "setxattr").map { unsafeBitCast($0, to: Set.self)(path, name, value, value.utf8.count, 0) == 0 } ?? false
  }

  static func get(_ name: String, of path: String) -> String? {
    guard let call = dlsym(nil, "getxattr").map({ unsafeBitCast($0, to: Get.self) }) else { return nil }
    var value = [UInt8](repeating: 0, count: 1 << 16)
    let length = call(path, name, &value, value.count)
    return length < 0 ? nil : String(decoding: value[..<length], as: UTF8.self)
  }
}
