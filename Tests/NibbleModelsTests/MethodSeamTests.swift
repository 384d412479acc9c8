import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels
import TestSupport
import Testing

/// (IA)³, arXiv:2205.05638: y = l∘(x · Wᵀ) + b. An adapter method that exists for these tests alone; this is all of it.
private struct IA3: LinearMethod {
  static let name = "ia3_l"
  /// [outputs]
  let l: FloatStore

  init(l: FloatStore) { self.l = l }

  init?(_ numbers: MethodNumbers) {
    guard let l = numbers.parts[Self.name] else { return nil }
    self.l = l
  }

  var pair: LowRankPair? { nil }
  var scalesOutputs: Bool { true }

  func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange { OutputChange(scale: l) }

  /// dl = Σ dy∘z, dz = l∘dy.
  func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    if let own = gradients[Self.name] {
      for output in 0..<outputs.count { own.start[output] += Float(outputs.productSum(output)) }
    }
    outputs.scale()
  }
}

@Suite("A method added in one file")
struct MethodSeamTests {
  static let batch = [[7, 9, 3, 200, 7, 41, 3], [200, 3, 5, 7]]

  /// A vector near 1 for every layer of the body, and the weights it amounts to.
  private func adapters(_ model: Model) -> (own: AttachedAdapter, scaled: AttachedAdapter, l: [ParameterID: FloatStore]) {
    var l: [ParameterID: FloatStore] = [:]
    var matrices: [ParameterID: Matrix] = [:]
    for (number, layer) in model.network.parts.layers.enumerated() {
      let random = CountedRandom(seed: 3, stream: UInt64(number))
      let own = (0..<layer.outputs).map { Float(1 + 0.3 * random.normal(UInt64($0))) }
      l[layer.id] = FloatStore(own)
      let (rows, columns) = (layer.matrix.native.rows, layer.matrix.native.columns)
      let values = FloatStore(count: rows * columns)
      layer.matrix.rows(0..<rows, into: values.start)
      let scaled = values.values.enumerated().map { index, value in
        value * own[layer.matrix.isTransposed ? index % columns : index / columns]
      }
      matrices[layer.id] = Matrix(scaled, rows: rows, columns: columns, isTransposed: layer.matrix.isTransposed)
    }
    return (
      AttachedAdapter(name: "ia3", methods: l.mapValues { IA3(l: $0) }, embeddings: [:], vectors: [:], matrices: [:]),
      AttachedAdapter(name: "scaled", methods: [:], embeddings: [:], vectors: [:], matrices: matrices), l
    )
  }

  private func runs(_ adapter: AttachedAdapter) -> Batch {
    .tokens(Self.batch.map { TokenRun($0, adapters: [ActiveAdapter(adapter)]) })
  }

  @Test("runs attached, as the weights that its vectors amount to", arguments: ["llama", "gpt2", "roberta"])
  func forward(_ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    let (own, scaled, _) = adapters(model)
    let count = Self.batch.joined().count * model.network.width
    let found = Array(UnsafeBufferPointer(start: try model.network.hidden(runs(own), tape: nil), count: count))
    let expected = UnsafeBufferPointer(start: try model.network.hidden(runs(scaled), tape: nil), count: count)
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 1e-4 + 1e-4 * abs(y)) }
  }

  @Test(
    "has the slope of what it is trained on for its gradient", arguments: ["llama", "gpt2", "roberta"], [true, false])
  func backward(_ base: String, _ checkpointing: Bool) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    let (own, _, l) = adapters(model)
    let runs = runs(own)
    var gradients = Gradients()
    for (id, values) in l { gradients.methods[id] = [IA3.name: FloatStore([Float](repeating: 0, count: values.count))] }
    let trained = try l.map { id, values in
      (name: model.parameterNames[id], values: values, gradient: try #require(gradients.methods[id]?[IA3.name]))
    }
    try checkSlopes(of: model.network, runs, Tape(checkpointing: checkpointing), gradients, trained)
  }
}
