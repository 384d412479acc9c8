import Foundation
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Merging into blocks with offsets")
struct OffsetMergeTests {
  let folder = TemporaryFolder()

  private func base(_ search: OffsetSearch = OffsetSearch()) throws -> Checkpoint {
    var options = QuantizeOptions()
    options.offsets = search
    let spec = try OutputSpec(path: folder.file("base.nbl"), format: nil, default: .nbl)
    _ = try StreamJob.quantize(Checkpoint.open(fixture("models/llama")), options, to: spec).run()
    return try Checkpoint.open(spec.path)
  }

  private func job(
    _ base: Checkpoint, _ weight: Double, to name: String, _ change: (inout MergeOptions) -> Void = { _ in }
  ) throws -> StreamJob {
    var options = MergeOptions([.init(try MergeTests.adapter("dec_lora_qv"), weight: weight)])
    change(&options)
    return try StreamJob.merge(base, options, to: OutputSpec(path: folder.file(name), format: .nbl, default: .nbl))
  }

  @Test("keeps offsets, and moves nothing but what the adapter moves")
  func rounding() throws {
    var base = try base()
    for output in ["once.nbl", "twice.nbl"] {
      let report = try job(base, 0.02, to: output) { $0.minimumSurvival = 0 }.run()
      let merged = try Checkpoint.open(folder.file(output))
      #expect(report.changed.count == 4 && merged.provenance?["options"]?["encoder"]?.string == "icq")
      for tensor in report.changed {
        // Offsets chosen anew would round every weight once more, by some 0.09 of it.
        #expect((tensor.sums.noise / tensor.sums.base).squareRoot() < 0.03, "\(tensor.name)")
        let name = ByteName(tensor.name)
        let (before, after) = (try #require(base.tensor(name)), try #require(merged.tensor(name)))
        #expect(after.encoding == before.encoding && after.encoding.name == "nf4-offsets")
        for kind in [SectionKind.offsetCodes, .offsetScales] {
          #expect(try plain(before.section(kind)) == plain(after.section(kind)))
        }
      }
      base = merged
    }
  }

  @Test("finds offsets anew where a search is asked for")
  func anew() throws {
    let base = try base()
    let report = try job(base, 1, to: "out.nbl") { ($0.minimumSurvival, $0.packing.offsets) = (0, OffsetSearch()) }.run()
    let merged = try Checkpoint.open(folder.file("out.nbl"))
    for tensor in base.packed {
      let isChanged = report.changed.contains { $0.name == tensor.name.text }
      let after = try #require(merged.tensor(tensor.name))
      #expect(try (plain(tensor.section(.offsetCodes)) != plain(after.section(.offsetCodes))) == isChanged, "\(tensor.name.text)")
    }
  }

  private func plain(_ section: StoredSection?) throws -> [UInt8] {
    guard case .file(let file, let offset) = try #require(section).source else { return [] }
    return try file.bytes(at: offset, count: section?.storedLength ?? 0)
  }

  @Test(
    "saves a change that rounding would erase", arguments: [WhenLost.shape, .promote, .sixteenBits])
  func whenLost(_ way: WhenLost) throws {
    var job = try job(try base(), 0.02, to: "out.nbl")
    job.changing.whenLost = way
    let report = try job.run(), merged = try Checkpoint.open(folder.file("out.nbl"))
    let names = [WhenLost.shape: "nf4-offsets", .promote: "int8", .sixteenBits: "plain"]
    for tensor in report.changed {
      // Shaped, the worst keeps 0.68: blocks without offsets keep 0.73 here.
      #expect(tensor.sums.survival > 0.6 && tensor.isShaped == (way == .shape), "\(tensor.name)")
      let written = try #require(merged.tensor(ByteName(tensor.name)))
      #expect(written.encoding.name == names[way])
      // What the file holds is what was reported.
      let found = try values(written)
      let error = found.reduce(0.0) { $0 + Double($1) * Double($1) }
      #expect(abs(error / tensor.sums.base - 1) < 0.2)
    }
  }

  @Test("into a float base that is packed with offsets on the way, shaped where rounding would lose")
  func packedAnew() throws {
    let job = try job(Checkpoint.open(fixture("models/llama")), 1, to: "out.nbl") { $0.packing.offsets = OffsetSearch() }
    let report = try job.run(), merged = try Checkpoint.open(folder.file("out.nbl"))
    #expect(report.changed.allSatisfy { $0.sums.survival > 0.9 } && report.changed.count == 4)
    #expect(merged.packed.allSatisfy { $0.encoding.name == "nf4-offsets" })
  }

  @Test("is told apart from blocks without: searches that have no use are refused or named")
  func unused() throws {
    var options = MergeOptions([.init(try MergeTests.adapter("dec_lora_qv"), weight: 1)])
    options.packing.offsets = OffsetSearch()
    let spec = try OutputSpec(path: folder.file("out.nbl"), format: .nbl, default: .nbl)
    let error = #expect(throws: NibbleError.self) {
      try StreamJob.merge(Checkpoint.open(fixture("models/llama-bnb-nf4-dq")), options, to: spec)
    }
    #expect(error?.kind == .usage && error?.message.contains("blocks of nf4") == true, "\(error?.message ?? "")")
    let job = try job(try base(), 1, to: "out.nbl") { $0.packing.encoder = .mse }
    #expect(job.warnings.contains { $0.message.contains("mse chooses scales") })
  }

  @Test("the packed form an adapter was trained on is made again from its name")
  func trainedOn() throws {
    var search = OffsetSearch()
    (search.score, search.order, search.roundsFirst) = (.error, .ascending, false)
    for search in [OffsetSearch(), search] {
      let made = try base(search)
      let identity = try #require(made.claimedIdentity)
      let name = try #require(AdapterBinding(to: made, identity: identity).packing)
      #expect(name == "nf4:block=64:" + search.text)
      let form = try Checkpoint.open(fixture("models/llama")).packedForm(
        QuantizeOptions(trainedOn: name), beside: folder.file("x.nbl"), threads: 2)
      #expect(form.claimedIdentity == identity)
      try FileManager.default.removeItem(atPath: folder.file("base.nbl"))
    }
  }
}
