import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import NibbleTraining
import TestSupport
import Testing

@Suite("Gradients")
struct GradientTests {
  static let cases: [(file: String, adapter: String, base: String)] = [
    ("dec_lora_qv", "dec_lora_qv", "llama"), ("dec_rslora", "dec_rslora", "llama"),
    ("dec_all_linear_patterns", "dec_all_linear_patterns", "llama"), ("dec_dora", "dec_dora", "llama"),
    ("dec_lora_qv_nf4dq", "dec_lora_qv", "llama-bnb-nf4-dq"), ("dec_dora_nf4dq", "dec_dora", "llama-bnb-nf4-dq"),
    ("gpt2_c_attn", "gpt2_c_attn", "gpt2"), ("gpt2_dora", "gpt2_dora", "gpt2"), ("roberta_cls", "roberta_cls", "roberta"),
  ]

  /// The batch the golden gradients were made with.
  static func batch(_ base: String) throws -> (runs: [TokenRun], labels: [[Int]]) {
    let name = base.hasPrefix("llama") ? "decoder" : base
    let file = try TensorFile(fixture("forward/\(name)_base.safetensors"))
    func rows(_ name: String) throws -> [[Int]]? {
      guard let tensor = file.tensor(name) else { return nil }
      let all = try file.integers(tensor)
      let length = all.count / tensor.shape[0]
      return stride(from: 0, to: all.count, by: length).map { Array(all[$0..<$0 + length]) }
    }
    let masks = try rows("attention_mask")
    let runs = try (rows("input_ids") ?? []).enumerated().map { index, ids in
      TokenRun(ids, mask: masks.flatMap { TokenMask($0[index].map { $0 != 0 }) })
    }
    return (runs, try rows("labels") ?? [])
  }

  @Test("are PyTorch's, with and without checkpointing", arguments: cases, [true, false])
  func golden(_ one: (file: String, adapter: String, base: String), _ checkpointing: Bool) throws {
    let model = try Model(fixture("models/" + one.base), threads: 2)
    let trained = try Trained(AdapterFile.open(fixture("adapters/" + one.adapter)), on: model)
    let pass = TrainingPass(model, trained, checkpointing: checkpointing)
    let (runs, labels) = try Self.batch(one.base)
    let loss =
      one.base == "roberta"
      ? try pass.classes(.tokens(runs), targets: labels.map { $0.map(Double.init) }).loss
      : try pass.language(runs, labels: labels).loss
    let golden = try TensorFile(fixture("backward/\(one.file).safetensors"))
    let expected = try golden.floats(#require(golden.tensor("loss")))[0]
    #expect(abs(loss - Double(expected)) <= 1e-5 * Double(expected))
    var compared = 0
    for tensor in trained.tensors {
      let spellings = [
        tensor.name, tensor.name + ".weight", tensor.name.replacing("classifier.", with: "classifier.modules_to_save."),
      ]
      let found = try #require(spellings.compactMap { golden.tensor("grad/" + $0) }.first, "\(tensor.name)")
      compared += 1
      for (x, y) in zip(tensor.gradient.values, try golden.floats(found)) {
        #expect(abs(x - y) <= 2e-6 + 1e-5 * abs(y), "\(tensor.name): \(x) \(y)")
      }
    }
    #expect(compared == trained.tensors.count && compared > 3)
  }

  @Test(
    "on a base of int8 rows, int4 groups or blocks with offsets are those on its numbers in float32", arguments: [AdapterOptions.Method.lora, .dora],
    ["int8", "int4", "icq"])
  func packedBase(_ method: AdapterOptions.Method, _ codec: String) throws {
    let folder = TemporaryFolder()
    var options = QuantizeOptions()
    if codec == "icq" { options.offsets = OffsetSearch() } else { options.codec = try CodecChoice(packing: codec) }
    let source = try Checkpoint.open(fixture("models/llama"))
    _ = try StreamJob.quantize(source, options, to: OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)).run()
    let job = try StreamJob.dequantize(
      try Checkpoint.open(folder.file("m.nbl")), dtype: .f32,
      to: OutputSpec(path: folder.file("plain"), format: nil, default: .safetensors))
    _ = try job.run()
    let (runs, labels) = try Self.batch("llama")
    let found = try ["m.nbl", "plain"].map { name -> (loss: Double, trained: Trained) in
      let model = try Model(folder.file(name), threads: 2)
      var options = AdapterOptions()
      options.method = method
      let trained = try Trained(options, on: model)
      for tensor in trained.tensors where tensor.isSecondFactor { tensor.values.values.update(repeating: 0.01) }
      return (try TrainingPass(model, trained).language(runs, labels: labels).loss, trained)
    }
    #expect(abs(found[0].loss - found[1].loss) <= 2e-6 * found[1].loss)
    for (own, other) in zip(found[0].trained.tensors, found[1].trained.tensors) {
      let size = other.gradient.values.reduce(Float(0)) { max($0, abs($1)) }
      #expect(size > 0 && own.name == other.name)
      for (x, y) in zip(own.gradient.values, other.gradient.values) {
        #expect(abs(x - y) <= 2e-5 * size, "\(own.name): \(x) \(y)")
      }
    }
  }
}
