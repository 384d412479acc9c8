import NibbleCore
import TestSupport
import Testing

@Suite("Blocks with offsets on the command line")
struct ICQCommandTests {
  let folder = TemporaryFolder()
  static let adapter = fixture("shakespeare/adapter")

  @discardableResult
  func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json"])
    #expect(result.code == 0, "\(arguments) \(result.errors)")
    return try JSON.parse(result.output)
  }

  private func perplexity(_ base: String, _ more: [String] = []) throws -> Double {
    try #require(json(["evaluate", "--base", base, "--data", fixture("stories.txt")] + more)["perplexity"]?.double)
  }

  @Test("pack, list, verify, run, and give what their dequantized form gives")
  func runs() throws {
    let packed = folder.file("s.nbl")
    for flags in [[], ["--icq-score", "error"], ["--icq-order", "ascending", "--icq-unrounded"], ["--block-size", "128"]] {
      let report = try json(["quantize", stories, "-o", packed, "--force", "--encoder", "icq"] + flags)
      #expect(report["packed_tensors"]?.int == 35 || report["tensors"]?.array?.isEmpty == false, "\(report.text())")
      let listing = try Program.run(["inspect", packed, "-v"]).output
      #expect(listing.contains("double quantized, offsets"))
      #expect(try Program.run(["verify", packed]).code == 0)
      // Rows of 172 are no whole blocks: those tensors are decoded, the others multiplied where they lie.
      try json(["dequantize", packed, "-o", folder.file("plain"), "--dtype", "fp32", "--force"])
      let (own, plain) = (try perplexity(packed), try perplexity(folder.file("plain")))
      #expect(abs(own / plain - 1) < 1e-5 && own < 4.9, "\(flags) \(own) \(plain)")
    }
    let told = try json(["generate", "--base", packed, "--prompt", RunCommandTests.begin, "--max-new-tokens", "8"])
    #expect(told["text"]?.string?.isEmpty == false)
    #expect(try Program.run(["diff", stories, packed, "--json"]).code <= 1)
  }

  @Test("take adapters: attached, trained, merged with shaping, switched by a patch")
  func adapters() throws {
    let base = folder.file("b.nbl"), merged = folder.file("m.nbl"), patch = folder.file("p.patch")
    try json(["quantize", stories, "-o", base, "--encoder", "icq"])
    let attached = try perplexity(base, ["--adapter", Self.adapter])
    let shaped = try json(["merge", base, Self.adapter, "-o", merged, "--any-base", "--when-lost", "shape", "--min-survival", "0.9"])
    #expect((shaped["survival_worst"]?.double ?? 0) >= 0.9)
    #expect(try abs(perplexity(merged) / attached - 1) < 0.2)
    // Offsets stay, so a patch need not hold them.
    try json(["patch", "--from", base, "--to", merged, "-o", patch])
    let before = try bytes(of: base)
    #expect(try Program.run(["swap", base, patch, "-q"]).code == 0)
    #expect(try bytes(of: base) == bytes(of: merged))
    #expect(try Program.run(["swap", base, patch, "-q"]).code == 0)
    #expect(try bytes(of: base) == before)
    let rows = try folder.write("rows.jsonl", (0..<8).map { #"{"text": "Once upon a time there was a number \#($0)."}"# }.joined(separator: "\n"))
    let train = try Program.run(
      ["finetune", "--base", base, "--data", rows, "-o", folder.file("a"), "-q", "--max-steps", "2", "--batch-size", "2"])
    #expect(train.code == 0, "\(train.errors)")
    // The adapter knows how its base was packed: it merges onto that form of the original.
    let onOriginal = try json(["merge", stories, folder.file("a"), "-o", folder.file("f"), "--dtype", "fp32"])
    #expect(onOriginal["trained_on"]?.string == "nf4:block=64:icq")
  }

  @Test(
    "are refused where they have no place, in one line",
    arguments: [
      (["--encoder", "icq", "--codec", "fp4"], "blocks of nf4"), (["--encoder", "icq", "--codec", "int8"], "blocks of nf4"),
      (["--encoder", "icq", "--format", "bnb"], "nf4-offsets"), (["--icq-order", "centre"], "--icq-order is for --encoder icq"),
      (["--encoder", "mse", "--icq-unrounded"], "--icq-unrounded is for --encoder icq"), (["--encoder", "icq", "--icq-score", "kl"], "--icq-score"),
      (["--codec", "nf4-offsets"], "nf4-offsets"), (["--tensor", "q_proj=nf4-offsets"], "nf4-offsets"),
    ])
  func refused(_ flags: [String], _ words: String) throws {
    let result = try Program.run(["quantize", stories, "-o", folder.file("o"), "-q"] + flags)
    #expect(result.code == 2 && result.signal == nil && result.errorLines.count == 1, "\(result.errors)")
    #expect(result.errors.contains(words), "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }
}
