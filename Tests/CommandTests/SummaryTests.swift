import Foundation
import NibbleCore
import TestSupport
import Testing

@testable import nibble

@Suite("Summaries")
struct SummaryTests {
  /// Text with every number as `#` and without the name of the worst tensor, which may be another with other kernels.
  private func masked(_ text: String) -> String {
    text.replacing(#/ in model\.[^ ]*weight\n/#, with: " in TENSOR\n").replacing(#/[0-9a-f]{32}/#, with: "ID").replacing(#/[0-9]+(\.[0-9]+)?(e-?[0-9]+)?( [kMG]?B)?/#, with: "#")
  }

  private static let golden: [(command: String, text: String)] = [
    (
      "nibble quantize MODEL -o out.nbl",
      """
      packed: relative error of the packed weights # on average, worst # in TENSOR
      output             out.nbl
      bytes              # in, # out
      tensors            # packed, # plain (#)
      bits per weight    # packed, # whole output
      not in the output  golden.json
      time               # s, #/s, # s of CPU

      """
    ),
    (
      "nibble merge model.nbl adapter -o out.nbl --min-survival 0 -q",
      """
      merged: # % of the adapter's change survives, worst # % in TENSOR
      output           out.nbl
      bytes            # in, # out
      tensors          # packed, # plain (#)
      bits per weight  # packed, # whole output
      change           # tensors, by # % of their weight
      rounding error   # % of the weights; on the inputs the adapter uses, # % of the change
      base             model.nbl: its values as they are
      check            # matrices on random inputs: at most # off, in TENSOR
      time             # s, #/s, # s of CPU

      """
    ),
    (
      "nibble unmerge merged adapter -o out",
      """
      taken out: likely within # % of the original, in the weights that were changed
      output             out
      bytes              # in, # out
      tensors            # packed, # plain (#)
      bits per weight    # whole output
      change             # tensors, by # % of their weight
      rounding error     # % of the weights; on the inputs the adapter uses, # % of the change
      not in the output  README.md
      time               # s, #/s, # s of CPU

      """
    ),
    (
      "nibble convert model.nbl -o out --format bnb -v",
      """
      converted: every code and every value as it was
      """
    ),
    (
      "nibble verify model.nbl adapter",
      """
      verified  model.nbl: every byte of # tensors, #, # s
      identity  ID
      verified  adapter: every byte of # tensors, #, # s
      identity  ID

      """
    ),
    ("nibble diff adapter other-adapter", "# unchanged, # changed, # added, # removed\n"),
    (
      "nibble inspect model.nbl",
      """
      nbl, llama: # tensors, # packed, # weights, #
      model.embed_tokens.weight [#, #] F#
      model.layers.*.input_layernorm.weight ×# [#] F#
      model.layers.*.mlp.down_proj.weight ×# [#, #] nf#, block #, double quantized (F#)

      """
    ),
    (
      "nibble adapter inspect adapter --base model.nbl",
      """
      LoRA adapter, CAUSAL_LM: # modules, # numbers, #
      model.layers.*.mlp.down_proj ×# [#, #]: rank # (effective # to #), alpha #, scale #, change # to #, # % to # % of the weight; \
      into the codes keeps # % to # %

      """
    ),
  ]

  @Test("the verdict comes first, in plain words", arguments: golden)
  func text(_ command: String, _ expected: String) throws {
    let result = try ExampleFolder.copy().shell(command)
    #expect(result.code == 0 && result.errors.isEmpty, "\(result.errors)")
    let text = masked(result.output)
    #expect(text.hasPrefix(expected), "\(text)")
    // Whole, where it is given to its last line.
    if command.contains("-o out"), !command.contains("-v") { #expect(text == expected) }
  }

  @Test("identity and memory with -v")
  func verbose() throws {
    let output = try ExampleFolder.copy().shell("nibble quantize MODEL -o out.nbl -v").output
    #expect(output.contains("\npeak memory ") && output.contains("\nidentity "))
    #expect(output.contains("\nmodel.layers.2.mlp.up_proj.weight: nf4"))
  }

  @Test("what an adapter would keep is what merges keep of it")
  func twoQuestions() throws {
    let folder = try ExampleFolder.copy()
    func document(_ command: String) throws -> JSON {
      let result = try folder.shell(command + " --json -q")
      return try JSON.parse(result.code == 0 ? result.output : result.errors)
    }
    let plain = try document("nibble adapter inspect adapter --base MODEL")
    let packed = try document("nibble adapter inspect adapter --base model.nbl")
    let anew = try document("nibble merge MODEL adapter -o a.nbl --min-survival 0")
    let codes = try document("nibble merge model.nbl adapter -o b.nbl --min-survival 0")
    #expect(plain["survival_packed_anew"] == anew["survival"] && plain["survival_4bit"] == anew["survival"])
    #expect(plain["survival_into_codes"] == codes["survival"] && packed["survival_into_codes"] == codes["survival"])
    #expect(packed["survival_packed_anew"] == .null && packed["survival_4bit"] == codes["survival"])
    #expect(try #require(anew["survival"]?.double) > 0.9 && #require(codes["survival"]?.double) < 0.6)
    #expect(folder.folder.contents.contains { $0.contains("nibble-inspect") } == false)
  }

  @Test("a plan says that the output exists and goes on", arguments: [
    "nibble plan quantize MODEL -o model.nbl", "nibble merge MODEL adapter -o merged --dry-run",
    "nibble patch model.nbl task.nbl -o task.patch --dry-run", "nibble swap model.nbl task.patch -o task.nbl --dry-run",
  ])
  func plans(_ command: String) throws {
    let folder = try ExampleFolder.copy().folder
    let result = try Program.shell(command, folder: folder.path)
    #expect(result.code == 0 && result.errors.contains(" exists; --force replaces it"), "\(result.errors)")
    #expect(try Program.shell(command + " --force", folder: folder.path).errors.isEmpty)
  }

  @Test("several paths: all are looked at, and the first failure is the exit code")
  func several() throws {
    let folder = try ExampleFolder.copy().folder
    let path = folder.file("model.nbl")
    var content = try bytes(of: path)
    content[content.count / 2] ^= 4
    try Data(content).write(to: URL(fileURLWithPath: path))
    let result = try Program.shell("nibble verify model.nbl none adapter", folder: folder.path)
    #expect(result.code == 4 && result.errorLines.count == 2 && result.output.contains("verified  adapter"))
    let document = try JSON.parse(Program.shell("nibble verify adapter model.nbl --json", folder: folder.path).output)
    #expect(document["results"]?.array?.map { $0["ok"]?.bool } == [true, false])
    let hashes = try Program.shell("nibble hash MODEL merged", folder: folder.path)
    #expect(hashes.code == 0 && hashes.output.split(separator: "\n").count == 2)
  }

  @Test("adapters whose factors differ and changes do not are equal; a tensor more is found")
  func adapters() throws {
    let folder = try ExampleFolder.copy()
    let half = try folder.shell("nibble adapter combine adapter:0.5 -o half")
    #expect(half.code == 0, "\(half.errors)")
    let found = try JSON.parse(folder.shell("nibble diff adapter half --json").output)
    let modules = try #require(found["modules"]?.array)
    #expect(modules.count == 35 && modules.allSatisfy { abs(($0["relative_change"]?.double ?? 0) - 0.5) < 1e-5 })
    #expect(try folder.shell("nibble diff adapter half").output.contains("differ by at most 50.00 % of A's change"))
    #expect(try folder.shell("nibble diff adapter MODEL").code == 2)
  }

  @Test("an adapter in GGUF is listed")
  func gguf() throws {
    let folder = try ExampleFolder.copy()
    #expect(try folder.shell("nibble adapter convert adapter --base MODEL -o a.gguf").code == 0)
    let document = try JSON.parse(folder.shell("nibble inspect a.gguf --json").output)
    let own = try JSON.parse(folder.shell("nibble inspect adapter --json").output)
    let (sum, expected) = (try norms(document), try norms(own))
    #expect(document["modules"]?.array?.count == 35 && abs(sum - expected) < 1e-4 * expected)
    #expect(try folder.shell("nibble adapter inspect a.gguf").output.contains("blk.*.attn_q ×5 [64, 64]: rank 8"))
  }

  private func norms(_ document: JSON) throws -> Double {
    try #require(document["modules"]?.array).reduce(0) { $0 + ($1["norm"]?.double ?? .nan) }
  }

  @Test("natural order and groups")
  func listing() {
    let names = ["b.10.w", "a", "b.2.w", "b.9.w", "b.2.v", "b.10.v.1"]
    #expect(Listing.natural(names, { $0 }) == ["a", "b.2.v", "b.2.w", "b.9.w", "b.10.v.1", "b.10.w"])
    #expect(Listing.groups(names, { $0 }).map(Listing.name) == ["a", "b.2.v", "b.*.w ×3", "b.10.v.1"])
  }
}
