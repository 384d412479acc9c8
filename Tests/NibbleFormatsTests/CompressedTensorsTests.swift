import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Folders in compressed-tensors' layout")
struct CompressedTensorsTests {
  let folder = TemporaryFolder()

  private func quantized(_ name: String, _ format: OutputFormat, _ change: (inout QuantizeOptions) throws -> Void = { _ in }) throws -> Checkpoint {
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "int4")
    (options.groupSize, options.zeros) = (64, .none)
    try change(&options)
    let source = try Checkpoint.open(fixture("models/llama"))
    _ = try StreamJob.quantize(source, options, to: OutputSpec(path: folder.file(name), format: format, default: .nbl)).run()
    return try Checkpoint.open(folder.file(name))
  }

  @Test("hold what the block file holds: the same identity, and back to the same bytes", arguments: [32, 64, 0])
  func thereAndBack(_ size: Int) throws {
    let block = try quantized("a.nbl", .nbl) { $0.groupSize = size }
    let compressed = try quantized("a", .compressedTensors) { $0.groupSize = size }
    #expect(compressed.ownFormat == .compressedTensors && compressed.packed.count == 14)
    #expect(try compressed.verify().identity == block.claimedIdentity)
    let out = try OutputSpec(path: folder.file("b"), format: .compressedTensors, default: .nbl)
    _ = try StreamJob.convert(block, to: out).run()
    #expect(try bytes(of: folder.file("a/model.safetensors")) == bytes(of: folder.file("b/model.safetensors")))
  }

  @Test("refuse what has no place in them, by name and before anything is written")
  func refused() throws {
    let cases: [(String, (inout QuantizeOptions) throws -> Void)] = [
      ("is nf4, which has no place among compressed tensors", { $0.codec = try CodecChoice(packing: "nf4") }),
      ("zero points of float16, which has no place among compressed tensors", { $0.zeros = .half }),
      ("compressed tensors are of one scheme", { $0.rules = [try PackingRule("q_proj=int4:group=32")] }),
    ]
    for (words, change) in cases {
      let error = #expect(throws: NibbleError.self) { try quantized("no", .compressedTensors, change) }
      #expect(error?.kind == .usage && error?.message.contains(words) == true, "\(error?.message ?? "")")
      #expect(PathKind(folder.file("no")) == .nothing)
    }
  }

  @Test("are refused where their parts do not fit together, with the weight's name")
  func broken() throws {
    func file(_ change: (inout SafetensorsBuilder) -> Void) throws -> String {
      var builder = SafetensorsBuilder()
      builder.add("m.weight_packed", "I32", [2, 8], [UInt8](repeating: 0x88, count: 64))
      builder.add("m.weight_scale", [2, 2], [1, 1, 1, 1])
      builder.add("m.weight_shape", "I64", [2], [2, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0])
      change(&builder)
      return try folder.write("m.safetensors", builder.bytes)
    }
    let whole = try Checkpoint.open(file { _ in })
    #expect(whole.packed.count == 1 && whole.packed[0].shape == [2, 64] && whole.packed[0].encoding.summary == "int4, groups of 32, symmetric")
    let bad: [(String, (inout SafetensorsBuilder) -> Void)] = [
      ("the same weight is there plain as well", { $0.add("m.weight", [2, 64], [Float](repeating: 1, count: 128)) }),
      ("'m.weight_packed', are missing", { $0.tensors.removeAll { $0.name == "m.weight_packed" } }),
      ("weight_scale or weight_shape is missing", { $0.tensors.removeAll { $0.name == "m.weight_scale" } }),
      ("weight_zero_point is I32 of shape [1], expected I32 of shape [1, 2]", { $0.add("m.weight_zero_point", "I32", [1], [0, 0, 0, 0]) }),
      ("it has weight_g_idx", { $0.add("m.weight_g_idx", "I32", [1], [0, 0, 0, 0]) }),
      (
        "weight_packed is I32 of shape [2, 8] for a weight of shape [2, 72]",
        { builder in
          builder.tensors.removeAll { $0.name == "m.weight_shape" }
          builder.add("m.weight_shape", "I64", [2], [2, 0, 0, 0, 0, 0, 0, 0, 72, 0, 0, 0, 0, 0, 0, 0])
        }
      ),
      (
        "weight_packed is",
        { builder in
          builder.tensors.removeAll { $0.name == "m.weight_shape" }
          builder.add("m.weight_shape", "I64", [2], [UInt8](repeating: 0xFF, count: 16))
        }
      ),
      (
        "weight_scale is F32 of shape [2, 3]",
        { builder in
          builder.tensors.removeAll { $0.name == "m.weight_scale" }
          builder.add("m.weight_scale", [2, 3], [Float](repeating: 1, count: 6))
        }
      ),
      (
        "groups of 16",
        { builder in
          builder.tensors.removeAll { $0.name == "m.weight_scale" }
          builder.add("m.weight_scale", [2, 4], [Float](repeating: 1, count: 8))
        }
      ),
    ]
    for (words, change) in bad {
      let path = try file(change)
      let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
      #expect(error?.kind == .badInput && error?.message.contains("'m.weight") == true, "\(error?.message ?? "")")
      #expect(error?.message.contains(words) == true, "\(words): \(error?.message ?? "")")
    }
  }

  @Test("are refused with a configuration that makes other values of the same tensors", arguments: [
    (#""format": "int-quantized""#, "format"), (#""transform_config": {"config_groups": {"a": 1}}"#, "transform_config"),
    (#""config_groups": {"group_0": {"weights": {"num_bits": 8}}}"#, "num_bits"),
    (#""config_groups": {"group_0": {"weights": {"symmetric": false}}}"#, "symmetric"),
  ])
  func schemes(_ setting: String, _ key: String) throws {
    _ = try quantized("a", .compressedTensors)
    let path = folder.file("a/config.json")
    let config = try JSON.parse(bytes(of: path))
    let own = try JSON.parse(Array(#"{"quant_method": "compressed-tensors", \#(setting)}"#.utf8))
    _ = try folder.write("a/config.json", Array(config.setting("quantization_config", to: own).text().utf8))
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(folder.file("a")) }
    #expect(error?.kind == .badInput && error?.message.contains(key) == true, "\(error?.message ?? "")")
  }

  @Test("take no int8 rows in place of what a merge would lose")
  func promoted() throws {
    let base = try quantized("a", .compressedTensors)
    var job = try StreamJob.convert(base, to: OutputSpec(path: folder.file("b"), format: .compressedTensors, default: .nbl))
    job.changing.whenLost = .promote
    let error = #expect(throws: NibbleError.self) { try job.run() }
    #expect(error?.kind == .usage && error?.message.contains("use 16bit") == true)
  }
}
