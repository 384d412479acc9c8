import NibbleCore
import TestSupport
import Testing

@Suite("Ship and why")
struct ShipCommandTests {
  let folder = TemporaryFolder()

  private func text() throws -> String {
    try folder.write("text.txt", "Once upon a time there was a little girl. She liked to play with her dog in the park.\n")
  }

  @Test("what each program loads, with a passport; what one cannot hold is refused by itself")
  func ship() throws {
    let result = try Program.run(
      ["ship", stories, "-o", folder.file("out"), "--for", "mlx,bnb,vllm", "--keep", "down_proj", "--data", text(), "--context", "128", "--calibration", text(), "--calibration-tokens", "64"])
    // Rows of 64 are no groups of 128.
    #expect(result.code == 2, "\(result.errors)")
    #expect(result.errors.contains("not made for vllm"))
    let passport = try JSON.parse(bytes(of: folder.file("out/passport.json")))
    let targets = try #require(passport["targets"]?.array)
    #expect(targets.compactMap { $0["made"]?.bool } == [true, true, false])
    #expect(targets[2]["refusal"]?.string?.contains("128") == true)
    for target in targets.prefix(2) {
      #expect(try #require(target["kl_divergence"]?.double) > 0 && target["bytes"]?.int ?? 0 > 100_000)
    }
    let text = try String(decoding: bytes(of: folder.file("out/passport.md")), as: UTF8.self)
    #expect(text.contains("| mlx |") && text.contains("Not made:\n\n- vllm: ") && text.contains("nibble quantize"))
    #expect(try Program.run(["evaluate", folder.file("out/bnb"), self.text(), "--context", "128"]).code == 0)
    #expect(try Program.run(["ship", stories, "-o", folder.file("out"), "--for", "bnb"]).code == 2)
  }

  @Test("programs nobody knows, and folders that are there", arguments: [("nobody", "the programs are vllm, ollama"), ("bnb,bnb", "twice")])
  func wrong(_ programs: String, _ saying: String) throws {
    let result = try Program.run(["ship", stories, "-o", folder.file("no"), "--for", programs])
    #expect(result.code == 2 && result.errors.contains(saying))
    #expect(PathKind(folder.file("no")) == .nothing)
  }

  @Test("why prints the dearest tensors and what is left without them")
  func why() throws {
    let packed = folder.file("p.nbl")
    #expect(try Program.run(["quantize", stories, "-o", packed, "-q"]).code == 0)
    let result = try Program.run(["why", stories, packed, "--data", text(), "--top", "2"])
    #expect(result.code == 0 && result.output.contains("35 differ") && result.output.contains("33 more, at most"), "\(result.errors)\(result.output)")
    let found = try JSON.parse(Program.run(["why", stories, packed, "--data", text(), "--top", "35", "--json"]).output)
    let lefts = try #require(found["tensors"]?.array).compactMap { $0["left"]?["value"]?.double }
    let last = try #require(lefts.last)
    #expect(lefts.count == 35 && last < 1e-6 && found["total"]?["value"]?.double ?? 0 > 0.01)
    #expect(try Program.run(["why", stories, packed]).code == 2)
    #expect(try Program.run(["why", stories, fixture("minilm-none"), "--data", text()]).code == 3)
  }
}
