import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

/// Every value of a tensor, plain or packed.
func values(_ tensor: StoredTensor) throws -> [Float] {
  var all: [Float] = []
  try tensor.forEachValues { _, values, count, _ in all += UnsafeBufferPointer(start: values, count: count) }
  return all
}

@Suite("Merging adapters")
struct MergeTests {
  let folder = TemporaryFolder()

  static let cases: [(adapter: String, base: String)] = [
    ("dec_all_linear_patterns", "llama"), ("dec_dora", "llama"), ("dec_embedding", "llama"), ("dec_layers_to_transform", "llama"),
    ("dec_lora_qv", "llama"), ("dec_regex_layers", "llama"), ("dec_rslora", "llama"), ("gpt2_bias_all", "gpt2"),
    ("gpt2_c_attn", "gpt2"), ("gpt2_dora", "gpt2"), ("gpt2_lora_bias", "gpt2"), ("roberta_bias_lora_only", "roberta"),
    ("roberta_cls", "roberta"), ("resnet_conv", "resnet"), ("resnet_conv_dora", "resnet"),
  ]

  static func adapter(_ name: String) throws -> AdapterFile { try AdapterFile.open(fixture("adapters/" + name)) }

  /// Merges into a new output and opens it.
  func merge(
    _ base: String, _ adapters: [(String, Double)], to output: String, format: OutputFormat? = nil, threads: Int = 2,
    _ change: (inout MergeOptions) -> Void = { _ in }
  ) throws -> (report: StreamReport, output: Checkpoint) {
    var options = MergeOptions(try adapters.map { .init(try Self.adapter($0.0), weight: $0.1) })
    change(&options)
    var spec = try OutputSpec(path: folder.file(output), format: format, default: .safetensors)
    spec.force = true
    var job = try StreamJob.merge(Checkpoint.open(base), options, to: spec)
    job.threads = threads
    let report = try job.run()
    return (report, try Checkpoint.open(folder.file(output)))
  }

  /// What PEFT wrote, by the names of `checkpoint`.
  static func expected(_ file: String, _ kind: String, in checkpoint: Checkpoint) throws -> [(StoredTensor, StoredTensor)] {
    let names = ModuleNames(checkpoint.tensors.map(\.name.text))
    return try Checkpoint.open(fixture(file)).tensors.filter { $0.name.text.hasPrefix(kind) }.map { tensor in
      let index = try #require(names.index(of: String(tensor.name.text.dropFirst(kind.count))), "\(tensor.name.text)")
      return (tensor, checkpoint.tensors[index])
    }
  }

