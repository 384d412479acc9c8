import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Damage is noticed")
struct DamageTests {
  let bench = Bench()

  /// A small block file with packed and plain tensors, an embedded file, padding.
  func small(_ compression: CompressionChoice = .none) throws -> [UInt8] {
    var builder = SafetensorsBuilder()
    builder.add(random: "model.layers.0.mlp.up_proj.weight", [5, 33])
    builder.add(random: "model.norm.weight", [3])
    builder.metadata = [("format", "pt")]
    try bench.folder.write("m/config.json", #"{"model_type":"llama"}"#)
    try bench.folder.write("m/model.safetensors", builder.bytes)
    try bench.quantize(bench.folder.file("m"), "good.nbl", compression: compression)
    return try bench.bytes("good.nbl")
  }

  @Test("any flipped bit", arguments: [CompressionChoice.none, .zstd(3)])
  func flips(_ compression: CompressionChoice) throws {
    let good = try small(compression)
    var generator = Generator(1)
    var unnoticed: [Int] = []
    for at in good.indices {
      var bad = good
      bad[at] ^= 1 << UInt8(generator.next() % 8)
      let path = try bench.folder.write("bad.nbl", bad)
      do {
        _ = try Checkpoint.open(path).verify(threads: 1)
        unnoticed.append(at)
      } catch let error as NibbleError {
        if error.kind != .integrity && error.kind != .badInput { unnoticed.append(at) }
      }
    }
    #expect(unnoticed.isEmpty)
  }

  @Test("a frame longer than any can be is refused before there is room made for it")
  func longFrame() throws {
    var generator = Generator(2)
    var builder = SafetensorsBuilder()
    // Zeros before it, without which it would be stored plain.
    builder.add(
      "noise", "U8", [1 << 19], (0..<1 << 19).map { $0 < 1 << 16 ? 0 : UInt8(truncatingIfNeeded: generator.next() >> 24) })
    let source = try bench.folder.write("noise.safetensors", builder.bytes)
    var output = try bench.spec("good.nbl", .nbl)
    output.compression = .zstd(3)
    _ = try StreamJob.convert(Checkpoint.open(source), to: output).run()
    var bad = try bench.bytes("good.nbl")
    let section = try #require(try Checkpoint.open(bench.folder.file("good.nbl")).tensors.first?.sections.first)
    guard case .file(_, let offset) = section.source else { return }
    // Two frames, one of them as long as both.
    let table = offset + section.storedLength - 8
    bad.replaceSubrange(table..<table + 8, with: littleEndian(UInt32(section.storedLength - 8)) + [0, 0, 0, 0])
    let path = try bench.folder.write("bad.nbl", bad)
    #expect { try Checkpoint.open(path).verify(threads: 1) } throws: { "\($0)".contains("a frame of") }
  }

  @Test("any cut, anything appended")
  func cuts() throws {
    let good = try small()
    for length in stride(from: 0, to: good.count, by: 7) {
      let path = try bench.folder.write("bad.nbl", Array(good.prefix(length)))
      #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    }
    let path = try bench.folder.write("bad.nbl", good + [0])
    #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
  }

  @Test("dequantize and convert refuse what verify refuses", arguments: [true, false])
  func verbs(_ inPadding: Bool) throws {
    var bad = try small()
    let checkpoint = try Checkpoint.open(bench.folder.file("good.nbl"))
    let section = try #require(checkpoint.tensors.first?.sections.first)
    guard case .file(_, let offset) = section.source else { return }
    bad[inPadding ? offset + section.storedLength : offset] ^= 1
    let path = try bench.folder.write("bad.nbl", bad)
    for run in [
      { _ = try bench.dequantize(path, "out") }, { _ = try bench.convert(path, "out.nbl", .nbl) },
      { _ = try bench.convert(path, "bnb", .bnb) }, { _ = try Checkpoint.open(path).verify() },
    ] as [() throws -> Void] {
      let error = #expect(throws: NibbleError.self) { try run() }
      #expect(error?.kind == .integrity)
    }
    #expect(bench.folder.contents == ["bad.nbl", "good.nbl", "m"])
  }

  /// F4, F6_E2M3 and F32, where 83 bytes of codes are.
  @Test("codes declared as a type they do not fill", arguments: [1, 2, 15] as [UInt8])
  func declared(_ dtype: UInt8) throws {
    var bad = try small()
    let parameters: [UInt8] = [64, 0, 0, 0, 0, 1, 0, 0]
    let at = try #require(bad.indices.dropLast(8).first { bad[$0..<$0 + 8].elementsEqual(parameters) })
    bad[at + 12] = dtype
    func put(_ value: UInt64, _ place: Int) {
      for byte in 0..<8 { bad[place + byte] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(byte))) }
    }
    let length = Int(bad[40]) | Int(bad[41]) << 8
    put(XXH3.digest64(of: Array(bad[64..<64 + length])), 48)
    put(XXH3.digest64(of: Array(bad[..<56])), 56)
    let path = try bench.folder.write("bad.nbl", bad)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput && error?.message.contains("do not fill") == true, "\(error?.message ?? "")")
  }

  @Test("the message names tensor and section")
  func message() throws {
    var bad = try small()
    let checkpoint = try Checkpoint.open(bench.folder.file("good.nbl"))
    let section = try #require(checkpoint.tensor("model.layers.0.mlp.up_proj.weight")?.sections[1])
    guard case .file(_, let offset) = section.source else { return }
    bad[offset] ^= 1
    let path = try bench.folder.write("bad.nbl", bad)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path).verify() }
    #expect(error?.path == path && error?.subject == "model.layers.0.mlp.up_proj.weight")
    #expect(error?.message.contains("scaleCodes") == true, "\(error?.message ?? "")")
  }

  @Test("a bitsandbytes folder whose tensors were changed is not what nibble.json says")
  func side() throws {
    try bench.quantize(fixture("stories260K"), "bnb", .bnb)
    var content = try bench.bytes("bnb/model.safetensors")
    content[content.count - 20_000] ^= 1
    try bench.folder.write("bnb/model.safetensors", content)
    for run in [
      { _ = try Checkpoint.open(bench.folder.file("bnb")).verify() },
      { _ = try bench.convert(bench.folder.file("bnb"), "o.nbl", .nbl) },
    ] as [() throws -> Void] {
      let error = #expect(throws: NibbleError.self) { try run() }
      #expect(error?.kind == .integrity)
    }
  }

  /// Packed groups that do not fit together.
  @Test(
    "broken bitsandbytes groups",
    arguments: [
      ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4", "",
    ])
  func missingPart(_ suffix: String) throws {
    let source = try SmallSafetensors(fixture("models/llama-bnb-nf4-dq/model.safetensors"))
    let victim = try #require(source.names.first { $0.hasSuffix(".quant_map") }).dropLast(".quant_map".count) + suffix
    for damage in [0, 1] {
      var builder = SafetensorsBuilder()
      for name in source.names {
        let entry = try #require(source.entry(name))
        var bytes = try #require(source[name])
        if name == victim {
          if damage == 0 { continue }
          bytes = Array(bytes.dropLast(4))
          builder.add(name, "U8", [bytes.count], bytes)
        } else {
          builder.add(name, entry.dtype.rawValue, entry.shape, bytes)
        }
      }
      let path = try bench.folder.write("bad.safetensors", builder.bytes)
      let error = #expect(throws: NibbleError.self, "\(suffix) \(damage)") { try Checkpoint.open(path) }
      #expect(error?.kind == .badInput)
    }
  }

  @Test(
    "quantization states that make no sense",
    arguments: [
      "", "{}", "[]", #"{"quant_type": "nf4"}"#,
      #"{"quant_type": "nf5", "blocksize": 64, "dtype": "float32", "shape": [2, 32]}"#,
      #"{"quant_type": "nf4", "blocksize": 63, "dtype": "float32", "shape": [2, 32]}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "int8", "shape": [2, 32]}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, -32]}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [3, 32]}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [9223372036854775807, 2]}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 32], "spin": 1}"#,
      #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 32], "nested_offset": 1}"#,
      #"{"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [2, 32]}"#,
    ])
  func badStates(_ text: String) throws { try expectRefused(state: text) }

  @Test("codes of half bytes", arguments: ["F4", "F6_E2M3"])
  func codesOfHalfBytes(_ dtype: String) throws {
    try expectRefused(
      state: #"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 24]}"#, codes: dtype,
      [24 * 8 / (dtype == "F4" ? 4 : 6)])
  }

  private func expectRefused(state text: String, codes: String = "U8", _ shape: [Int] = [32, 1]) throws {
    var builder = SafetensorsBuilder()
    builder.add("w.weight", codes, shape, [UInt8](repeating: 0x77, count: codes == "U8" ? 32 : 24))
    builder.add("w.weight.absmax", [1], [1])
    builder.add("w.weight.quant_map", [16], Codebook.nf4.values)
    builder.add("w.weight.quant_state.bitsandbytes__nf4", "U8", [text.utf8.count], Array(text.utf8))
    let path = try bench.folder.write("bad.safetensors", builder.bytes)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput)
    #expect(error?.path == path && error?.subject == "w.weight", "\(error?.message ?? "")")
  }
}
