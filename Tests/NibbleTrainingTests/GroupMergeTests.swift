import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import NibbleTraining
import TestSupport
import Testing

@Suite("Merges that move groups and touch no code")
struct GroupMergeTests {
  let folder = TemporaryFolder()

  /// The llama of the fixtures in int4 groups.
  private func base(_ zeros: Int4Groups.Zero, group: Int = 32, _ source: String = "llama") throws -> Checkpoint {
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "int4")
    (options.groupSize, options.zeros) = (group, zeros)
    var spec = try OutputSpec(path: folder.file("base-\(zeros.rawValue).nbl"), format: nil, default: .nbl)
    spec.force = true
    _ = try StreamJob.quantize(Checkpoint.open(fixture("models/" + source)), options, to: spec).run()
    return try Checkpoint.open(spec.path)
  }

  /// A QA-LoRA adapter of drawn numbers for `base`, in a folder.
  private func adapter(_ base: Checkpoint, group: Int, _ name: String = "a", method: String = "qalora") throws -> AdapterFile {
    let model = try Model(base.path, threads: 2)
    var options = AdapterOptions()
    options.method = try #require(AdapterOptions.Method(rawValue: method))
    (options.rank, options.alpha) = (4, 8)
    let isTiled = method == "qahira"
    options.settings = isTiled ? [QAHiRA.inputs.key: Double(group), QAHiRA.outputs.key: 8] : [QALoRA.group.key: Double(group)]
    let trained = try Trained(options, on: model)
    for tensor in trained.tensors {
      let random = CountedRandom(seed: 3, stream: XXH3.digest64(of: Array(tensor.name.utf8)))
      for index in 0..<tensor.values.count { tensor.values.start[index] = Float(0.2 * random.normal(UInt64(index))) }
    }
    try trained.folder(options, start: nil, on: model, binding: nil).write(to: folder.file(name), force: true)
    return try AdapterFile.open(folder.file(name))
  }

  private func states(_ path: String, _ file: AdapterFile? = nil) throws -> [Float] {
    let model = try Model(path, threads: 2)
    let adapter = try file.map { ActiveAdapter(try model.attach($0, name: "a")) }
    let runs = [[7, 9, 3, 200, 7, 41, 3], [200, 3, 5, 7]].map { TokenRun($0, adapters: adapter.map { [$0] } ?? []) }
    let count = runs.reduce(0) { $0 + $1.ids.count } * model.network.width
    return Array(UnsafeBufferPointer(start: try model.network.hidden(.tokens(runs), tape: nil), count: count))
  }

  private func distance(_ a: [Float], _ b: [Float]) -> Double {
    let size = b.reduce(0.0) { $0 + Double($1) * Double($1) }
    return (zip(a, b).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) } / size).squareRoot()
  }

  private func plain(_ section: StoredSection?) throws -> [UInt8] {
    guard case .file(let file, let offset) = try #require(section).source else { return [] }
    return try file.bytes(at: offset, count: section?.storedLength ?? 0)
  }

  private func values(_ tensor: StoredTensor) throws -> [Float] {
    var all: [Float] = []
    try tensor.forEachValues { _, values, count, _ in all += UnsafeBufferPointer(start: values, count: count) }
    return all
  }

  private func merge(_ base: Checkpoint, _ file: AdapterFile, to name: String, _ format: OutputFormat = .nbl) throws -> StreamReport {
    var spec = try OutputSpec(path: folder.file(name), format: format, default: format)
    spec.force = true
    return try StreamJob.merge(base, MergeOptions([.init(file)]), to: spec, check: MergeCheck()).run()
  }

  @Test(
    "keep codes and scales byte for byte, and compute what base and adapter do: exactly with float32 zeros, to the rounding of float16",
    arguments: [Int4Groups.Zero.float, .half, .offset], [("qalora", 32), ("qalora", 64), ("qahira", 64)])
  func merges(_ zeros: Int4Groups.Zero, _ one: (method: String, group: Int)) throws {
    let base = try base(zeros), file = try adapter(base, group: one.group, method: one.method)
    let report = try merge(base, file, to: "m.nbl")
    let merged = try Checkpoint.open(folder.file("m.nbl"))
    #expect(report.changed.count == file.modules.count && report.changed.allSatisfy(\.isMoved))
    let noise = report.changed.map(\.sums.noiseRatio).max() ?? 1
    #expect(zeros == .float ? noise < 1e-5 : noise > 1e-5 && noise < 0.2, "\(noise)")
    for tensor in base.packed {
      let after = try #require(merged.tensor(tensor.name))
      #expect(after.encoding == tensor.encoding)
      for kind in [SectionKind.codes, .groupScales] { #expect(try plain(tensor.section(kind)) == plain(after.section(kind))) }
      let own: SectionKind = zeros == .offset ? .offsets : .zeros
      let isAdapted = report.changed.contains { $0.name == tensor.name.text }
      #expect(try (plain(tensor.section(own)) != plain(after.section(own))) == isAdapted)
    }
    let attached = try states(base.path, file)
    #expect(try distance(states(base.path), attached) > 0.01)
    #expect(try distance(states(folder.file("m.nbl")), attached) < (zeros == .float ? 1e-5 : 5e-3))
    // What is said to be lost of the change is what the file lost of it.
    for one in report.changed.prefix(3) {
      let name = ByteName(one.name), before = try values(#require(base.tensor(name))), after = try values(#require(merged.tensor(name)))
      let moved = zip(after, before).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
      #expect(abs(moved / one.sums.delta - 1) < 0.02)
    }
  }

  @Test("move the offsets of tiles by QA-HiRA, whose base runs, trains and merges; other tiles are refused", arguments: [true, false])
  func tiles(_ doubleQuant: Bool) throws {
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "nf4-tiles")
    (options.tile, options.doubleQuant) = ((8, 4), doubleQuant)
    let spec = try OutputSpec(path: folder.file("t.nbl"), format: nil, default: .nbl)
    _ = try StreamJob.quantize(Checkpoint.open(fixture("models/llama")), options, to: spec).run()
    let base = try Checkpoint.open(spec.path)
    #expect(try base.verify().identity == base.claimedIdentity && base.packed.allSatisfy { $0.encoding.name == "nf4-tiles" })
    let file = try adapter(base, group: 4, method: "qahira")
    let report = try merge(base, file, to: "m.nbl"), merged = try Checkpoint.open(folder.file("m.nbl"))
    #expect(report.changed.count == 14 && report.changed.allSatisfy { $0.isMoved && $0.sums.noiseRatio < 1e-5 })
    for tensor in base.packed {
      let after = try #require(merged.tensor(tensor.name))
      #expect(after.encoding == tensor.encoding)
      for section in tensor.sections where section.kind != .tileOffsets {
        #expect(try plain(section) == plain(after.section(section.kind)))
      }
    }
    let attached = try states(base.path, file)
    #expect(try distance(states(base.path), attached) > 0.01)
    #expect(try distance(states(merged.path), attached) < 1e-5)
    #expect(AdapterBinding(to: base, identity: try #require(base.claimedIdentity)).packing?.hasPrefix("nf4-tiles:tile=8x4") == true)
    let other = try adapter(base, group: 2, "b", method: "qahira")
    let error = #expect(throws: NibbleError.self) { _ = try merge(base, other, to: "n.nbl") }
    #expect(error?.kind == .adapterMismatch && error?.message.contains("its tiles are of 8 x 4, the adapter's of 8 x 2") == true, "\(error?.message ?? "")")
    // A merge by rounding keeps the offsets there are.
    let pooled = try adapter(base, group: 32, "c")
    _ = try AdapterConversion(folder.file("c"), to: .peft).write(to: folder.file("p"), force: false)
    #expect(pooled.modules.count == 14)
    let rounded = try MergeOptions([.init(AdapterFile.open(folder.file("p")))])
    let job = try StreamJob.merge(merged, rounded, to: OutputSpec(path: folder.file("r.nbl"), format: .nbl, default: .nbl))
    var lenient = job
    lenient.changing.minimumSurvival = { _ in nil }
    let found = try lenient.run()
    #expect(found.changed.allSatisfy { ($0.sums.noise / $0.sums.base).squareRoot() < 0.1 })
  }

  @Test("are undone and switched by patches of zeros alone")
  func patch() throws {
    let base = try base(.float), file = try adapter(base, group: 32)
    _ = try merge(base, file, to: "m.nbl")
    let made = try PatchJob(from: base, to: Checkpoint.open(folder.file("m.nbl")), output: folder.file("p.patch"))
    let report = try made.run()
    // 5 bits a group of 32 weights are zeros of float32; codes and scales are not in it.
    #expect(report.bytes < base.storedBytes / 4)
  }

  @Test("are refused with the module's name where nothing can be moved", arguments: [
    (Int4Groups.Zero.none, 32, "symmetric and have no zeros"), (.int, 32, "zeros are whole numbers"), (.half, 16, "its groups are of 32, the adapter's of 16"),
  ])
  func refused(_ zeros: Int4Groups.Zero, _ group: Int, _ reason: String) throws {
    let base = try base(zeros), file = try adapter(base, group: group)
    let error = #expect(throws: NibbleError.self) { try merge(base, file, to: "m.nbl") }
    #expect(error?.kind == .adapterMismatch, "\(error?.message ?? "")")
    #expect(error?.message.contains(reason) == true && error?.message.contains("down_proj") == true, "\(error?.message ?? "")")
    // Floats take it, exactly.
    _ = try merge(base, file, to: "plain", .safetensors)
    #expect(try distance(states(folder.file("plain")), states(base.path, file)) < 1e-2)
  }

  @Test("are refused on blocks without zeros; a plain LoRA adapter of the same change is rounded into them")
  func blocks() throws {
    let base = try Checkpoint.open(fixture("models/llama-bnb-nf4-dq")), file = try adapter(base, group: 32)
    let error = #expect(throws: NibbleError.self) { try merge(base, file, to: "m.nbl") }
    #expect(error?.kind == .adapterMismatch && error?.message.contains("nf4 has no zeros or offsets") == true, "\(error?.message ?? "")")
    _ = try AdapterConversion(folder.file("a"), to: .peft).write(to: folder.file("plain"), force: false)
    var spec = try OutputSpec(path: folder.file("r.nbl"), format: nil, default: .nbl)
    spec.force = true
    var options = MergeOptions([.init(try AdapterFile.open(folder.file("plain")))])
    options.minimumSurvival = 0
    #expect(try StreamJob.merge(base, options, to: spec).run().changed.count == file.modules.count)
  }

  @Test("are the paper's, with every gain, for zeros and for offsets", arguments: QALoRA.Gain.allCases)
  func golden(_ gain: QALoRA.Gain) throws {
    let golden = try TensorFile(fixture("quantized_methods.safetensors"))
    func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor("qa_lora/" + name), "\(name)")) }
    func bytes(_ values: [Float]) -> [UInt8] { values.withUnsafeBytes { Array($0) } }
    let (a, b, scale, zero) = (try floats("lora_A"), try floats("lora_B"), try floats("scale"), try floats("zero"))
    let factor = Float(4.0 / 32 * [QALoRA.Gain.groups: 4.0, .mean: 1, .sum: 32][gain]!)
    let shift = GroupShift(
      (0..<16 * 4).map { index in
        let (o, g) = (index / 4, index % 4)
        return factor * (0..<4).reduce(Float(0)) { $0 + b[o * 4 + $1] * a[$1 * 4 + g] }
      }, length: 32, across: 4)
    let suffix = [QALoRA.Gain.groups: "mean_times_groups", .mean: "mean", .sum: "sum"][gain]!
    let zeros = try #require(Int4Groups(size: 32, scale: .f32, zero: .float).moved([bytes(scale), bytes(zero)], by: shift))
    let offsets = zip(scale, zero).map { -$0 * $1 }
    let biases = try #require(Int4Groups(size: 32, scale: .f32, zero: .offset).moved([bytes(scale), bytes(offsets)], by: shift))
    for (found, name) in [(zeros, "zero_merged_" + suffix), (biases, "bias_merged_" + suffix)] {
      #expect(found.sections[0] == bytes(scale))
      let own = found.sections[1].withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
      for (x, y) in zip(own, try floats(name)) { #expect(abs(x - y) <= 1e-5 + 1e-5 * abs(y), "\(name): \(x) \(y)") }
    }
  }
}
