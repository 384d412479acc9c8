import NibbleAdapters
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("Adapters in other programs' layouts")
struct ConversionTests {
  let folder = TemporaryFolder()

  func base(_ name: String) throws -> Checkpoint { try Checkpoint.open(fixture("models/" + name)) }

  @discardableResult
  func convert(_ path: String, _ layout: AdapterConversion.Layout, _ output: String, base: String? = "llama") throws
    -> AdapterConversion.Report
  {
    try AdapterConversion(path, to: layout, base: base.map { try self.base($0) }).write(to: folder.file(output), force: false)
  }

  static let cases: [(adapter: String, base: String)] = MergeTests.cases.filter {
    ["dec_all_linear_patterns", "dec_dora", "dec_embedding", "dec_lora_qv", "dec_rslora", "gpt2_c_attn", "gpt2_dora"].contains(
      $0.adapter)
  }

  @Test("come back from each as they were: every module's change, every magnitude", arguments: cases)
  func thereAndBack(_ adapter: String, _ base: String) throws {
    let file = try MergeTests.adapter(adapter)
    for layout in [AdapterConversion.Layout.mlx, .gguf] where layout == .mlx || file.config.methodName != "DoRA" {
      let out = layout == .gguf ? "out.gguf" : "out", back = "back-" + layout.rawValue
      let report = try convert(file.path, layout, out, base: base)
      #expect(report.modules == file.modules.count && report.difference < 1e-7)
      try convert(folder.file(out), .peft, back, base: base)
      let again = try AdapterFile.open(folder.file(back))
      #expect(again.warnings.isEmpty && again.config.method == file.config.method)
      for (x, y) in zip(file.modules, again.modules) {
        #expect(x.path == y.path && x.isEmbedding == y.isEmbedding)
        for (a, b) in zip(try delta(x), try delta(y)) { #expect(abs(a - b) < 1e-6) }
        if let m = x.parts[DoRA.magnitude] { #expect(try values(m) == values(#require(y.parts[DoRA.magnitude]))) }
      }
    }
  }

  @Test("of one rank and scale are the very same numbers")
  func exact() throws {
    let adapter = fixture("adapters/dec_lora_qv")
    try convert(adapter, .gguf, "a.gguf")
    try convert(folder.file("a.gguf"), .mlx, "a")
    #expect(try convert(folder.file("a"), .peft, "back").difference == 0)
    for (x, y) in zip(try AdapterFile.open(adapter).modules, try AdapterFile.open(folder.file("back")).modules) {
      let (own, other) = (try factors(x), try factors(y))
      #expect(own.a == other.a && own.b == other.b && x.scale == y.scale)
    }
  }

  @Test("an adapter of the model without its head gets the names of the language model")
  func bareModel() throws {
    var tensors = SafetensorsBuilder()
    for name in ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"] {
      tensors.add(random: "base_model.model.\(name).lora_A.weight", [2, 6])
      tensors.add(random: "base_model.model.\(name).lora_B.weight", [4, 2])
    }
    _ = try folder.write("bare/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write("bare/adapter_config.json", #"{"peft_type": "LORA", "r": 2}"#)
    _ = try AdapterConversion(folder.file("bare"), to: .mlx).write(to: folder.file("mlx"), force: false)
    let names = try Checkpoint.open(folder.file("mlx/adapters.safetensors")).tensors.map(\.name.text)
    #expect(names.filter { $0.hasPrefix("model.layers.") }.count == 4)
    _ = try AdapterConversion(folder.file("mlx"), to: .peft).write(to: folder.file("back"), force: false)
    let back = try AdapterFile.open(folder.file("back")).modules.map(\.path)
    #expect(back == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"])
  }

  @Test("keep what they were trained on", arguments: [AdapterConversion.Layout.gguf, .mlx])
  func binding(_ layout: AdapterConversion.Layout) throws {
    let identity = String(repeating: "7", count: 32)
    var factors = SafetensorsBuilder()
    factors.add("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", [1, 64], [Float](repeating: 1, count: 64))
    factors.add("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", [64, 1], [Float](repeating: 1, count: 64))
    factors.metadata = [("nibble_adapter", #"{"base": "\#(identity)"}"#)]
    _ = try folder.write("in/adapter_model.safetensors", factors.bytes)
    _ = try folder.write("in/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#)
    let out = layout == .gguf ? "o.gguf" : "o"
    try convert(folder.file("in"), layout, out)
    try convert(folder.file(out), .peft, "back")
    #expect(try AdapterFile.open(folder.file("back")).binding?.base.description == identity)
  }

  @Test(
    "what a layout cannot say is refused by name, and nothing is written",
    arguments: [
      ("gpt2_dora", AdapterConversion.Layout.gguf, "gpt2", "DoRA"), ("gpt2_bias_all", .mlx, "gpt2", "trained whole"),
      ("gpt2_lora_bias", .gguf, "gpt2", "uses lora_bias"), ("resnet_conv", .mlx, "resnet", "convolution"),
      ("roberta_cls", .gguf, "roberta", "model_type 'roberta'"), ("roberta_cls", .mlx, "roberta", "trained whole"),
    ])
  func refused(_ adapter: String, _ layout: AdapterConversion.Layout, _ base: String, _ words: String) throws {
    let error = #expect(throws: NibbleError.self) {
      try convert(fixture("adapters/" + adapter), layout, layout == .gguf ? "o.gguf" : "o", base: base)
    }
    #expect(error?.kind == .usage && error?.message.contains(words) == true, "\(error?.message ?? "")")
    #expect(folder.contents.isEmpty)
  }

  @Test("without the base, a weight beside factors is not called the base's own, only taken for it")
  func ownWeight() throws {
    let adapter = fixture("adapters/dec_embedding")
    let (reported, checked) = (try convert(adapter, .mlx, "a", base: nil), try convert(adapter, .mlx, "b"))
    #expect(reported.warnings.contains { $0.message.contains("taken for the base's own weight, which base would check") })
    #expect(checked.warnings.contains { $0.message.contains("it is the base's own weight") })
  }

  @Test("an adapter for another base does not fit", arguments: [AdapterConversion.Layout.gguf, .mlx])
  func mismatch(_ layout: AdapterConversion.Layout) throws {
    let out = layout == .gguf ? "o.gguf" : "o"
    let error = #expect(throws: NibbleError.self) { try convert(fixture("adapters/dec_lora_qv"), layout, out, base: "gpt2") }
    #expect(error?.kind == .adapterMismatch)
    try convert(fixture("adapters/dec_lora_qv"), layout, out)
    let other = #expect(throws: NibbleError.self) { try convert(folder.file(out), .peft, "back", base: "gpt2") }
    #expect(other?.kind == .adapterMismatch)
    #expect(folder.contents == [out])
  }

  // MARK: - Hostile files

  /// Puts together a GGUF file as a test wants it.
  struct Gguf {
    var version: UInt32 = 3
    var keys: [(String, UInt32, [UInt8])] = [
      ("general.architecture", 8, text("llama")), ("general.type", 8, text("adapter")), ("adapter.type", 8, text("lora")),
      ("adapter.lora.alpha", 6, littleEndian(Float(2).bitPattern)),
    ]
    var tensors: [(name: String, dimensions: [UInt64], type: UInt32, offset: UInt64)] = [
      ("blk.0.attn_v.weight.lora_a", [64, 2], 0, 0), ("blk.0.attn_v.weight.lora_b", [2, 32], 0, 512),
    ]
    var data = [UInt8](repeating: 0, count: 768)
    var tensorCount: UInt64?
    var keyCount: UInt64?

    static func text(_ text: String) -> [UInt8] { littleEndian(UInt64(text.utf8.count)) + Array(text.utf8) }

    var bytes: [UInt8] {
      var bytes = Array("GGUF".utf8) + littleEndian(version) + littleEndian(tensorCount ?? UInt64(tensors.count))
      bytes += littleEndian(keyCount ?? UInt64(keys.count))
      for (key, type, value) in keys { bytes += Self.text(key) + littleEndian(type) + value }
      for tensor in tensors {
        bytes += Self.text(tensor.name) + littleEndian(UInt32(tensor.dimensions.count))
        bytes += tensor.dimensions.flatMap { littleEndian($0) } + littleEndian(tensor.type) + littleEndian(tensor.offset)
      }
      return bytes + [UInt8](repeating: 0, count: (32 - bytes.count % 32) % 32) + data
    }
  }

  func read(_ gguf: [UInt8]) throws {
    try folder.write("bad.gguf", gguf)
    _ = try AdapterConversion(folder.file("bad.gguf"), to: .peft, base: base("llama")).report()
  }

  @Test("a GGUF file that is as it should be is read, and none that is cut")
  func cut() throws {
    let whole = Gguf().bytes
    try read(whole)
    for count in 4..<whole.count where count < 420 || count % 64 == 0 {
      let error = #expect(throws: NibbleError.self, "\(count)") { try read(Array(whole[..<count])) }
      #expect(error?.kind == .badInput)
    }
  }

  static let broken: [(String, @Sendable (inout Gguf) -> Void)] = [
    ("version 1", { $0.version = 1 }), ("big-endian", { $0.version = 3 << 24 }),
    ("tensors and", { $0.tensorCount = 1 << 40 }), ("the number", { $0.keyCount = .max }),
    ("adapter was expected", { $0.keys[1].2 = Gguf.text("model") }), ("adapter.type", { $0.keys[2].2 = Gguf.text("ia3") }),
    ("alpha", { $0.keys[3].2 = littleEndian(Float.nan.bitPattern) }),
    ("alpha", { $0.keys[3] = ("adapter.lora.alpha", 8, Gguf.text("4")) }), ("twice", { $0.keys.append($0.keys[0]) }),
    ("alora", { $0.keys.append(("adapter.alora.invocation_tokens", 9, littleEndian(UInt32(4)) + littleEndian(UInt64(0)))) }),
    ("lists in lists", { $0.keys.append(("l", 9, (0..<9).flatMap { _ in littleEndian(UInt32(9)) + littleEndian(UInt64(1)) })) }),
    ("cut", { $0.keys.append(("l", 9, littleEndian(UInt32(8)) + littleEndian(UInt64.max >> 1))) }),
    ("of an unknown type, 99", { $0.keys.append(("l", 99, [])) }),
    ("UTF-8", { $0.keys.append(("l", 8, littleEndian(UInt64(1)) + [0xFF])) }),
    ("power of two", { $0.keys.append(("general.alignment", 4, littleEndian(UInt32(48)))) }),
    ("is there twice", { $0.tensors[1] = $0.tensors[0] }), ("dimensions", { $0.tensors[0].dimensions = [] }),
    ("cannot have the shape", { $0.tensors[0].dimensions = [1 << 62, 1 << 62] }),
    ("cannot have the shape", { $0.tensors[0].dimensions = [0, 2] }), ("ggml's type 40", { $0.tensors[0].type = 40 }),
    ("cannot have the shape", { $0.tensors[0] = ("blk.0.attn_v.weight.lora_a", [31, 2], 8, 0) }),
    ("leaves a hole", { $0.tensors[1].offset = 1 << 40 }), ("leaves a hole", { $0.tensors[1].offset = UInt64(Int.max) / 32 * 32 }),
    ("it is cut", { $0.data.removeLast(32) }),
    ("no multiple", { $0.tensors[1].offset = 500 }), ("overlaps", { $0.tensors[1].offset = 480 }),
    ("no module", { $0.tensors[0].name = "blk.0.attn_x.weight.lora_a" }),
    ("no module", { $0.tensors[0].name = "blk.-1.attn_v.weight.lora_a" }), ("no lora_b", { $0.tensors.removeLast(); $0.data.removeLast(256) }),
    (
      "no factor",
      {
        $0.tensors[1] = ("blk.0.attn_norm.weight", [2, 32], 0, 0); $0.tensors.removeFirst(); $0.data.removeLast(512)
      }
    ),
    ("factors of shapes", { $0.tensors[1].dimensions = [4, 16] }), ("no tensors", { ($0.tensors, $0.data) = ([], []) }),
  ]

  @Test("a GGUF file that is wrong anywhere is refused with what is wrong", arguments: broken.indices)
  func hostile(_ index: Int) throws {
    let (words, change) = Self.broken[index]
    var gguf = Gguf()
    change(&gguf)
    let error = #expect(throws: NibbleError.self, "\(words)") { try read(gguf.bytes) }
    #expect(error?.kind == .badInput && error?.message.contains(words) == true, "\(words): \(error?.message ?? "")")
  }

  @Test("what is wrong with factors is said of the file")
  func badFactors() throws {
    func refuse(_ kind: NibbleError.Kind, _ change: (inout Gguf) -> Void) {
      var gguf = Gguf()
      change(&gguf)
      let error = #expect(throws: NibbleError.self) { try read(gguf.bytes) }
      #expect(error?.kind == kind && error?.path == folder.file("bad.gguf"), "\(error?.message ?? "")")
    }
    refuse(.quality) { $0.data.replaceSubrange(0..<4, with: littleEndian(Float.nan.bitPattern)) }
    refuse(.adapterMismatch) {
      $0.tensors = [("blk.0.attn_q.weight.lora_a", [64, 2], 0, 0), ("blk.0.attn_q.weight.lora_b", [2, 30], 0, 512)]
    }
  }

  @Test(
    "mlx-lm's folders that are wrong are refused with what is wrong",
    arguments: [
      (#"{"fine_tune_type": "full"}"#, "fine_tune_type"), (#"{"lora_parameters": {"rank": 2}}"#, "rank and a scale"),
      (#"{"lora_parameters": {"rank": 2, "scale": 1, "alpha": 16}}"#, "alpha beside scale"),
      (#"{"lora_parameters": {"rank": 3, "scale": 1}}"#, "where the rank is 3"),
      (#"{"fine_tune_type": "dora", "lora_parameters": {"rank": 2, "scale": 1}}"#, "m of shape"),
      (#"{"lora_parameters": {"rank": 2, "scale": 1e400}}"#, "rank and a scale"), ("[", "byte"),
    ])
  func hostileMLX(_ config: String, _ words: String) throws {
    var factors = SafetensorsBuilder()
    factors.add(random: "model.layers.0.self_attn.v_proj.lora_a", [64, 2])
    factors.add(random: "model.layers.0.self_attn.v_proj.lora_b", [2, 32])
    _ = try folder.write("in/adapters.safetensors", factors.bytes)
    _ = try folder.write("in/adapter_config.json", config)
    let error = #expect(throws: NibbleError.self) { try convert(folder.file("in"), .peft, "out", base: nil) }
    #expect(error?.kind == .badInput && error?.message.contains(words) == true, "\(error?.message ?? "")")
    #expect(folder.contents == ["in"])
  }
}
