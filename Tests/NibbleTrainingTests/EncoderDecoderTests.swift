import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import TestSupport
import Testing

@testable import NibbleTraining

/// A small T5 of random weights: its gradients, what its caches hold, and rows it learns. Its numbers are compared with transformers' in
/// Tests/Interop/test_t5.py.
@Suite("An encoder and a decoder")
struct EncoderDecoderTests {
  let folder = TemporaryFolder()

  private func model() throws -> Model {
    let config = """
      {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 20, "d_model": 12, "d_kv": 5, "num_heads": 2, "d_ff": 9,
       "num_layers": 2, "num_decoder_layers": 1, "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 6, "relative_attention_max_distance": 7,
       "decoder_start_token_id": 3, "pad_token_id": 0, "eos_token_id": 1}
      """
    var builder = SafetensorsBuilder()
    var random = TestSupport.Generator(5)
    func add(_ name: String, _ shape: [Int], _ spread: Float = 0.3, around middle: Float = 0) {
      builder.add(name + ".weight", shape, (0..<shape.reduce(1, *)).map { _ in middle + spread * random.normal() })
    }
    func attention(_ name: String) {
      for projection in ["q", "k", "v"] { add("\(name).\(projection)", [10, 12]) }
      add(name + ".o", [12, 10])
    }
    add("shared", [20, 12], 0.7)
    add("lm_head", [20, 12])
    for (stack, layers) in [("encoder", 2), ("decoder", 1)] {
      for layer in 0..<layers {
        let block = "\(stack).block.\(layer).layer.", last = stack == "encoder" ? 1 : 2
        attention(block + "0.SelfAttention")
        if last == 2 { attention(block + "1.EncDecAttention") }
        for name in ["wi_0", "wi_1"] { add("\(block)\(last).DenseReluDense.\(name)", [9, 12]) }
        add("\(block)\(last).DenseReluDense.wo", [12, 9])
        for part in 0...last { add("\(block)\(part).layer_norm", [12], 0.2, around: 1) }
      }
      add("\(stack).block.0.layer.0.SelfAttention.relative_attention_bias", [6, 2], 1)
      add("\(stack).final_layer_norm", [12], 0.2, around: 1)
    }
    try folder.write("m/config.json", config)
    try folder.write("m/model.safetensors", builder.bytes)
    return try Model(folder.file("m"), threads: 2)
  }

  private let row = TrainingRow([4, 9, 7, 1, 3, 8, 2], types: [0, 0, 0, 0, 1, 1, 1], labels: [-100, -100, -100, -100, -100, 8, 2, 1], place: "a")
  private let other = TrainingRow([5, 1, 3], types: [0, 0, 1], labels: [-100, -100, -100, 6], place: "b")

  @Test("gradients of all weights are slopes of the loss", arguments: [true, false])
  func gradients(_ checkpointing: Bool) throws {
    let model = try model(), trained = try Trained(everythingOf: model)
    let pass = TrainingPass(model, trained, checkpointing: checkpointing)
    func loss(learns: Bool = false) throws -> Double {
      try pass.language([row.run, other.run], labels: [row.labels, other.labels], learns: learns).loss
    }
    _ = try loss(learns: true)
    try checkSlopes(of: trained, change: 0.004) { try loss() }
  }

  @Test("rows of a batch have the loss they have alone; four tokens are learned")
  func batches() throws {
    let model = try model(), pass = TrainingPass(model, try Trained(everythingOf: model))
    let both = try pass.language([row.run, other.run], labels: [row.labels, other.labels], learns: false)
    let alone = try [row, other].map { try pass.language([$0.run], labels: [$0.labels], learns: false) }
    #expect(both.tokens == 4 && alone.map(\.tokens) == [3, 1])
    #expect(abs(both.loss - (3 * alone[0].loss + alone[1].loss) / 4) < 1e-6)
  }

  @Test("a cache with the source gives the scores of the whole")
  func cached() throws {
    let model = try model(), network = try model.tokens(for: "a test")
    let whole = Batch.tokens([row.run])
    let scores = Array(UnsafeBufferPointer(start: try network.logits(network.hidden(whole, tape: nil), rows: [4, 5, 6], of: whole), count: 60))
    let cache = network.cache(), opening = network.opening([4, 9, 7, 1])
    #expect(opening.ids == [4, 9, 7, 1, 3] && opening.written == [3])
    var found: [Float] = []
    for ids in [opening.ids, [8], [2]] {
      let batch = Batch.tokens([TokenRun(ids, cache: cache, types: ids.count > 1 ? opening.types : nil)])
      found += UnsafeBufferPointer(start: try network.logits(network.hidden(batch, tape: nil), rows: [ids.count - 1], of: batch), count: 20)
    }
    for (one, two) in zip(found, scores) { #expect(abs(one - two) < 1e-5) }
    #expect(cache.count == 3)
  }

  @Test("texts that do not say what is written, or lack one of the two, are refused")
  func halves() throws {
    let network = try model().tokens(for: "a test")
    for types in [nil, [0, 0], [1, 1]] as [[Int]?] {
      #expect(throws: NibbleError.self) { try network.hidden(.tokens([TokenRun([4, 5], types: types)]), tape: nil) }
    }
  }

  @Test("labels that are left out stand as padding in what the decoder reads; what ends a text stays where it is cut")
  func rows() throws {
    let answering = try #require(model().answering)
    var encoder = RowEncoder(nil, end: 1, vocabulary: 20, maximumLength: 3)
    encoder.answer = { try answering.written(for: $0) }
    let (found, cut) = try encoder.language(JSON.parse(Array(#"{"input_ids": [4, 5, 6, 7, 1], "labels": [8, -100, 1]}"#.utf8)), place: "rows:1")
    #expect(found.ids == [4, 5, 1, 3, 8, 0] && found.input.types == [0, 0, 0, 1, 1, 1])
    #expect(found.labels == [-100, -100, -100, -100, 8, -100, 1] && cut == 2 && found.learned == 2)
    for bad in [#"{"text": "a"}"#, #"{"input_ids": [4]}"#, #"{"input_ids": [4], "labels": [20]}"#, #"{"input_ids": [], "labels": [4]}"#, "[]"] {
      let error = #expect(throws: NibbleError.self) { try encoder.language(JSON.parse(Array(bad.utf8)), place: "rows:1") }
      #expect(error?.kind == .badInput && error?.message.contains("rows:1") == true)
    }
  }
}
