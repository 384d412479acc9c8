import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Ship where disks fill, signals come, and programs refuse")
struct ShipFaultTests {
  let folder = TemporaryFolder()

  private func text(_ text: String = "Once upon a time there was a little girl.\n") throws -> String { try folder.write("text.txt", text) }

  private func names(_ name: String) -> [String] { ((try? FileManager.default.contentsOfDirectory(atPath: folder.file(name))) ?? []).sorted() }

  /// Ships with reads slow enough that a signal to the one process hits the verb it runs in the middle.
  private func shipSlowly(_ signal: Int32) throws -> Program.Result {
    let library = try #require(Faults.library)
    return try Program.run(
      ["ship", stories, "-o", folder.file("out"), "--for", "llama.cpp", "-j", "1", "-q"],
      environment: ["LD_PRELOAD": library, "NIBBLE_FAULT": "read-slow", "NIBBLE_KERNELS": "portable"]
    ) { process in
      while !names("out/llama.cpp").contains(".model.gguf.nibble-partial"), process.isRunning { usleep(500) }
      kill(process.processIdentifier, signal)
    }
  }

  @Test("a signal stops the verb that ship runs, too, and leaves nothing", arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
  func signals(_ signal: (Int32, Int32)) throws {
    let result = try shipSlowly(signal.0)
    #expect(result.code == signal.1 && result.errorLines.count == 1, "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test("killed, ship leaves no verb behind, and the next run cleans up")
  func killed() throws {
    #expect(try shipSlowly(SIGKILL).signal == SIGKILL)
    let end = Date() + 5
    while names("out/llama.cpp") != [], Date() < end { usleep(5000) }
    #expect(names("out") == ["llama.cpp"] && names("out/llama.cpp") == [])
    try folder.write("out/.merged/model.safetensors", "left by a kill")
    try folder.write("out/.mlx.nibble-partial/model.safetensors", "left by a kill")
    let again = try Program.run(["ship", stories, "-o", folder.file("out"), "--for", "llama.cpp", "-q", "--force"])
    #expect(again.code == 0, "\(again.errors)")
    #expect(names("out") == ["llama.cpp", "passport.json", "passport.md"] && names("out/llama.cpp") == ["model.gguf"])
  }

  @Test("a full disk is no refusal of a program: ship ends with its one line", arguments: ["llama.cpp", "ollama"])
  func full(_ program: String) throws {
    let result = try Faults.run("write-enospc", ["ship", stories, "-o", folder.file("out"), "--for", program, "-q"])
    #expect(result.code == 7 && result.errorLines.count == 1 && result.errors.contains("No space left on device"), "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test("what a program refuses this time is not left there from the last time")
  func stale() throws {
    #expect(try Program.run(["ship", stories, "-o", folder.file("out"), "--for", "ollama,llama.cpp"]).code == 0)
    for name in ["config.json", "model.safetensors"] { try folder.write("m/" + name, bytes(of: stories + "/" + name)) }
    // Without a tokenizer.
    let again = try Program.run(["ship", folder.file("m"), "-o", folder.file("out"), "--for", "ollama", "--force"])
    #expect(again.code == 3 && again.errors.contains("llama.cpp is of an earlier run"), "\(again.errors)")
    #expect(names("out") == ["llama.cpp", "passport.json", "passport.md"])
  }

  @Test("a comparison that fails is an error, and the model stays")
  func notCompared() throws {
    let result = try Program.run(["ship", stories, "-o", folder.file("out"), "--for", "llama.cpp", "--data", text(""), "-q"])
    #expect(result.code == 3 && result.errorLines.count == 1 && result.errors.contains("not compared for llama.cpp"), "\(result.errors)")
    #expect(names("out/llama.cpp") == ["model.gguf"])
    #expect(try String(decoding: bytes(of: folder.file("out/passport.md")), as: UTF8.self).contains("not compared: "))
  }

  @Test("a text is not needed where codes are chosen already")
  func packed() throws {
    #expect(try Program.run(["quantize", stories, "-o", folder.file("p.nbl"), "-q"]).code == 0)
    let result = try Program.run(["ship", folder.file("p.nbl"), "-o", folder.file("out"), "--for", "bnb", "--calibration", text()])
    #expect(result.code == 0 && result.errors.contains("--calibration: ignored"), "\(result.errors)")
  }

  @Test(
    "wrong words are refused before anything is made",
    arguments: [["--gguf-type", "q9"], ["--keep", "("], ["--context", "1"], ["--calibration", "nowhere.txt"]])
  func words(_ words: [String]) throws {
    let result = try Program.run(["ship", stories, "-o", folder.file("out"), "--for", "llama.cpp"] + words)
    #expect([2, 3].contains(result.code) && result.errorLines.count == 1, "\(result.errors)")
    #expect(folder.contents.isEmpty)
    #expect(try Program.run(["ship", stories, "-o", ""]).code == 2)
  }

  @Test("why takes the largest numbers")
  func whyNumbers() throws {
    let most = String(Int.max)
    let result = try Program.run(["why", stories, stories, "--data", text(), "--tokens", most, "--context", most, "--top", most])
    #expect(result.code == 0 && result.output.contains("0 differ"), "\(result.errors)")
  }
}
