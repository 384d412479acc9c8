import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleFormats
import NibbleModels
import TestSupport
import Testing

/// The papers' own numbers, computed in float64 from their equations: a layer with an adapter, forward and back, and what is made of scores.
@Suite("Golden vectors of layers")
struct LayerGoldenTests {
  private let engine = Engine(.f32, team: Team(threads: 1))
  private let golden: TensorFile

  init() throws { golden = try TensorFile(fixture("field_methods.safetensors")) }

  private func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor(name), "\(name)")) }
  private func integers(_ name: String) throws -> [Int] { try golden.integers(#require(golden.tensor(name), "\(name)")) }
  private func shape(_ name: String) throws -> [Int] { try #require(golden.tensor(name), "\(name)").shape }

  private func matrix(_ name: String, isTransposed: Bool = false) throws -> Matrix {
    let shape = try shape(name), values = try floats(name)
    guard isTransposed else { return Matrix(values, rows: shape[0], columns: shape[1]) }
    return Matrix((0..<shape[1]).flatMap { column in (0..<shape[0]).map { values[$0 * shape[1] + column] } }, rows: shape[1], columns: shape[0])
  }

  private func expect(_ found: some Sequence<Float>, _ name: String) throws {
    let expected = try floats(name), found = Array(found)
    #expect(found.count == expected.count, "\(name)")
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 2e-6 + 1e-5 * abs(y), "\(name): \(x), \(y)") }
  }

  /// A layer as a case has it.
  struct Layer: CustomTestStringConvertible, Sendable {
    var name: String
    var method: any AdapterMethod.Type = LoRA.self
    var weight = "W"
    var isTransposed = false
    var bias: String? = "bias"
    var scale: Double
    var values: [String] = []
    var y = "y"
    /// Of a part.
    var gradients: [String: String] = [:]
    var testDescription: String { name + "/" + y }
  }

  static let layers = [
    Layer(name: "lora_linear", scale: 2, gradients: ["lora_A": "dA", "lora_B": "dB"]), Layer(name: "lora_linear", scale: 4, y: "y_rslora"),
    Layer(name: "qlora", weight: "W_dequant", bias: nil, scale: 2, gradients: ["lora_A": "", "lora_B": ""]),
    Layer(name: "lora_conv1d_gpt2", isTransposed: true, scale: 8),
    Layer(
      name: "dora", method: DoRA.self, scale: 2, values: ["lora_magnitude_vector"],
      gradients: ["lora_A": "dA", "lora_B": "dB", "lora_magnitude_vector": "dm"]),
  ]

  @Test("outputs, gradients of the numbers and of the input", arguments: layers)
  func layer(_ one: Layer) throws {
    let weight = try matrix("\(one.name)/\(one.weight)", isTransposed: one.isTransposed)
    let numbers = MethodNumbers(
      matrices: ["lora_A": try matrix(one.name + "/lora_A"), "lora_B": try matrix(one.name + "/lora_B")],
      values: Dictionary(uniqueKeysWithValues: try one.values.map { ($0, FloatStore(try floats("\(one.name)/\($0)"))) }), scale: one.scale, engine)
    let made = one.method.init(numbers)
    let method = try #require(made), pair = try #require(method.pair)
    let x = FloatStore(try floats(one.name + "/x")), rows = x.count / weight.inputs, outputs = weight.outputs
    let z = FloatStore(count: rows * outputs), pass = PairPass(pair, rows: rows, engine, Scratch())
    engine.multiply(x.start, rows: rows, stride: weight.inputs, [.init(weight, z.start, stride: outputs)])
    pass.add(x.start, to: z.start, stride: outputs)
    let change = method.outputs(of: weight, engine), bias = try one.bias.map { try floats("\(one.name)/\($0)") }
    try expect(
      (0..<rows * outputs).map { z.start[$0] * (change.scale?.start[$0 % outputs] ?? 1) + (bias?[$0 % outputs] ?? 0) }, "\(one.name)/\(one.y)")
    guard !one.gradients.isEmpty else { return }
    let own = try one.gradients.keys.reduce(into: PartGradients()) { $0[$1] = FloatStore([Float](repeating: 0, count: try floats("\(one.name)/\($1)").count)) }
    let dy = FloatStore(try floats(one.name + "/dy")), dx = FloatStore(count: rows * weight.inputs)
    withExtendedLifetime((x, z)) {
      method.backward(OutputGradient(dy.start, stride: outputs, rows: rows, count: outputs, z: UnsafePointer(z.start), change, engine), own)
      pass.backward(dy.start, stride: outputs, x.start, of: method, own)
      engine.multiply(dy.start, rows: rows, stride: outputs, [.init(weight.turned, dx.start, stride: weight.inputs)])
      LayerKernels.add(pass.inputGradient(), scaledBy: Float(pair.scale), count: dx.count, to: dx.start)
    }
    for (part, name) in one.gradients where !name.isEmpty { try expect(try #require(own[part]).values, "\(one.name)/\(name)") }
    try expect(dx.values, one.name + "/dx")
  }

  @Test("rows of an embedding")
  func embedding() throws {
    let numbers = MethodNumbers(
      matrices: ["lora_B": try matrix("lora_embedding/lora_embedding_B"), "lora_A": try matrix("lora_embedding/lora_embedding_A")],
      values: ["lora_A": FloatStore(try floats("lora_embedding/lora_embedding_A"))], scale: 2, engine)
    let made = LoRA(numbers)
    let term = try #require(made?.lookup), ids = try integers("lora_embedding/ids"), table = try matrix("lora_embedding/E")
    let out = FloatStore(count: ids.count * table.inputs)
    for (row, id) in ids.enumerated() { table.rows(id..<id + 1, into: out.start + row * table.inputs) }
    term.add(ids, weight: 1, to: out.start, engine, Scratch())
    try expect(out.values, "lora_embedding/y")
  }

  @Test("DoRA begins with the lengths of the weight's rows")
  func lengths() throws {
    let new = NewModule(try matrix("dora/W"), rank: 4, .kaiming, CountedRandom(seed: 0), engine)
    try expect(try #require(DoRA.start(new)["lora_magnitude_vector"]), "dora/m_init")
  }

  @Test("the loss of classes, and of tokens whose prompts count for nothing")
  func losses() throws {
    let logits = try floats("seqcls/logits"), labels = try integers("seqcls/labels")
    try expect([Float(Loss.oneLabel(logits, labels: 5, targets: labels))], "seqcls/loss")
    // Continuations of three texts, by the sum of their tokens' logarithms.
    let scores = try floats("scoring/logits"), ids = try integers("scoring/ids"), starts = try integers("scoring/cont_start")
    let lengths = try integers("scoring/cont_bytes")
    let sums = (0..<3).map { text in
      (starts[text]..<9).reduce(0.0) { sum, place in
        sum - scores.withUnsafeBufferPointer { Loss.negativeLogLikelihood($0.baseAddress! + (text * 9 + place - 1) * 13, count: 13, target: ids[text * 9 + place]) }
      }
    }
    try expect(sums.map { Float($0) }, "scoring/loglik")
    try expect((0..<3).map { Float(sums[$0] / Double(9 - starts[$0])) }, "scoring/loglik_per_token")
    try expect((0..<3).map { Float(sums[$0] / Double(lengths[$0])) }, "scoring/loglik_per_byte")
    try expect([Float(-sums.reduce(0, +) / Double(starts.reduce(0) { $0 + 9 - $1 }))], "scoring/lm_loss")
  }

  @Test("a classifier looks at the last token that is no padding, wherever padding is")
  func lastTokens() throws {
    let ids = try integers("seqcls/ids"), hidden = try floats("seqcls/hidden"), head = try matrix("seqcls/score")
    // The case pads with 0, the model with 1.
    let model = try Model(fixture("models/roberta"), threads: 1)
    let runs = (0..<4).map { row in TokenRun(ids[row * 6..<(row + 1) * 6].map { $0 < 2 ? 1 - $0 : $0 }) }
    let last = model.network.pooled(.tokens(runs), .last).map { $0.map(\.row) }
    #expect(try last == integers("seqcls/last_index").map { [$0] })
    let states = FloatStore(last.enumerated().flatMap { row, last in hidden[(row * 6 + last[0]) * 8..<(row * 6 + last[0] + 1) * 8] })
    let out = FloatStore(count: 20)
    engine.multiply(states.start, rows: 4, stride: 8, [.init(head, out.start, stride: 5)])
    try expect(out.values, "seqcls/logits")
  }

  @Test("F1 of several classes a text")
  func multilabel() {
    let gold: [Set<Int>] = [[0], [0, 2, 3], [0, 1, 3], [0, 1, 3], [1], [2], [1], [0, 3], [0], [2, 3], [0, 3], [0, 1, 3]]
    let predicted: [Set<Int>] = [[0], [0, 3], [0, 1, 3], [1, 3], [1], [2, 0], [1, 0], [0, 3], [0], [3], [3], [0, 1]]
    var metrics = LabelMetrics(classes: 4)
    for (own, actual) in zip(predicted, gold) { metrics.add(predicted: own, actual: actual) }
    #expect(abs(metrics.microF1 - 0.8372093023255814) < 1e-12)
    // The case has a fifth class that is never true nor predicted, which its scorer counts as 1.
    #expect(abs((4 * metrics.macroF1 + 1) / 5 - 0.8346153846153846) < 1e-12)
  }
}
