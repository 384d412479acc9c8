import NibbleAdapters
import NibbleCompute
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleModels

// A family that exists for these tests only: Llama's arithmetic under names of its own.

extension ModelFamily {
  fileprivate static let marmot = try? ModelFamily(
    "Marmot", runs: ["marmot"], packsOnly: ["groundhog"], linear: #"^trunk\.\d+\.(q|k|v|o|gate|up|down)\.weight$"#, heads: "(?!)",
    tiedHeads: ["out"], prefix: { _ in "" })
}

private enum Marmot: TransformerArchitecture {
  static let modelTypes = ["marmot"]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    let width = try config.int("dim", Limits.width, default: 64), heads = try config.int("heads", Limits.heads, default: 4)
    let layers = try config.int("depth", Limits.layers, default: 2)
    return TransformerShape(
      vocabulary: try config.int("words", Limits.vocabulary, default: 256), width: width, heads: heads,
      keyValueHeads: try config.int("groups", Limits.heads, default: 2), headSize: width / heads, layers: layers, contextLength: 128,
      isCausal: true, isRMSNorm: true, epsilon: 1e-6, activation: .silu, isGated: true,
      rotary: Array(repeating: try RotaryPositions(config, size: width / heads, context: 128), count: layers), windows: Array(repeating: nil, count: layers))
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let width = shape.width, inner = try config.int("inner", Limits.width, default: 128)
    let layers = try (0..<shape.layers).map { index in
      func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
        try source.linear("trunk.\(index).\(name)", outputs: outputs, inputs: inputs, bias: .none)
      }
      return LayerWeights(
        attentionNorms: BranchNorms(before: try source.norm("trunk.\(index).before", width: width, hasBias: false)),
        queryKeyValue: [
          try linear("q", shape.queryWidth, width), try linear("k", shape.keyWidth, width),
          try linear("v", shape.keyWidth, width),
        ],
        attentionOutput: try linear("o", width, shape.queryWidth),
        mlpNorms: BranchNorms(before: try source.norm("trunk.\(index).between", width: width, hasBias: false)),
        up: [try linear("gate", inner, width), try linear("up", inner, width)], down: try linear("down", width, inner))
    }
    return TransformerWeights(
      tokens: try source.embedding("words", count: shape.vocabulary, width: width), layers: layers,
      finalNorm: try source.norm("end", width: width, hasBias: false),
      head: .language(try source.linear("out", outputs: shape.vocabulary, inputs: width, bias: .none)))
  }
}

@Suite("A family added in one file")
struct FamilySeamTests {
  let folder = TemporaryFolder()

  static let names = [
    ("model.embed_tokens", "words"), ("model.layers", "trunk"), ("self_attn.", ""), ("mlp.", ""), ("_proj", ""),
    ("input_layernorm", "before"), ("post_attention_layernorm", "between"), ("model.norm", "end"), ("lm_head", "out"),
  ]

  /// The tests' Llama under the family's names.
  func write(_ type: String = "marmot") throws {
    let file = try TensorFile(fixture("models/llama/model.safetensors"))
    var builder = SafetensorsBuilder()
    for tensor in try Checkpoint.open(fixture("models/llama")).tensors {
      let name = Self.names.reduce(tensor.name.text) { $0.replacing($1.0, with: $1.1) }
      builder.add(name, tensor.shape, try file.floats(tensor))
    }
    try folder.write("m/model.safetensors", builder.bytes)
    try folder.write(
      "m/config.json", #"{"model_type": "\#(type)", "dim": 64, "heads": 4, "groups": 2, "depth": 2, "inner": 128, "words": 256}"#)
  }

  func listed<Result>(_ body: () throws -> Result) throws -> Result {
    try ModelFamily.$added.withValue([#require(ModelFamily.marmot)], operation: body)
  }

  func model(_ name: String) throws -> Model {
    try Model(
      Checkpoint.open(folder.file(name)), precision: .f32, team: Team(threads: 1), architectures: Architectures([Marmot.self]))
  }

  func quantize() throws -> StreamJob {
    let output = try OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)
    return try StreamJob.quantize(Checkpoint.open(folder.file("m")), QuantizeOptions(), to: output)
  }

  @Test("runs, and is the model that it is under other names")
  func running() throws {
    try listed {
      try write()
      let runs = [TokenRun([5, 6, 7, 8]), TokenRun([200, 3])]
      let own = try model("m").scores(runs)
      #expect(try own == Model(fixture("models/llama"), threads: 1).scores(runs))
    }
  }

  @Test("is packed where the family says, and runs packed")
  func packed() throws {
    try listed {
      try write()
      let job = try quantize()
      #expect(!job.warnings.contains { $0.message.contains("not run") })
      #expect(try job.run().packed.count == 14)
      #expect(try model("m.nbl").scores([TokenRun([5, 6, 7])]).count == 3 * 256)
    }
  }

  @Test("says when it is packed that it cannot be run, where it cannot")
  func packedOnly() throws {
    try listed {
      try write("groundhog")
      #expect(try quantize().warnings.contains { $0.message.contains("'groundhog'") && $0.message.contains("not run") })
      try write("unheard-of")
      #expect(try quantize().warnings.contains { $0.message.contains("'unheard-of'") && $0.message.contains("not run") })
      #expect(throws: NibbleError.self) { try model("m") }
    }
  }

  @Test("what families say they run is what runs")
  func lists() {
    let runs = ModelFamily.all.flatMap { family in family.modelTypes.filter(family.runs) }
    #expect(Set(runs) == Set(Architectures.all.modelTypes) && runs.count == Architectures.all.modelTypes.count)
  }
}
