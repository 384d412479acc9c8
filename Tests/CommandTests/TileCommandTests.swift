import NibbleCore
import TestSupport
import Testing

@Suite("Blocks that are tiles, on the command line")
struct TileCommandTests {
  let folder = TemporaryFolder()
  static let adapter = fixture("shakespeare/adapter"), text = fixture("stories.txt")
  /// Layers with 172 outputs are no whole tiles.
  static let tiles = ["quantize", stories, "--codec", "nf4-tiles", "--tensor", "gate_proj|up_proj=nf4"]

  @discardableResult
  private func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json"])
    #expect(result.code == 0, "\(arguments) \(result.errors)")
    return try JSON.parse(result.output)
  }

  private func evaluated(_ base: String, _ more: [String] = []) throws -> (perplexity: Double, divergence: Double) {
    let found = try json(["evaluate", "--base", base, "--data", Self.text, "--compare-to", stories] + more)
    return (try #require(found["perplexity"]?.double), try #require(found["compared_to"]?["kl_divergence"]?.double))
  }

  @Test("pack, list, verify, run, and give what their dequantized form gives")
  func runs() throws {
    let packed = folder.file("t.nbl")
    try json(Self.tiles + ["-o", packed])
    #expect(try Program.run(["inspect", packed, "-v"]).output.contains("tiles of 8 x 4 with offsets"))
    #expect(try Program.run(["verify", packed]).code == 0)
    try json(["dequantize", packed, "-o", folder.file("plain"), "--dtype", "fp32"])
    let own = try evaluated(packed)
    #expect(try abs(own.perplexity / evaluated(folder.file("plain")).perplexity - 1) < 1e-5)
    // 0.156, and 0.104 in blocks of 64 along rows.
    #expect(own.divergence > 0.05 && own.divergence < 0.2, "\(own.divergence)")
    let told = try json(["generate", "--base", packed, "--prompt", RunCommandTests.begin, "--max-new-tokens", "8"])
    #expect(told["text"]?.string?.isEmpty == false)
    #expect(try json(["diff", packed, packed])["changed"]?.array?.isEmpty == true)
    for format in ["bnb", "compressed-tensors"] {
      let result = try Program.run(["convert", packed, "-o", folder.file("c"), "--format", format])
      #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains("nf4-tiles"), "\(result.errors)")
    }
  }

  @Test("take adapters: attached, merged, told apart by diff, switched by a patch")
  func adapters() throws {
    let base = folder.file("b.nbl"), merged = folder.file("m.nbl"), patch = folder.file("p.patch")
    try json(Self.tiles + ["-o", base])
    let (plain, attached) = (try evaluated(base).perplexity, try evaluated(base, ["--adapter", Self.adapter]).perplexity)
    #expect(attached > 1.05 * plain)
    try json(["merge", base, Self.adapter, "-o", merged, "--any-base", "--min-survival", "0"])
    #expect(try evaluated(merged).perplexity > 1.02 * plain)
    #expect(try json(["diff", base, merged])["changed"]?.array?.count == 35)
    try json(["patch", "--from", base, "--to", merged, "-o", patch])
    #expect(try Program.run(["verify", patch]).code == 0)
    let (before, after) = (try bytes(of: base), try bytes(of: merged))
    #expect(try evaluated(base, ["--patch", patch]).perplexity == evaluated(merged).perplexity)
    #expect(try Program.run(["swap", base, patch, "-q"]).code == 0)
    #expect(try bytes(of: base) == after)
    #expect(try Program.run(["swap", base, patch, "-q"]).code == 0)
    #expect(try bytes(of: base) == before)
  }

  @Test("are calibrated, offsets too; a merge on a text keeps more than rounding does")
  func calibrated() throws {
    let base = folder.file("c.nbl"), given = ["--calibration", Self.text]
    let report = try json(Self.tiles + ["-o", base, "--encoder", "calibrated", "-q"] + given)
    #expect(report["calibration"]?["calibrated_tensors"]?.int == 35, "\(report.text())")
    try json(Self.tiles + ["-o", folder.file("mse.nbl"), "--encoder", "mse"])
    #expect(try evaluated(base).divergence < 0.6 * evaluated(folder.file("mse.nbl")).divergence)
    #expect(try Program.run(["verify", base]).code == 0)
    let merged = try json(
      ["merge", base, Self.adapter, "-o", folder.file("m.nbl"), "--any-base", "--when-lost", "calibrated", "--min-survival", "0", "-q"] + given)
    #expect(merged["calibration"]?["calibrated_tensors"]?.int == 35)
  }
}
