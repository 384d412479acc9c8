import Foundation
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

/// Opens, quantizes, converts, in a folder of its own.
struct Bench {
  let folder = TemporaryFolder()

  func spec(_ name: String, _ format: OutputFormat? = nil, default other: OutputFormat = .nbl) throws -> OutputSpec {
    try OutputSpec(path: folder.file(name), format: format, default: other)
  }

  @discardableResult
  func quantize(
    _ source: String, _ name: String, _ format: OutputFormat? = nil, threads: Int = 2,
    compression: CompressionChoice = .none, _ change: (inout QuantizeOptions) throws -> Void = { _ in }
  ) throws -> StreamReport {
    var options = QuantizeOptions()
    try change(&options)
    var output = try spec(name, format)
    output.compression = compression
    var job = try StreamJob.quantize(Checkpoint.open(source), options, to: output)
    job.threads = threads
    return try job.run()
  }

  @discardableResult
  func convert(_ source: String, _ name: String, _ format: OutputFormat) throws -> StreamReport {
    try StreamJob.convert(Checkpoint.open(source), to: spec(name, format)).run()
  }

  @discardableResult
  func dequantize(_ source: String, _ name: String, _ dtype: DType? = nil, shard: Int = 5_000_000_000) throws -> StreamReport {
    var output = try spec(name, nil, default: .safetensors)
    output.maximumShard = shard
    return try StreamJob.dequantize(Checkpoint.open(source), dtype: dtype, to: output).run()
  }

  func bytes(_ name: String) throws -> [UInt8] { try TestSupport.bytes(of: folder.file(name)) }
}

@Suite("There and back")
struct RoundTripTests {
  let bench = Bench()
  let stories = fixture("stories260K")

  @Test(
    "nbl → bnb → nbl is the same file", arguments: [nil, "gpt2", "roberta", "llama-sharded"] as [String?],
    [EncodingRules.nearest, .cpu])
  func throughBnb(_ model: String?, _ rules: EncodingRules) throws {
    let source = model.map { fixture("models/" + $0) } ?? stories
    try bench.quantize(source, "a.nbl") { $0.bnbRules = rules }
    try bench.convert(bench.folder.file("a.nbl"), "bnb", .bnb)
    try bench.convert(bench.folder.file("bnb"), "b.nbl", .nbl)
    #expect(try bench.bytes("a.nbl") == bench.bytes("b.nbl"))
  }

