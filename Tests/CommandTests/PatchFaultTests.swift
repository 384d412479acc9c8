import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Swaps that fail leave what was there")
struct PatchFaultTests {
  let folder = TemporaryFolder()

  func copiedBase() throws -> String {
    try FileManager.default.copyItem(atPath: Tasks.base, toPath: folder.file("f.nbl"))
    return folder.file("f.nbl")
  }

  @Test(
    "in place: disks that fail or fill, reads that end early",
    arguments: [
      ("read-eio:4", 3), ("read-end:4", 3), ("read-eio:40", 3), ("write-enospc", 7), ("write-eio", 7), ("fsync-eio", 7),
      ("rename-eio", 7),
    ] as [(String, Int32)])
  func failures(_ fault: (String, Int32)) throws {
    let file = try copiedBase()
    let result = try Faults.run(fault.0, ["swap", "--file", file, "--patch", Tasks.patch])
    #expect(result.code == fault.1, "\(fault.0): \(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents == ["f.nbl"])
    #expect(try bytes(of: file) == bytes(of: Tasks.base))
  }

  @Test("short and interrupted calls change nothing", arguments: ["read-short", "read-eintr", "write-short", "write-eintr"])
  func partial(_ fault: String) throws {
    let file = try copiedBase()
    #expect(try Faults.run(fault, ["swap", "--file", file, "--patch", Tasks.patch]).code == 0)
    #expect(try bytes(of: file) == bytes(of: Tasks.rounded))
    #expect(try Faults.run(fault, ["patch", "--from", Tasks.base, "--to", file, "-o", folder.file("p")]).code == 0)
    #expect(try bytes(of: folder.file("p")) == bytes(of: Tasks.patch))
  }

  @Test("an owner and attributes that cannot be kept are warned of", .enabled(if: Attributes.work))
  func notKept() throws {
    let file = try copiedBase()
    #expect(Attributes.set("user.one", "1", of: file) && Attributes.set("user.two", "2", of: file))
    let result = try Faults.run("keep-eperm", ["swap", "--file", file, "--patch", Tasks.patch])
    #expect(result.code == 0 && result.errors.contains("\(file): belonged to another user or group"), "\(result.errors)")
    #expect(result.errors.contains("\(file): 2 of its extended attributes could not be kept"), "\(result.errors)")
    #expect(try bytes(of: file) == bytes(of: Tasks.rounded))
  }

  @Test(
    "killed at any point: one of the two files stands there whole, and the next swap goes on",
    arguments: ["write-kill:0", "write-kill:1", "fsync-kill:0", "fsync-kill:1", "rename-kill"])
  func killed(_ fault: String) throws {
    let file = try copiedBase()
    let result = try Faults.run(fault, ["swap", "--file", file, "--patch", Tasks.patch])
    let now = try bytes(of: file)
    let isSwapped = try now == bytes(of: Tasks.rounded)
    #expect(try isSwapped || now == bytes(of: Tasks.base))
    // Only a sync of the folder comes behind the renaming.
    #expect(!isSwapped || fault == "fsync-kill:1" || result.signal == nil)
    #expect(try Program.run(["swap", "--file", file, "--patch", Tasks.patch]).code == 0)
    #expect(try bytes(of: file) == bytes(of: isSwapped ? Tasks.base : Tasks.rounded))
    #expect(folder.contents == ["f.nbl"])
  }

  @Test(
    "what a failing merge would have left of its undo", arguments: ["write-enospc:1", "fsync-eio", "fsync-eio:1", "rename-eio"])
  func undo(_ fault: String) throws {
    let result = try Faults.run(
      fault,
      [
        "merge", "--base", Tasks.base, "--adapter", fixture("shakespeare/adapter"), "--min-survival", "0", "-o",
        folder.file("m.nbl"),
        "--undo", folder.file("u"), "-q",
      ])
    #expect(result.code == 7, "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test("Ctrl-C leaves the first file", arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
  func signals(_ signal: (Int32, Int32)) throws {
    let file = try copiedBase()
    let result = try slowly(file) { kill($0.processIdentifier, signal.0) }
    #expect(result.code == signal.1, "\(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents == ["f.nbl"])
    #expect(try bytes(of: file) == bytes(of: Tasks.base))
  }

  @Test("of two swaps on one file, and of two patches for one name, the second is refused")
  func twoAtOnce() throws {
    let file = try copiedBase()
    let first = try slowly(file) { _ in
      let second = try? Program.run(["swap", "--file", file, "--patch", Tasks.patch])
      #expect(second?.code == 2 && second?.errors.contains("another process") == true, "\(second?.errors ?? "")")
    }
    #expect(first.code == 0, "\(first.errors)")
    #expect(try bytes(of: file) == bytes(of: Tasks.rounded))
  }

  @Test("a file that someone else replaced or wrote to meanwhile is not touched", arguments: ["replace", "append"])
  func meanwhile(_ how: String) throws {
    let file = try copiedBase()
    let theirs = try bytes(of: Tasks.promoted)
    let result = try slowly(file) { _ in
      if how == "replace" {
        _ = try? folder.write("theirs", theirs)
        rename(folder.file("theirs"), file)
      } else if let handle = FileHandle(forWritingAtPath: file) {
        handle.seekToEndOfFile()
        handle.write(Data([1]))
      }
    }
    #expect(result.code == (how == "replace" ? 2 : 3), "\(result.errors)")
    #expect(try bytes(of: file) == (how == "replace" ? theirs : bytes(of: Tasks.base) + [1]))
    #expect(folder.contents == ["f.nbl"])
  }

  /// Swaps with reads slow enough that `meanwhile` hits it in the middle.
  func slowly(_ file: String, meanwhile: (Process) -> Void) throws -> Program.Result {
    let library = try #require(Faults.library)
    return try Program.run(
      ["swap", "--file", file, "--patch", Tasks.patch, "-j", "1"],
      environment: ["LD_PRELOAD": library, "NIBBLE_FAULT": "read-slow"]
    ) { process in
      while !folder.contents.contains(".f.nbl.nibble-partial"), process.isRunning { usleep(500) }
      usleep(20_000)
      meanwhile(process)
    }
  }
}
