import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

/// Inputs and outputs of a pass that transformers has made.
struct Reference {
  let ids: [[Int]]
  let mask: [[Int]]?
  let logits: [Float]
  let loss: Double?
  let path: String

  init(_ name: String) throws {
    path = fixture("forward/\(name).safetensors")
    let file = try TensorFile(path)
    let input = try #require(file.tensor("input_ids"))
    func rows(_ tensor: StoredTensor) throws -> [[Int]] {
      let values = try file.integers(tensor)
      return stride(from: 0, to: values.count, by: tensor.shape[1]).map { Array(values[$0..<$0 + tensor.shape[1]]) }
    }
    ids = try rows(input)
    mask = try file.tensor("attention_mask").map(rows)
    logits = try file.floats(#require(file.tensor("logits")))
    loss = try file.tensor("loss").map { Double(try file.floats($0)[0]) }
  }

  func runs(_ adapters: [ActiveAdapter] = []) -> [TokenRun] {
    ids.enumerated().map { row, ids in
      TokenRun(ids, mask: mask.flatMap { TokenMask($0[row].map { $0 != 0 }) }, adapters: adapters)
    }
  }
}

extension Model {
  /// The head's scores of every token, or of every sequence's classes.
  func scores(_ runs: [TokenRun]) throws -> [Float] {
    let batch = Batch.tokens(runs)
    let hidden = try network.hidden(batch, tape: nil)
    let tokens = runs.reduce(0) { $0 + $1.ids.count }
    switch head {
    case .language, .masked, .tokens:
      guard let head = head.scorer else { return [] }
      return Array(
        UnsafeBufferPointer(
          start: try network.scores(hidden, head, rows: Array(0..<tokens), of: batch), count: tokens * head.outputs))
    case .classification(let head):
      let scores = try network.classScores(hidden, head, of: batch)
      return Array(UnsafeBufferPointer(start: scores, count: runs.count * head.output.outputs))
    case .spans(let head):
      return Array(UnsafeBufferPointer(start: try network.spanScores(hidden, head, of: batch), count: tokens * head.outputs))
    case .none: return []
    }
  }
}

func greatestDifference(_ a: [Float], _ b: [Float]) -> Float {
  a.count == b.count ? zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) } : .infinity
}

func model(_ name: String, _ precision: Compute = .f32, threads: Int = 1) throws -> Model {
  try Model(fixture(name == "stories260K" ? name : "models/" + name), precision: precision, threads: threads)
}

@Suite("Forward passes")
struct ForwardTests {
  @Test(
    "equal transformers'",
    arguments: [
      ("llama", "decoder_base", 2e-5), ("llama-sharded", "decoder_base", 2e-5), ("llama-bnb-nf4-dq", "decoder_nf4dq", 5e-5),
      ("gpt2", "gpt2_base", 2e-5), ("roberta", "roberta_base", 2e-5),
    ] as [(String, String, Float)])
  func parity(name: String, reference: String, tolerance: Float) throws {
    let reference = try Reference(reference)
    let scores = try model(name).scores(reference.runs())
    #expect(greatestDifference(scores, reference.logits) <= tolerance)
  }

