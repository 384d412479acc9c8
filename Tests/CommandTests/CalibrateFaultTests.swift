import NibbleCore
import TestSupport
import Testing

@Suite("Disks fill while a model is calibrated")
struct CalibrateFaultTests {
  let folder = TemporaryFolder()

  static let text = ["--calibration", CalibrateCommandTests.text, "--calibration-tokens", "96"]
  static let writes: [(name: String, arguments: [String])] = [
    ("s.safetensors", ["calibrate", stories] + text),
    ("c.nbl", ["quantize", stories, "--encoder", "calibrated"] + text),
  ]

  @Test(
    "one line, exit code 7, and nothing is left",
    arguments: ["write-enospc", "write-eio", "fsync-eio", "rename-eio"], [0, 1])
  func failures(_ fault: String, _ write: Int) throws {
    let (name, arguments) = Self.writes[write]
    let result = try Faults.run(fault, arguments + ["-o", folder.file(name), "-q"])
    #expect(result.code == 7 && result.errorLines.count == 1, "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test("with --resume, the codes that are on the disk are kept, and the same command goes on from them")
  func resumed() throws {
    let (name, arguments) = Self.writes[1]
    // Some tensors are written down before there is no more room.
    let result = try Faults.run("write-enospc:12", arguments + ["-o", folder.file(name), "-q", "--resume"])
    #expect(result.code == 7 && result.errorLines.count == 1 && result.errors.contains("nibble-codes"), "\(result.errors)")
    #expect(folder.contents == [".c.nbl.nibble-codes"])
    let again = try Program.run(arguments + ["-o", folder.file(name), "-q", "--resume", "--json"])
    #expect(try again.code == 0 && JSON.parse(again.output)["calibration"]?["resumed_tensors"]?.int ?? 0 > 3, "\(again.errors)")
    #expect(folder.contents == [name])
    #expect(try Program.run(arguments + ["-o", folder.file("whole.nbl"), "-q"]).code == 0)
    #expect(try bytes(of: folder.file(name)) == bytes(of: folder.file("whole.nbl")))
  }
}