  @Test(
    "a source without metadata stays without, though safetensors has to say its format",
    arguments: [[], [("b", "2"), ("a", "1")]] as [[(String, String)]])
  func metadata(_ metadata: [(String, String)]) throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "a.weight", [4, 32])
    builder.metadata = metadata
    try bench.folder.write("m/model.safetensors", builder.bytes)
    try bench.folder.write("m/config.json", "{}")
    try bench.quantize(bench.folder.file("m"), "a.nbl")
    try bench.convert(bench.folder.file("a.nbl"), "bnb", .bnb)
    try bench.convert(bench.folder.file("bnb"), "b.nbl", .nbl)
    #expect(try bench.bytes("a.nbl") == bench.bytes("b.nbl"))
    try bench.convert(bench.folder.file("a.nbl"), "one.safetensors", .bnb)
    try bench.convert(bench.folder.file("one.safetensors"), "c.nbl", .nbl)
    #expect(
      try Checkpoint.open(bench.folder.file("c.nbl")).metadata.map(\.key)
        == Checkpoint.open(bench.folder.file("a.nbl")).metadata.map(\.key))
  }

  @Test("quantizing to bnb is quantizing to nbl and converting")
  func directly() throws {
    try bench.quantize(stories, "a.nbl")
    try bench.convert(bench.folder.file("a.nbl"), "via", .bnb)
    try bench.quantize(stories, "direct", .bnb)
    for name in ["model.safetensors", "config.json", "nibble.json", "tokenizer.model"] {
      #expect(try bench.bytes("via/" + name) == bench.bytes("direct/" + name), "\(name)")
    }
  }

  @Test(
    "a bitsandbytes checkpoint made by transformers comes back with every tensor as it was",
    arguments: ["llama-bnb-nf4-dq", "llama-bnb-nf4-bf16", "gpt2-bnb-nf4-dq"])
  func foreign(_ model: String) throws {
    let source = fixture("models/" + model)
    try bench.convert(source, "a.nbl", .nbl)
    try bench.convert(bench.folder.file("a.nbl"), "back", .bnb)
    let before = try SmallSafetensors(source + "/model.safetensors").all
    let after = try SmallSafetensors(bench.folder.file("back/model.safetensors")).all
    #expect(before.count > 20)
    #expect(before.keys.sorted() == after.keys.sorted())
    for (name, content) in before { #expect((content == after[name]) as Bool, "\(name)") }
    #expect(try Checkpoint.open(source).hash() == Checkpoint.open(bench.folder.file("back")).hash())
  }

  @Test("the same bytes for any number of threads and any sharding of the input")
  func deterministic() throws {
    try bench.quantize(fixture("models/llama"), "one.nbl", threads: 1)
    try bench.quantize(fixture("models/llama"), "three.nbl", threads: 3)
    try bench.quantize(fixture("models/llama-sharded"), "shards.nbl", threads: 2)
    let one = try bench.bytes("one.nbl")
    #expect(try one == bench.bytes("three.nbl"))
    #expect(try one == bench.bytes("shards.nbl"))
  }

  @Test("one identity for one content in any container")
  func identity() throws {
    let plain = try Checkpoint.open(fixture("models/llama")).hash()
    #expect(try Checkpoint.open(fixture("models/llama-sharded")).hash() == plain)
    #expect(try Checkpoint.open(fixture("models/llama/model.safetensors")).hash() == plain)
    try bench.convert(fixture("models/llama"), "plain.nbl", .nbl)
    #expect(try Checkpoint.open(bench.folder.file("plain.nbl")).hash() == plain)
    let report = try bench.quantize(stories, "a.nbl")
    try bench.quantize(stories, "z.nbl", compression: .zstd(3))
    try bench.convert(bench.folder.file("a.nbl"), "bnb", .bnb)
    try bench.convert(bench.folder.file("a.nbl"), "one.safetensors", .bnb)
    for name in ["a.nbl", "z.nbl", "bnb", "one.safetensors"] {
      #expect(try Checkpoint.open(bench.folder.file(name)).hash() == report.identity, "\(name)")
    }
    #expect(report.sourceIdentity != report.identity)
  }

  @Test("Conv1D weights are packed transposed and come back as they were", arguments: [nil, DType.f32])
  func transposed(_ dtype: DType?) throws {
    let source = fixture("models/gpt2")
    try bench.quantize(source, "a.nbl")
    try bench.dequantize(bench.folder.file("a.nbl"), "back", dtype)
    let before = try SmallSafetensors(source + "/model.safetensors")
    let after = try SmallSafetensors(bench.folder.file("back/model.safetensors"))
    #expect(before.names == after.names)
    for name in before.names { #expect(before.entry(name)?.shape == after.entry(name)?.shape) }
    let diff = try Checkpoint.open(source).diff(Checkpoint.open(bench.folder.file("a.nbl")))
    let same = try Checkpoint.open(source).diff(Checkpoint.open(bench.folder.file("back")))
    #expect(diff.changed.count == 8)
    for (packed, plain) in zip(diff.changed, same.changed) {
      let error = try #require(packed.difference?.relativeRMS)
      #expect(error > 0.05 && error < 0.15, "\(packed.name)")
      // The sums run in another order.
      #expect(abs(try #require(plain.difference?.relativeRMS) - error) < 1e-9)
    }
    // The same codes that bitsandbytes has for it, transposed likewise.
    try bench.quantize(source, "cpu", .bnb) { $0.bnbRules = .cpu }
    let ours = try SmallSafetensors(bench.folder.file("cpu/model.safetensors"))
    let theirs = try SmallSafetensors(fixture("models/gpt2-bnb-nf4-dq/model.safetensors"))
    for name in theirs.names where name.hasSuffix(".quant_map") {
      let base = String(name.dropLast(".quant_map".count))
      #expect((ours[base] == theirs[base]) as Bool, "\(base)")
    }
  }

  @Test("decoded values are the definition's", arguments: [true, false], [BlockCodec.Code.nf4, .fp4])
  func definition(_ doubleQuant: Bool, _ code: BlockCodec.Code) throws {
    try bench.quantize(stories, "bnb", .bnb) {
      $0.doubleQuant = doubleQuant
      $0.codec = .packed(code)
    }
    try bench.dequantize(bench.folder.file("bnb"), "out.safetensors", .f32)
    let packed = try SmallSafetensors(bench.folder.file("bnb/model.safetensors"))
    let plain = try SmallSafetensors(bench.folder.file("out.safetensors"))
    let name = "model.layers.3.mlp.down_proj.weight"
    let codes = try #require(packed[name])
    let table = packed.floats(name + ".quant_map")
    var absmax = packed.floats(name + ".absmax")
    if doubleQuant {
      let state = try JSON.parse(try #require(packed[name + ".quant_state.bitsandbytes__" + code.name]))
      let offset = Float(try #require(state["nested_offset"]?.double))
      let map = packed.floats(name + ".nested_quant_map")
      let nested = packed.floats(name + ".nested_absmax")
      absmax = try #require(packed[name + ".absmax"]).enumerated().map { map[Int($1)] * nested[$0 / 256] + offset }
    }
    let values = plain.floats(name)
    let expected = values.indices.map { index in
      table[Int(index % 2 == 0 ? codes[index / 2] >> 4 : codes[index / 2] & 15)] * absmax[index / 64]
    }
    #expect((values == expected) as Bool)
  }

  @Test("the error that quantize reports is the one diff measures", arguments: StreamJob.Encoder.allCases, [true, false])
  func reportedError(_ encoder: StreamJob.Encoder, _ doubleQuant: Bool) throws {
    let report = try bench.quantize(stories, "a.nbl") {
      $0.encoder = encoder
      $0.doubleQuant = doubleQuant
    }
    // Against float32 values, as the encoder sees them.
    let diff = try Checkpoint.open(stories).diff(Checkpoint.open(bench.folder.file("a.nbl")))
    #expect(report.packed.count == 35)
    for packed in report.packed {
      let measured = try #require(diff.changed.first { $0.name == packed.name }?.difference?.relativeRMS)
      #expect(abs(try #require(packed.relativeError) - measured) < 1e-5 * measured, "\(packed.name)")
    }
  }

  @Test("searched scales err less, and the less the more there are to choose from", arguments: [true, false])
  func searched(_ doubleQuant: Bool) throws {
    let errors = try StreamJob.Encoder.allCases.map { encoder in
      let report = try bench.quantize(stories, encoder.rawValue + ".nbl") {
        $0.encoder = encoder
        $0.doubleQuant = doubleQuant
      }
      let packed = try Checkpoint.open(bench.folder.file(encoder.rawValue + ".nbl"))
      _ = try packed.verify()
      #expect(packed.provenance?["options"]?["encoder"]?.string == encoder.rawValue)
      // What is reported is what is there.
      let diff = try Checkpoint.open(stories).diff(packed)
      for tensor in report.packed {
        let measured = try #require(diff.changed.first { $0.name == tensor.name }?.difference?.relativeRMS)
        #expect(abs(try #require(tensor.relativeError) - measured) < 1e-5 * measured, "\(tensor.name)")
      }
      return try #require(report.meanError)
    }
    #expect(errors[1] < 0.94 * errors[0])
    #expect(errors[2] < 0.98 * errors[1])
  }

  @Test("searched scales are the same for any number of threads", arguments: [StreamJob.Encoder.mse, .mseSigned])
  func searchedAlike(_ encoder: StreamJob.Encoder) throws {
    try bench.quantize(fixture("models/llama"), "one.nbl", threads: 1) { $0.encoder = encoder }
    try bench.quantize(fixture("models/llama"), "three.nbl", threads: 3) { $0.encoder = encoder }
    try bench.quantize(fixture("models/llama-sharded"), "shards.nbl", threads: 2) { $0.encoder = encoder }
    #expect(try bench.bytes("one.nbl") == bench.bytes("three.nbl"))
    #expect(try bench.bytes("one.nbl") == bench.bytes("shards.nbl"))
    try bench.convert(bench.folder.file("one.nbl"), "bnb", .bnb)
    try bench.convert(bench.folder.file("bnb"), "back.nbl", .nbl)
    #expect(try bench.bytes("one.nbl") == bench.bytes("back.nbl"))
  }

  @Test("shards of any size hold the same tensors", arguments: [1, 100_000, 400_000])
  func sharding(_ size: Int) throws {
    try bench.dequantize(fixture("models/llama"), "out", shard: size)
    let checkpoint = try Checkpoint.open(bench.folder.file("out"))
    #expect(checkpoint.files.count > 1)
    #expect(checkpoint.warnings.isEmpty)
    #expect(try checkpoint.hash() == Checkpoint.open(fixture("models/llama")).hash())
    #expect(try JSON.parse(bench.bytes("out/model.safetensors.index.json"))["metadata"]?["total_size"]?.int != nil)
  }

  @Test("a plan's size is the size", arguments: ["stories260K", "models/gpt2", "models/llama-sharded"])
  func prediction(_ model: String) throws {
    for format in [OutputFormat.nbl, .bnb] {
      let job = try StreamJob.quantize(Checkpoint.open(fixture(model)), QuantizeOptions(), to: bench.spec("o-\(format)", format))
      let plan = job.prediction()
      let report = try job.run()
      #expect(plan.isExact == (format == .nbl))
      if plan.isExact { #expect(plan.outputBytes == report.bytesOut) }
    }
    let job = try StreamJob.dequantize(
      Checkpoint.open(bench.folder.file("o-nbl")), dtype: nil, to: bench.spec("plain", nil, default: .safetensors))
    #expect(job.prediction().isExact)
    #expect(try job.prediction().outputBytes == job.run().bytesOut)
  }

  @Test("compressed files hold the same content", arguments: [1, 19])
  func compressed(_ level: Int) throws {
    let plain = try bench.quantize(stories, "a.nbl")
    let packed = try bench.quantize(stories, "z.nbl", compression: .zstd(level))
    #expect(packed.identity == plain.identity)
    _ = try Checkpoint.open(bench.folder.file("z.nbl")).verify()
    try bench.convert(bench.folder.file("z.nbl"), "b.nbl", .nbl)
    #expect(try bench.bytes("b.nbl") == bench.bytes("a.nbl"))
    // And from a compressed source, by rows and by columns.
    var output = try bench.spec("gpt2.nbl", .nbl)
    output.compression = .zstd(3)
    _ = try StreamJob.convert(Checkpoint.open(fixture("models/gpt2")), to: output).run()
    try bench.quantize(fixture("models/gpt2"), "direct.nbl")
    try bench.quantize(bench.folder.file("gpt2.nbl"), "via.nbl")
    #expect(try bench.bytes("direct.nbl") == bench.bytes("via.nbl"))
  }

  @Test("what compressing saved is reported by kind of section, and is what stands in the file", arguments: [3, 19])
  func compressedBytes(_ level: Int) throws {
    #expect(try bench.quantize(stories, "a.nbl").compressed == nil)
    let report = try bench.quantize(stories, "z.nbl", compression: .zstd(level))
    let reported = try #require(report.compressed)
    let file = try Checkpoint.open(bench.folder.file("z.nbl"))
    func sum(_ kinds: [SectionKind], _ length: (StoredSection) -> Int) -> Int {
      (file.tensors.flatMap(\.sections) + file.smallFiles.compactMap { try? $0.section }).filter { kinds.contains($0.kind) }.reduce(0) {
        $0 + length($1)
      }
    }
    let kinds: [(CompressionReport.Bytes, [SectionKind])] = [
      (reported.codes, [.codes]), (reported.plain, [.data]), (reported.files, [.file]),
      (reported.scales, [.scales, .scaleCodes, .nestedScales, .nestedOffset]),
    ]
    for (bytes, kinds) in kinds {
      #expect(bytes.plain == sum(kinds, \.plainLength) && bytes.stored == sum(kinds, \.storedLength))
    }
    // 4-bit codes hold nearly four bits; float32 has signs and exponents to save.
    #expect((0.0..<0.08).contains(reported.codes.saved))
    #expect((0.05..<0.5).contains(reported.plain.saved))
  }

  @Test(
    "rows that are no multiple of the block, tensors larger than a chunk, every float type",
    arguments: [DType.f32, .f16, .bf16, .f64])
  func large(_ dtype: DType) throws {
    var builder = SafetensorsBuilder()
    var generator = Generator(3)
    let values = (0..<700_001).map { _ in generator.normal() }
    let data = values.flatMap { value -> [UInt8] in
      switch dtype {
      case .f16: littleEndian(Float16(value).bitPattern)
      case .bf16: littleEndian(UInt16(truncatingIfNeeded: value.bitPattern >> 16))
      case .f64: littleEndian(Double(value).bitPattern)
      default: littleEndian(value.bitPattern)
      }
    }
    builder.add("big.weight", dtype.rawValue, [1, 700_001], data)
    let source = try bench.folder.write("in.safetensors", builder.bytes)
    let report = try bench.quantize(source, "a.nbl") { $0.blockSize = 4096 }
    let error = try #require(report.packed.first?.relativeError)
    #expect(error > 0.08 && error < 0.2)
    let diff = try Checkpoint.open(source).diff(Checkpoint.open(bench.folder.file("a.nbl")))
    #expect(abs(try #require(diff.changed[0].difference?.relativeRMS) - error) < 2e-4 * error)
    #expect(report.sourceIdentity == (try Checkpoint.open(source).hash()))
    _ = try Checkpoint.open(bench.folder.file("a.nbl")).verify()
  }
}

@Suite("Sections that zstd makes no smaller")
struct IncompressibleTests {
  let bench = Bench()

  @Test("are stored plain, beside compressed ones")
  func plain() throws {
    var random = SystemRandomNumberGenerator()
    let noise = (0..<300_000).map { _ in UInt8.random(in: 0...255, using: &random) }
    var builder = SafetensorsBuilder()
    builder.add("noise", "U8", [noise.count], noise)
    builder.add("one", "U8", [1], [7])
    builder.add("zeros", "U8", [300_000], [UInt8](repeating: 0, count: 300_000))
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    try bench.quantize(source, "z.nbl", compression: .zstd(3))
    let packed = try Checkpoint.open(bench.folder.file("z.nbl"))
    for tensor in packed.tensors {
      let section = tensor.sections[0]
      #expect((section.compression == .none) == (tensor.name.text != "zeros"), "\(tensor.name.text)")
      #expect(section.storedLength <= section.plainLength)
    }
    #expect(try packed.verify(threads: 2).identity == Checkpoint.open(source).hash(threads: 2))
  }
}