  @Test("into float32 gives what PEFT gives, and touches nothing else", arguments: cases)
  func float32(_ adapter: String, _ base: String) throws {
    let before = try Checkpoint.open(fixture("models/" + base))
    let (report, merged) = try merge(before.path, [(adapter, 1)], to: "out")
    let pairs = try Self.expected("merged/\(adapter).safetensors", "fp32/", in: merged)
    #expect(!pairs.isEmpty)
    for (expected, found) in pairs {
      for (x, y) in zip(try values(expected), try values(found)) {
        #expect(abs(x - y) <= 1e-6 + 4 * x.ulp, "\(found.name.text)")
      }
    }
    let changed = Set(pairs.map(\.1.name))
    for (old, new) in zip(before.tensors, merged.tensors) where !changed.contains(new.name) {
      #expect(old.name == new.name)
      #expect(try values(old) == values(new), "\(old.name.text)")
    }
    for tensor in report.changed { #expect(abs(tensor.sums.survival - 1) < 1e-4, "\(tensor.name)") }
  }

  @Test("into bfloat16 rounds once", arguments: cases)
  func bfloat16(_ adapter: String, _ base: String) throws {
    var spec = try OutputSpec(path: folder.file("base"), format: nil, default: .safetensors)
    spec.force = true
    _ = try StreamJob.dequantize(Checkpoint.open(fixture("models/" + base)), dtype: .bf16, to: spec).run()
    let (_, merged) = try merge(folder.file("base"), [(adapter, 1)], to: "out")
    var identical = 0, all = 0
    for (expected, found) in try Self.expected("merged/\(adapter).safetensors", "bf16/", in: merged) {
      #expect(found.dtype == .bf16)
      let exact = try values(expected)
      let ulp: Float = 0x1p-7
      for (x, y) in zip(exact, try values(found)) {
        // PEFT rounds embeddings twice, their delta first.
        let slack = adapter == "dec_embedding" ? 0.01 : max(abs(x), .leastNormalMagnitude) * ulp
        #expect(abs(x - y) <= slack)
        if x == y { identical += 1 }
        all += 1
      }
    }
    if adapter != "dec_embedding", all > 0 { #expect(Double(identical) >= 0.999 * Double(all)) }
  }

  @Test("into 4 bits gives PEFT's codes", arguments: ["dec_all_linear_patterns", "dec_dora", "dec_lora_qv"])
  func fourBits(_ adapter: String) throws {
    let (_, merged) = try merge(fixture("models/llama-bnb-nf4-dq"), [(adapter, 1)], to: "out", format: .bnb) {
      $0.packing.bnbRules = .cpu
    }
    let expected = try TensorFile(fixture("merged4bit/\(adapter).safetensors"))
    func stored(_ tensor: StoredTensor, _ kind: SectionKind) throws -> [Int] {
      guard case .file(let file, let offset)? = tensor.section(kind)?.source, let length = tensor.section(kind)?.storedLength
      else {
        return []
      }
      return try file.bytes(at: offset, count: length).map { Int($0) }
    }
    var compared = 0
    for tensor in merged.packed {
      guard let codes = expected.tensor("codes/" + tensor.name.text), let scales = expected.tensor("scales/" + tensor.name.text)
      else {
        continue
      }
      compared += 1
      #expect(try stored(tensor, .codes) == expected.integers(codes))
      #expect(try stored(tensor, .scaleCodes) == expected.integers(scales))
    }
    #expect(compared >= 4)
  }

  @Test("adds up several adapters by weight, exactly")
  func weightedSum() throws {
    let base = try Checkpoint.open(fixture("models/llama"))
    let names = [("dec_lora_qv", 0.5), ("dec_rslora", -1.25)]
    let (_, merged) = try merge(base.path, names.map { ($0.0, $0.1) }, to: "both")
    let single = try names.map { try merge(base.path, [($0.0, 1)], to: $0.0).output }
    for tensor in base.tensors {
      let before = try values(tensor), after = try values(#require(merged.tensor(tensor.name)))
      let parts = try single.map { try values(#require($0.tensor(tensor.name))) }
      for i in before.indices {
        let sum = zip(parts, names).reduce(before[i]) { $0 + Float($1.1.1) * ($1.0[i] - before[i]) }
        #expect(abs(after[i] - sum) <= 1e-5 * max(1, abs(sum)))
      }
    }
  }

  @Test(
    "reports the survival that the files show", arguments: [OutputFormat.nbl, .bnb, .safetensors], ["llama", "llama-bnb-nf4-dq"])
  func survival(_ format: OutputFormat, _ base: String) throws {
    let source = try Checkpoint.open(fixture("models/" + base))
    let output = format == .nbl ? "out.nbl" : "out"
    let (report, merged) = try merge(source.path, [("dec_lora_qv", 0.3)], to: output, format: format) { $0.minimumSurvival = 0 }
    // The same without the adapter, and the sum in float32.
    let without = folder.file(format == .nbl ? "without.nbl" : "without")
    let spec = try OutputSpec(path: without, format: format, default: .safetensors)
    switch (source.packed.isEmpty, format) {
    case (_, .safetensors): _ = try StreamJob.dequantize(source, dtype: nil, to: spec).run()
    case (true, _): _ = try StreamJob.quantize(source, QuantizeOptions(), to: spec).run()
    case (false, _): _ = try StreamJob.convert(source, to: spec).run()
    }
    let plain = try OutputSpec(path: folder.file("plain"), format: .safetensors, default: .safetensors)
    _ = try StreamJob.dequantize(source, dtype: .f32, to: plain).run()
    let (_, exact) = try merge(folder.file("plain"), [("dec_lora_qv", 0.3)], to: "exact")
    let plainBase = try Checkpoint.open(folder.file("plain")), outputBase = try Checkpoint.open(without)
    #expect(report.changed.count == 4)
    for tensor in report.changed {
      let name = ByteName(tensor.name)
      let (w, x, y, z) = (
        try values(#require(outputBase.tensor(name))), try values(#require(merged.tensor(name))),
        try values(#require(plainBase.tensor(name))), try values(#require(exact.tensor(name)))
      )
      var kept = 0.0, delta = 0.0, noise = 0.0, signal = 0.0
      for i in w.indices {
        let d = Double(z[i]) - Double(y[i]), moved = Double(x[i]) - Double(w[i])
        kept += moved * d
        delta += d * d
        noise += (moved - d) * (moved - d)
        signal += Double(w[i]) * Double(w[i])
      }
      #expect(abs(kept / delta - tensor.sums.survival) < 1e-3)
      #expect(abs((delta / signal).squareRoot() - tensor.sums.relativeDelta) < 1e-4)
      #expect(abs((noise / signal).squareRoot() - tensor.sums.relativeNoise) < 1e-4)
    }
  }

  @Test("that rounding would erase is refused, and nothing is written")
  func erased() throws {
    let error = #expect(throws: NibbleError.self) {
      try merge(fixture("models/llama-bnb-nf4-dq"), [("dec_lora_qv", 0.005)], to: "out.nbl", format: .nbl)
    }
    #expect(error?.kind == .quality)
    #expect(error?.message.contains("4 of 4 changed tensors would keep less than 0.5 of their change") == true)
    #expect(folder.contents.isEmpty)
    let (report, _) = try merge(fixture("models/llama-bnb-nf4-dq"), [("dec_lora_qv", 0.005)], to: "out.nbl", format: .nbl) {
      $0.minimumSurvival = 0
    }
    #expect(report.change.survival < 0.5)
    #expect(report.warnings.contains { $0.message.contains("keep less than 0.9 of their change") })
  }

  @Test(
    "what is refused names ways that were not tried, and a share that reads as less than what was asked",
    arguments: [
      (WhenLost.fail, OutputFormat.nbl, "promote, 16bit, shape, calibrated or keep"), (.shape, .nbl, "calibrated, promote, 16bit or keep"),
      (.promote, .nbl, "16bit or keep"), (.fail, .bnb, "16bit, shape, calibrated or keep"), (.shape, .bnb, "calibrated, 16bit or keep"),
    ])
  func otherWays(_ tried: WhenLost, _ format: OutputFormat, _ ways: String) throws {
    var job = try StreamJob.merge(
      Checkpoint.open(fixture("models/llama-bnb-nf4-dq")), MergeOptions([.init(Self.adapter("dec_lora_qv"), weight: 1)]),
      to: OutputSpec(path: folder.file("out"), format: format, default: .nbl))
    job.changing.whenLost = tried
    job.changing.minimumSurvival = { _ in 0.9999999 }
    let refused = job
    let error = #expect(throws: NibbleError.self) { try refused.run() }
    #expect(error?.kind == .quality && error?.message.contains("whenLost \(ways)") == true, "\(error?.message ?? "")")
    let share = error?.message.components(separatedBy: ", keeps ").last?.split(separator: " ").first.flatMap { Double($0) }
    #expect(try #require(share) < 0.9999999)
    #expect(folder.contents.isEmpty)
  }

  @Test(
    "that rounding would erase is kept by other means",
    arguments: [(WhenLost.shape, OutputFormat.nbl), (.shape, .bnb), (.sixteenBits, .nbl), (.sixteenBits, .bnb), (.promote, .nbl)])
  func whenLost(_ way: WhenLost, _ format: OutputFormat) throws {
    let base = try Checkpoint.open(fixture("models/llama-bnb-nf4-dq"))
    var job = try StreamJob.merge(
      base, MergeOptions([.init(Self.adapter("dec_lora_qv"), weight: 0.02)]),
      to: OutputSpec(path: folder.file(format == .nbl ? "out.nbl" : "out"), format: format, default: .nbl))
    job.changing.whenLost = way
    let report = try job.run()
    let merged = try Checkpoint.open(job.output.path)
    #expect(report.changed.count == 4)
    for tensor in report.changed {
      #expect(tensor.sums.survival > 0.7, "\(tensor.name)")
      let name = ByteName(tensor.name)
      let written = try #require(merged.tensor(name))
      #expect(written.encoding.name == [.shape: "nf4", .promote: "int8", .sixteenBits: "plain"][way])
      #expect(tensor.isShaped == (way == .shape))
      // What the file holds is what was reported.
      let before = try values(#require(base.tensor(name))), after = try values(written)
      let moved = zip(after, before).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }.squareRoot()
      let size = before.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
      #expect(moved / size < 0.2)
      #expect(moved > 0)
    }
    #expect(try merged.verify().nonfinite.isEmpty)
  }

  @Test("into a packed base keeps to the way its scales were chosen", arguments: StreamJob.Encoder.allCases)
  func encoders(_ encoder: StreamJob.Encoder) throws {
    var options = QuantizeOptions()
    options.encoder = encoder
    let spec = try OutputSpec(path: folder.file("base.nbl"), format: nil, default: .nbl)
    _ = try StreamJob.quantize(Checkpoint.open(fixture("models/llama")), options, to: spec).run()
    var base = spec.path
    for output in ["once.nbl", "twice.nbl"] {
      let (report, merged) = try merge(base, [("dec_lora_qv", 0.02)], to: output, format: .nbl) { $0.minimumSurvival = 0 }
      // Other scales would move every weight, by some 0.06 of it.
      for tensor in report.changed {
        #expect((tensor.sums.noise / tensor.sums.base).squareRoot() < 0.03, "\(tensor.name)")
      }
      #expect(merged.provenance?["options"]?["encoder"]?.string == (encoder == .absmax ? nil : encoder.rawValue))
      base = folder.file(output)
    }
    // That is what scales that are always positive do to blocks whose scale was negative.
    let (report, _) = try merge(spec.path, [("dec_lora_qv", 0.02)], to: "absmax.nbl", format: .nbl) {
      $0.minimumSurvival = 0
      $0.packing.encoder = .absmax
    }
    for tensor in report.changed {
      #expect(((tensor.sums.noise / tensor.sums.base).squareRoot() > 0.03) == (encoder == .mseSigned), "\(tensor.name)")
    }
  }

  @Test("goes on from what was promoted, and from rows of bytes")
  func rowsOfBytes() throws {
    let base = try Checkpoint.open(fixture("models/gpt2"))
    var options = QuantizeOptions()
    options.codec = .int8
    _ = try StreamJob.quantize(base, options, to: OutputSpec(path: folder.file("rows.nbl"), format: nil, default: .nbl)).run()
    let rows = try Checkpoint.open(folder.file("rows.nbl"))
    let (report, merged) = try merge(rows.path, [("gpt2_c_attn", 0.1)], to: "out.nbl")
    let (_, exact) = try merge(base.path, [("gpt2_c_attn", 0.1)], to: "exact")
    for changed in report.changed {
      #expect(changed.sums.survival > 0.9 && changed.sums.survival < 1.1)
      let tensor = try #require(merged.tensor(ByteName(changed.name)))
      #expect(tensor.encoding == .int8 && tensor.isTransposed)
    }
    let plain = try OutputSpec(path: folder.file("plain"), format: .safetensors, default: .safetensors)
    _ = try StreamJob.dequantize(merged, dtype: nil, to: plain).run()
    let back = try Checkpoint.open(plain.path)
    for (x, y) in zip(exact.tensors, back.tensors) {
      let a = try values(x), b = try values(y)
      let error = zip(a, b).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
      #expect(error.squareRoot() < 0.02 * a.reduce(0.0) { $0 + Double($1 * $1) }.squareRoot() + 1e-6)
    }
  }

  @Test("into a plain output from codes that are stored transposed")
  func transposed() throws {
    let (report, merged) = try merge(fixture("models/gpt2-bnb-nf4-dq"), [("gpt2_c_attn", 1)], to: "out", format: .safetensors)
    let plain = try OutputSpec(path: folder.file("plain"), format: .safetensors, default: .safetensors)
    _ = try StreamJob.dequantize(Checkpoint.open(fixture("models/gpt2-bnb-nf4-dq")), dtype: nil, to: plain).run()
    let (other, expected) = try merge(folder.file("plain"), [("gpt2_c_attn", 1)], to: "expected")
    #expect(report.identity == other.identity)
    #expect(report.changed.map(\.name) == other.changed.map(\.name))
    #expect(expected.tensors.map(\.shape) == merged.tensors.map(\.shape))
  }

  @Test("onto the values of the base's 4-bit form", arguments: ["nf4:block=128", "nf4:block=128:mse-signed"])
  func trainedOn(_ form: String) throws {
    let base = try Checkpoint.open(fixture("models/gpt2"))
    let packed = try base.packedForm(QuantizeOptions(trainedOn: form), beside: folder.file("out"), threads: 2)
    #expect(folder.contents.isEmpty)
    var spec = try OutputSpec(path: folder.file("out"), format: .safetensors, default: .safetensors)
    let report = try StreamJob.merge(packed, MergeOptions([.init(Self.adapter("gpt2_c_attn"))]), to: spec).run()
    spec.path = folder.file("q.nbl")
    spec.format = .nbl
    _ = try StreamJob.quantize(base, QuantizeOptions(trainedOn: form), to: spec).run()
    let (other, _) = try merge(folder.file("q.nbl"), [("gpt2_c_attn", 1)], to: "expected", format: .safetensors)
    #expect(report.identity == other.identity)
    for bad in ["int3", "nf4:group=32", "nf4:block=3", "nf4:x", "nf4:signed", ""] {
      #expect(throws: NibbleError.self) { try QuantizeOptions(trainedOn: bad) }
    }
    #expect(throws: NibbleError.self) { try packed.packedForm(QuantizeOptions(), beside: folder.file("x"), threads: 1) }
  }

  @Test("can be taken back, as far from the original as is said", arguments: [DType.f32, .bf16])
  func unmerge(_ dtype: DType) throws {
    var spec = try OutputSpec(path: folder.file("base"), format: nil, default: .safetensors)
    _ = try StreamJob.dequantize(Checkpoint.open(fixture("models/llama")), dtype: dtype, to: spec).run()
    let base = try Checkpoint.open(folder.file("base"))
    let (_, merged) = try merge(base.path, [("dec_lora_qv", 0.7)], to: "merged")
    spec.path = folder.file("again")
    let report = try StreamJob.unmerge(merged, [.init(Self.adapter("dec_lora_qv"), weight: 0.7)], to: spec).run()
    let again = try Checkpoint.open(spec.path)
    var error = 0.0, size = 0.0
    for tensor in report.changed {
      let name = ByteName(tensor.name)
      for (x, y) in zip(try values(#require(base.tensor(name))), try values(#require(again.tensor(name)))) {
        error += Double(x - y) * Double(x - y)
        size += Double(x) * Double(x)
      }
    }
    let distance = (error / size).squareRoot()
    #expect(distance <= 1.5 * report.originalDistance)
    #expect(distance < (dtype == .f32 ? 1e-6 : 4e-3))
    spec.path = folder.file("no")
    for adapter in ["dec_dora", "roberta_cls"] {
      #expect(throws: NibbleError.self) { try StreamJob.unmerge(merged, [.init(Self.adapter(adapter))], to: spec) }
    }
    let packed = try Checkpoint.open(fixture("models/llama-bnb-nf4-dq"))
    #expect(throws: NibbleError.self) { try StreamJob.unmerge(packed, [.init(Self.adapter("dec_lora_qv"))], to: spec) }
  }

  /// An adapter of the fixture as a folder.
  func combinable(_ name: String, rank: Int, alpha: Int) throws -> AdapterFile {
    let file = try TensorFile(fixture("combine.safetensors"))
    let tensors = try Checkpoint.open(fixture("combine.safetensors")).tensors.filter { $0.name.text.hasPrefix("in.\(name)/") }
    let config = #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": \#(alpha), "target_modules": ["q_proj", "v_proj"]}"#
    try folder.write(name + "/adapter_config.json", config)
    let writer = try TensorFile.Writer(
      tensors.map { (String($0.name.text.dropFirst(name.count + 4)), $0.shape) },
      to: folder.file(name + "/adapter_model.safetensors"),
      force: true)
    for tensor in tensors {
      try file.floats(tensor).withUnsafeBufferPointer {
        try writer.add($0, to: String(tensor.name.text.dropFirst(name.count + 4)))
      }
    }
    try writer.finish()
    return try AdapterFile.open(folder.file(name))
  }

  @Test(
    "combines as PEFT does where that is asked for",
    arguments: [
      ("linear", MergeOptions.Method.linear, [0.7, 0.4]), ("linear_negative", .linear, [1, -0.5]),
      ("cat", .cat, [0.7, 0.4, -0.3]), ("svd", .svd, [0.7, 0, 0.4]), ("svd_rank3", .svd, [0.7, 0, 0.4]),
      ("ties", .ties, [0.7, 0.4]), ("ties_frequency", .ties, [0.7, 0.4]), ("magnitude_prune", .magnitudePrune, [0.7, 0.4]),
    ])
  func combine(_ name: String, _ method: MergeOptions.Method, _ weights: [Double]) throws {
    let inputs = zip([("a0", 4, 8), ("a1", 4, 16), ("a2", 6, 8)], weights).filter { $1 != 0 }
    var options = MergeOptions(
      try inputs.map { .init(try combinable($0.0, rank: $0.1, alpha: $0.2), weight: $1) })
    if name == "svd_rank3" { options.svdRank = 3 }
    if method.prunes { options.density = name == "ties_frequency" ? 0.3 : 0.5 }
    if name == "ties_frequency" { options.majoritySign = .frequency }
    options.method = method
    let base = try Checkpoint.open(fixture("models/llama"))
    let spec = try OutputSpec(path: folder.file("out"), format: nil, default: .safetensors)
    let report = try StreamJob.merge(base, options, to: spec, check: MergeCheck()).run()
    #expect(report.warnings.contains { $0.message.contains("not the sum of the deltas") } == !method.isSum)
    let merged = try Checkpoint.open(spec.path)
    let golden = try TensorFile(fixture("combine.safetensors"))
    #expect(report.changed.count == 4)
    for changed in report.changed {
      let module = String(changed.name.dropLast(".weight".count))
      let before = try values(#require(base.tensor(ByteName(changed.name)))),
        after = try values(#require(merged.tensor(ByteName(changed.name))))
      var delta = [Double](repeating: 0, count: before.count)
      if let whole = golden.tensor("\(name)/delta/\(module)") {
        delta = try golden.floats(whole).map(Double.init)
      } else {
        let a = try #require(golden.tensor("\(name)/base_model.model.\(module).lora_A.weight"))
        let b = try #require(golden.tensor("\(name)/base_model.model.\(module).lora_B.weight"))
        let (x, y) = (try golden.floats(a), try golden.floats(b))
        let (rank, inputs) = (a.shape[0], a.shape[1])
        for i in 0..<b.shape[0] {
          for j in 0..<inputs {
            for k in 0..<rank { delta[i * inputs + j] += Double(y[i * rank + k]) * Double(x[k * inputs + j]) }
          }
        }
      }
      for i in before.indices { #expect(abs(Double(after[i]) - Double(before[i]) - delta[i]) < 2e-6) }
    }
  }

  @Test("of a zero adapter says so")
  func dead() throws {
    let (report, _) = try merge(fixture("models/llama"), [("dec_lora_qv", 0)], to: "out")
    #expect(report.warnings.contains { $0.message.contains("4 of 4 adapted tensors") })
  }

  @Test("gives the same bytes with any number of threads", arguments: [OutputFormat.nbl, .safetensors])
  func threads(_ format: OutputFormat) throws {
    let ending = format == .nbl ? ".nbl" : ".safetensors"
    for threads in [1, 2, 5] {
      _ = try merge(fixture("models/gpt2"), [("gpt2_dora", 1)], to: "\(threads)\(ending)", format: format, threads: threads)
    }
    let one = try bytes(of: folder.file("1" + ending))
    #expect(try one == bytes(of: folder.file("2" + ending)) && one == bytes(of: folder.file("5" + ending)))
  }

  @Test(
    "of another model's adapter is refused",
    arguments: [("gpt2_c_attn", "llama"), ("dec_lora_qv", "gpt2"), ("roberta_cls", "llama")])
  func mismatch(_ adapter: String, _ base: String) throws {
    let error = #expect(throws: NibbleError.self) { try merge(fixture("models/" + base), [(adapter, 1)], to: "out") }
    #expect(error?.kind == .adapterMismatch)
    #expect(folder.contents.isEmpty)
  }
}
