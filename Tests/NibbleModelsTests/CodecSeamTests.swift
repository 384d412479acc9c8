import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

// A codec that exists for these tests only: this extension is its line in the list, the rest of the file is the codec.

extension CodecKind {
  /// Signed bytes: multiples of a step that every element shares.
  static let steps = CodecKind(
    number: 0xF001, name: "steps", make: { _ in Steps(perUnit: 256) },
    read: { parameters in
      let perUnit = try parameters.input.u32()
      return perUnit > 0 ? Steps(perUnit: perUnit) : nil
    })
}

private struct Steps: WeightCodec {
  let perUnit: Int
  var kind: CodecKind { .steps }
  var summary: String { "steps of 1/\(perUnit)" }

  func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] { [(.codes, shape.reduce(1, *))] }
  func writeParameters(_ parameters: inout CodecParameters) { parameters.out.u32(perUnit) }
  func writeIdentity(_ out: inout ByteWriter) { out.u32(perUnit) }
  func encoder(_ task: EncodingTask) -> any TensorEncoder { Coder(perUnit: Float(perUnit)) }
  func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    Coder(perUnit: Float(perUnit))
  }
  func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory { CodecMemory(perThread: 8 * chunk, perTensor: 0) }

  final class Coder: TensorEncoder, TensorDecoder {
    let perUnit: Float
    let grain = 1
    init(perUnit: Float) { self.perUnit = perUnit }

    private func code(_ value: Float) -> Int8 { Int8(max(-127, min(127, (value * perUnit).rounded()))) }

    func encode(
      _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
    ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
      let values = scratch.floatStart(100, elements.count)
      Kernels.widen(elements.dtype, elements.x, count: elements.count, values)
      let codes = scratch.start(101, elements.count).bindMemory(to: Int8.self, capacity: elements.count)
      var sums = EncodedSums(error: 0)
      for index in 0..<elements.count {
        codes[index] = code(values[index])
        let error = Double(Float(codes[index]) / perUnit - values[index])
        sums += EncodedSums(error: error * error, signal: Double(values[index] * values[index]))
        restored?[index] = Float(codes[index]) / perUnit
      }
      return (UnsafeRawBufferPointer(start: codes, count: elements.count), sums)
    }

    func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
      for index in 0..<count { values[index] = Float(code(values[index])) / perUnit }
    }

    func codes(_ start: Int, _ count: Int) -> Range<Int> { start..<start + count }

    func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
      let values = (0..<count).map { Float(codes.load(fromByteOffset: $0, as: Int8.self)) / perUnit }
      values.withUnsafeBufferPointer { if let from = $0.baseAddress { Kernels.narrow(dtype, from, count: count, out) } }
    }
  }
}

@Suite("A codec added in one file")
struct CodecSeamTests {
  let folder = TemporaryFolder()

  func quantized() throws -> Checkpoint {
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "steps")
    let output = try OutputSpec(path: folder.file("steps.nbl"), format: nil, default: .nbl)
    let report = try StreamJob.quantize(Checkpoint.open(fixture("models/llama")), options, to: output).run()
    #expect(report.packed.count == 14 && report.packed.allSatisfy { $0.encoding.name == "steps" })
    #expect(report.meanError.map { $0 > 0 && $0 < 0.1 } == true)
    return try Checkpoint.open(folder.file("steps.nbl"))
  }

  @Test("is written, read, verified and decoded")
  func roundTrip() throws {
    try Codecs.$added.withValue([.steps]) {
      let packed = try quantized()
      #expect(try packed.verify().identity == packed.claimedIdentity)
      let output = try OutputSpec(path: folder.file("plain"), format: nil, default: .safetensors)
      _ = try StreamJob.dequantize(packed, dtype: nil, to: output).run()
      let report = try packed.diff(Checkpoint.open(folder.file("plain")))
      #expect(report.changed.count == 14 && report.changed.allSatisfy(\.isEqual))
    }
  }

  @Test("takes adapters, and tells what of them survives")
  func merging() throws {
    try Codecs.$added.withValue([.steps]) {
      let base = try quantized()
      var options = MergeOptions([.init(try AdapterFile.open(fixture("adapters/dec_lora_qv")), weight: 1)])
      options.minimumSurvival = 0
      let output = try OutputSpec(path: folder.file("merged.nbl"), format: nil, default: .nbl)
      let report = try StreamJob.merge(base, options, to: output).run()
      #expect(report.changed.count == 4 && report.changed.allSatisfy { $0.sums.survival > 0.9 && $0.sums.survival < 1.1 })
      #expect(try Checkpoint.open(folder.file("merged.nbl")).packed.count == 14)
    }
  }

  @Test("runs, without a kernel of its own")
  func running() throws {
    try Codecs.$added.withValue([.steps]) {
      _ = try quantized()
      let output = try OutputSpec(path: folder.file("plain"), format: nil, default: .safetensors)
      _ = try StreamJob.dequantize(Checkpoint.open(folder.file("steps.nbl")), dtype: .f32, to: output).run()
      let runs = [TokenRun([5, 6, 7, 8])]
      let scores = try [folder.file("steps.nbl"), folder.file("plain")].map { path in
        try Model(path, precision: .f32, threads: 1).scores(runs)
      }
      #expect(greatestDifference(scores[0], scores[1]) <= 1e-6)
    }
  }

  @Test("has no place in bitsandbytes' layout, and is refused before anything is written")
  func refused() throws {
    try Codecs.$added.withValue([.steps]) {
      let base = try quantized()
      let output = try OutputSpec(path: folder.file("bnb"), format: .bnb, default: .bnb)
      let error = #expect(throws: NibbleError.self) { try StreamJob.convert(base, to: output).run() }
      #expect(error?.kind == .usage && error?.message.contains("bitsandbytes has no place for") == true)
    }
  }

  @Test("is refused by its number where it is not on the list")
  func unknown() throws {
    _ = try Codecs.$added.withValue([.steps]) { try quantized() }
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(folder.file("steps.nbl")) }
    #expect(error?.message.contains("codec 61441, which this nibble does not know") == true)
  }
}