  @Test(
    "in bfloat16 stay within 1 % of the loss",
    arguments: [("llama", "decoder_base"), ("llama-bnb-nf4-dq", "decoder_nf4dq"), ("gpt2", "gpt2_base")])
  func bfloat16(name: String, reference: String) throws {
    let reference = try Reference(reference)
    let folder = TemporaryFolder()
    let loss = try #require(
      try ForwardFile(reference.path).run(try model(name, .bf16), adapters: [], to: folder.file("o.safetensors"), force: false))
    let expected = try #require(reference.loss)
    #expect(abs(loss - expected) <= 0.01 * expected)
  }

  @Test("give the same bits for any number of threads", arguments: ["llama", "llama-bnb-nf4-dq", "gpt2", "roberta"])
  func threads(name: String) throws {
    let reference = try Reference(name.hasPrefix("llama") ? "decoder_base" : name + "_base")
    let one = try model(name, threads: 1).scores(reference.runs())
    #expect(try model(name, threads: 3).scores(reference.runs()) == one)
  }

  @Test("of sequences of different lengths in one batch are those of each by itself", arguments: ["llama", "gpt2", "roberta"])
  func ragged(name: String) throws {
    let model = try model(name)
    let runs = [TokenRun([5, 6, 7, 8, 9]), TokenRun([10]), TokenRun([11, 12, 13])]
    let together = try model.scores(runs)
    let single = try runs.flatMap { try model.scores([$0]) }
    #expect(greatestDifference(together, single) <= 1e-5)
  }

  @Test("through a cache, in pieces, are those of the whole sequence", arguments: ["llama", "llama-bnb-nf4-dq", "gpt2"])
  func cache(name: String) throws {
    let model = try model(name)
    let ids = (0..<20).map { ($0 * 37 + 3) % 256 }
    let whole = try model.scores([TokenRun(ids)])
    let cache = try model.tokens(for: "a test").cache()
    var pieces: [Float] = []
    for range in [0..<1, 1..<9, 9..<10, 10..<20] { pieces += try model.scores([TokenRun(Array(ids[range]), cache: cache)]) }
    #expect(greatestDifference(whole, pieces) <= 2e-5)
    cache.truncate(to: 7)
    let again = try model.scores([TokenRun(Array(ids[7...]), cache: cache)])
    #expect(greatestDifference(Array(whole[(7 * (try model.vocabularySize))...]), again) <= 2e-5)
  }

  @Test("with padding masked are those without padding")
  func mask() throws {
    let model = try model("roberta")
    let ids = [5, 6, 7, 8]
    let padded = TokenRun(ids + [1, 1], mask: TokenMask([true, true, true, true, false, false]))
    #expect(greatestDifference(try model.scores([TokenRun(ids)]), try model.scores([padded])) <= 1e-6)
  }

  @Test("of an embedding and output head packed to 4 bits run on the codes")
  func packedEmbedding() throws {
    let folder = TemporaryFolder()
    var options = QuantizeOptions()
    options.rules = [try PackingRule("embed_tokens=nf4")]
    let source = try Checkpoint.open(fixture("stories260K"))
    _ = try StreamJob.quantize(source, options, to: OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)).run()
    let job = try StreamJob.dequantize(
      try Checkpoint.open(folder.file("m.nbl")), dtype: .f32,
      to: OutputSpec(path: folder.file("plain"), format: nil, default: .safetensors))
    _ = try job.run()
    let ids = [1, 403, 407, 261, 378]
    let packed = try Model(folder.file("m.nbl")).scores([TokenRun(ids)])
    #expect(greatestDifference(packed, try Model(folder.file("plain")).scores([TokenRun(ids)])) <= 1e-4)
  }

  @Test("of int8 rows run on the bytes, as their numbers in float32 run", arguments: ["llama", "gpt2", "roberta"])
  func rowsOfBytes(_ base: String) throws {
    let folder = TemporaryFolder()
    var options = QuantizeOptions()
    options.codec = try CodecChoice(packing: "int8")
    let source = try Checkpoint.open(fixture("models/" + base))
    _ = try StreamJob.quantize(source, options, to: OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)).run()
    let job = try StreamJob.dequantize(
      try Checkpoint.open(folder.file("m.nbl")), dtype: .f32,
      to: OutputSpec(path: folder.file("plain"), format: nil, default: .safetensors))
    _ = try job.run()
    let (packed, plain) = (try Model(folder.file("m.nbl")), try Model(folder.file("plain")))
    #expect(packed.network.parts.layers.allSatisfy { $0.matrix.isPacked && $0.matrix.bytesPerOutput <= $0.inputs })
    // Few rows: the same sums, bit for bit, where both files store a weight the same way. Many rows of float32 are OpenBLAS's.
    let few = [TokenRun([5, 6, 7])]
    let difference = greatestDifference(try packed.scores(few), try plain.scores(few))
    #expect(base == "gpt2" ? difference <= 1e-5 : difference == 0)
    let many = [TokenRun((0..<30).map { ($0 * 11) % 250 })]
    #expect(greatestDifference(try packed.scores(many), try plain.scores(many)) <= 2e-5)
  }

  @Test("refuse ids outside the vocabulary and sequences beyond the context")
  func limits() throws {
    let model = try model("llama")
    for id in [-1, 256, Int.max] {
      #expect(throws: NibbleError.self) { try model.scores([TokenRun([1, id])]) }
    }
    #expect(throws: NibbleError.self) { try model.scores([TokenRun(Array(repeating: 1, count: 129))]) }
  }

  @Test("stop at NaN and name the layer")
  func notFinite() throws {
    let folder = TemporaryFolder()
    let header = try bytes(of: fixture("models/llama/model.safetensors"))
    try folder.write("config.json", try bytes(of: fixture("models/llama/config.json")))
    let checkpoint = try Checkpoint.open(fixture("models/llama"))
    let tensor = try #require(checkpoint.tensor(ByteName("model.layers.1.mlp.down_proj.weight")))
    guard case .file(_, let offset) = try #require(tensor.section(.data)).source else { return }
    var broken = header
    broken.replaceSubrange(offset..<offset + 4, with: [0, 0, 0xC0, 0x7F])
    try folder.write("model.safetensors", broken)
    let error = #expect(throws: NibbleError.self) { try Model(folder.path).scores([TokenRun([1, 2])]) }
    #expect(error?.kind == .quality)
    #expect(error?.message.contains("layer 1 ") == true)
  }
}
