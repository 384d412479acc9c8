import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Folders in the layouts of GPTQ, AWQ and MLX")
struct EngineLayoutTests {
  let folder = TemporaryFolder()

  private func quantized(_ name: String, _ format: OutputFormat, _ size: Int, _ zeros: Int4Groups.Zero) throws -> Checkpoint {
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "int4")
    (options.groupSize, options.zeros) = (size, zeros)
    _ = try StreamJob.quantize(
      try Checkpoint.open(fixture("models/llama")), options, to: OutputSpec(path: folder.file(name), format: format, default: .nbl)
    ).run()
    return try Checkpoint.open(folder.file(name))
  }

  @discardableResult
  private func convert(_ source: Checkpoint, _ name: String, _ format: OutputFormat, resumes: Bool = false) throws -> Checkpoint {
    var job = try StreamJob.convert(source, to: OutputSpec(path: folder.file(name), format: format, default: .nbl))
    job.resumes = resumes
    let predicted = job.prediction()
    let report = try job.run()
    #expect(!predicted.isExact || predicted.outputBytes == report.bytesOut)
    return try Checkpoint.open(folder.file(name))
  }

  static let layouts: [(OutputFormat, Int, Int4Groups.Zero)] = [
    (.gptq, 32, .none), (.gptq, 0, .none), (.gptq, 64, .int), (.compressedTensors, 32, .int), (.compressedTensors, 0, .int),
    (.mlx, 32, .offset), (.mlx, 64, .offset),
  ]

  @Test("hold what the block file holds: the same identity, back to the same block file, and the same folder from it", arguments: layouts)
  func thereAndBack(_ format: OutputFormat, _ size: Int, _ zeros: Int4Groups.Zero) throws {
    let block = try quantized("a.nbl", .nbl, size, zeros)
    // MLX's scales are of the model's type, which the block file's need not be.
    let layout = try convert(block, "a", format)
    #expect(layout.ownFormat == format && layout.packed.count == 14)
    #expect(try layout.verify().identity == block.claimedIdentity && layout.hash() == block.claimedIdentity)
    try convert(layout, "b.nbl", .nbl)
    #expect(try bytes(of: folder.file("a.nbl")) == bytes(of: folder.file("b.nbl")))
    try convert(try Checkpoint.open(folder.file("b.nbl")), "c", format, resumes: true)
    #expect(try bytes(of: folder.file("a/model.safetensors")) == bytes(of: folder.file("c/model.safetensors")))
    #expect(try bytes(of: folder.file("a/config.json")) == bytes(of: folder.file("c/config.json")))
  }

  @Test("refuse what they have no place for, by name, with the option that helps, before anything is written")
  func refused() throws {
    let cases: [(OutputFormat, Int, Int4Groups.Zero, String)] = [
      (.gptq, 64, .half, "zero points of float16, which has no place among GPTQ tensors: quantize with symmetric or zeros int"),
      (.gptq, 64, .offset, "offsets, which has no place among GPTQ tensors"),
      (.compressedTensors, 64, .float, "zero points of float32, which has no place among compressed tensors"),
      (.mlx, 64, .none, "symmetric, which has no place among MLX tensors: quantize with zeros offset"),
      (.mlx, 0, .offset, "MLX has groups of [32, 64, 128]"),
    ]
    for (format, size, zeros, words) in cases {
      let error = #expect(throws: NibbleError.self) { try quantized("no", format, size, zeros) }
      #expect(error?.kind == .usage && error?.message.contains(words) == true, "\(error?.message ?? "")")
      #expect(PathKind(folder.file("no")) == .nothing)
    }
  }

  // MARK: By hand

  /// Eight codes, the first in the lowest bits.
  private func word(_ codes: [UInt32]) -> [UInt8] {
    var word: UInt32 = 0
    for (place, code) in codes.enumerated() { word |= code << UInt32(4 * place) }
    return littleEndian(word)
  }

  /// The words of codes of one output, `block` of eight inputs.
  private func inputs(_ output: Int, _ block: Int) -> [UInt8] { word((0..<8).map { UInt32((output + 8 * block + $0) % 16) }) }

  /// A folder with one weight of 8 outputs and 32 inputs in groups of 32. Code (o, i) is (o + i) % 16.
  private func byHand(_ settings: String, _ change: (inout SafetensorsBuilder) -> Void) throws -> String {
    var builder = SafetensorsBuilder()
    change(&builder)
    _ = try folder.write("h/model.safetensors", builder.bytes)
    _ = try folder.write("h/config.json", Array(#"{"model_type": "none", \#(settings)}"#.utf8))
    return folder.file("h")
  }

  private func values(_ path: String, _ dtype: DType = .f32) throws -> [Float] {
    let checkpoint = try Checkpoint.open(path)
    var found: [Float] = []
    try #require(checkpoint.tensor(ByteName("m.weight"))).forEachValues { _, values, count, _ in
      found += UnsafeBufferPointer(start: values, count: count)
    }
    return found
  }

  private func expected(_ zero: (Int) -> Float) -> [Float] {
    var values: [Float] = []
    for output in 0..<8 { for input in 0..<32 { values.append(0.5 * (Float((output + input) % 16) - zero(output))) } }
    return values
  }

  private static let half: [UInt8] = [0x00, 0x38]  // 0.5 in float16

  private func gptq(_ builder: inout SafetensorsBuilder, zeros: [UInt32]) {
    let codes: [UInt8] = (0..<4).flatMap { block in (0..<8).flatMap { inputs($0, block) } }
    builder.add("m.qweight", "I32", [4, 8], codes)
    builder.add("m.qzeros", "I32", [1, 1], word(zeros))
    builder.add("m.scales", "F16", [1, 8], [[UInt8]](repeating: Self.half, count: 8).flatMap { $0 })
  }

  private static let gptqSettings = #""bits": 4, "group_size": 32, "quant_method": "gptq""#

  @Test("GPTQ packs inputs; zero points stand as they are or less one")
  func gptqByHand() throws {
    let zeros: [UInt32] = [0, 15, 3, 4, 5, 6, 7, 8]
    let plain = try byHand(#""quantization_config": {\#(Self.gptqSettings), "checkpoint_format": "gptq_v2"}"#) { gptq(&$0, zeros: zeros) }
    #expect(try values(plain) == expected { Float(zeros[$0]) })
    let own: [UInt32] = [1, 15, 3, 4, 5, 6, 7, 8]
    let less = try byHand(#""quantization_config": {\#(Self.gptqSettings)}"#) { gptq(&$0, zeros: own.map { $0 - 1 }) }
    #expect(try values(less) == expected { Float(own[$0]) })
    #expect(try Checkpoint.open(less).packed[0].encoding.summary == "int4, groups of 32, zero points of int")
    let symmetric = try byHand(#""quantization_config": {\#(Self.gptqSettings), "sym": true}"#) {
      gptq(&$0, zeros: [UInt32](repeating: 7, count: 8))
    }
    #expect(try Checkpoint.open(symmetric).packed[0].encoding.summary == "int4, groups of 32, symmetric")
    #expect(try values(symmetric) == expected { _ in 8 })
  }

  @Test("AWQ packs outputs 0, 2, 4, 6, 1, 3, 5, 7")
  func awqByHand() throws {
    let order = [0, 2, 4, 6, 1, 3, 5, 7], zeros = (0..<8).map { UInt32($0 * 2) }
    let path = try byHand(#""quantization_config": {"bits": 4, "group_size": 32, "quant_method": "awq", "version": "gemm"}"#) { builder in
      let codes: [UInt8] = (0..<32).flatMap { input in word(order.map { UInt32(($0 + input) % 16) }) }
      builder.add("m.qweight", "I32", [32, 1], codes)
      builder.add("m.qzeros", "I32", [1, 1], word(order.map { zeros[$0] }))
      builder.add("m.scales", "F16", [1, 8], [[UInt8]](repeating: Self.half, count: 8).flatMap { $0 })
    }
    #expect(try values(path) == expected { Float(zeros[$0]) })
    #expect(try Checkpoint.open(path).ownFormat == .compressedTensors)
  }

  private func mlx(_ builder: inout SafetensorsBuilder) {
    let codes: [UInt8] = (0..<8).flatMap { output in (0..<4).flatMap { inputs(output, $0) } }
    builder.add("m.weight", "U32", [8, 4], codes)
    builder.add("m.scales", [8, 1], [Float](repeating: 0.5, count: 8))
    builder.add("m.biases", [8, 1], (0..<8).map { Float($0) })
  }

  @Test("MLX adds biases; settings of single modules count")
  func mlxByHand() throws {
    let path = try byHand(#""quantization": {"group_size": 64, "bits": 4, "m": {"group_size": 32, "bits": 4}}"#) { mlx(&$0) }
    #expect(try values(path) == expected { -2 * Float($0) })
    #expect(try Checkpoint.open(path).packed[0].encoding.summary == "int4, groups of 32, offsets")
  }

  @Test("MLX folders are refused where a setting or a part is not what is read", arguments: [
    (#""bits": 8"#, "bits"), (#""mode": "mxfp4""#, "mode"), (#""m": {"bits": 6, "group_size": 32}"#, "m: bits"),
    (#""group_size": 0"#, "group_size"), (#""group_size": 64"#, "scales"),
  ])
  func mlxRefused(_ setting: String, _ words: String) throws {
    let path = try byHand(#""quantization": {"group_size": 32, "bits": 4}"#) { mlx(&$0) }
    let said = try JSON.parse(Array("{\(setting)}".utf8)).members ?? []
    let settings = said.reduce(["group_size": 32, "bits": 4] as JSON) { $0.setting($1.key, to: $1.value) }
    _ = try folder.write("h/config.json", Array((["model_type": "none", "quantization": settings] as JSON).text().utf8))
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput && error?.message.contains(words) == true, "\(error?.message ?? "")")
  }

  @Test("MLX weights without all their parts are refused", arguments: ["m.weight", "m.scales", "m.biases"])
  func mlxParts(_ missing: String) throws {
    let path = try byHand(#""quantization": {"group_size": 32, "bits": 4}"#) {
      mlx(&$0)
      $0.tensors.removeAll { $0.name == missing }
    }
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput && error?.message.contains("missing") == true, "\(error?.message ?? "")")
  }

  @Test("without a configuration the tensors are what they are")
  func plain() throws {
    var builder = SafetensorsBuilder()
    gptq(&builder, zeros: [UInt32](repeating: 7, count: 8))
    let checkpoint = try Checkpoint.open(folder.write("g.safetensors", builder.bytes))
    #expect(checkpoint.packed.isEmpty && checkpoint.tensors.count == 3)
  }
}
