import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

/// A method as training is asked for it, and what every method is asked.
struct MethodCase: CustomTestStringConvertible, Sendable {
  var method: String
  var settings: [String: Double] = [:]
  var rank = 4
  var alpha = 2.0
  /// Of the numbers that are drawn: what is repeated often adds up.
  var spread = 0.1
  /// Whether a plain LoRA adapter says the same.
  var folds = true
  var testDescription: String { "\(method) \(settings)" }

  func options(steps: Int = 6) throws -> FinetuneOptions {
    let method = try #require(AdapterOptions.Method(rawValue: method))
    return RunTests.options(steps: steps) {
      ($0.adapter.method, $0.adapter.rank, $0.adapter.alpha, $0.adapter.settings) = (method, rank, alpha, settings)
    }
  }

  /// What is trained, with numbers that training might have put there.
  func drawn(on model: Model) throws -> Trained {
    let trained = try Trained(options().adapter, on: model)
    for tensor in trained.tensors {
      let random = CountedRandom(seed: 3, stream: XXH3.digest64(of: Array(tensor.name.utf8)))
      for index in 0..<tensor.values.count { tensor.values.start[index] += Float(spread * random.normal(UInt64(index))) }
    }
    return trained
  }

  /// Gradients against slopes of the loss.
  func checkSlopes(on model: Model, dropout: Dropout? = nil, change: Double = 0.02) throws {
    let trained = try drawn(on: model), pass = TrainingPass(model, trained), rows = RunTests.rows(4)
    pass.dropout = dropout
    func loss(learns: Bool = false) throws -> Double {
      try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: learns).loss
    }
    _ = try loss(learns: true)
    try NibbleTrainingTests.checkSlopes(of: trained, change: change) { try loss() }
  }

  /// Numbers of a trained adapter read again as they were, attached, merged into what they compute attached, and trained on.
  ///
  /// - Returns: the adapter in `folder/a`, and the model's states with it
  func checkLife(_ base: String, in folder: TemporaryFolder) throws -> (model: Model, file: AdapterFile, attached: [Float]) {
    let model = try Model(fixture("models/" + base), threads: 2), options = try options().adapter
    let trained = try drawn(on: model)
    let before = try states(model, trained.attached(to: model))
    try trained.folder(options, start: nil, on: model, binding: nil).write(to: folder.file("a"), force: false)
    let file = try AdapterFile.open(folder.file("a"))
    #expect(file.config.unknownKeys.isEmpty)
    let attached = try states(model, model.attach(file, name: "a"))
    #expect(attached == before)
    #expect(try attached != states(model))
    let job = try StreamJob.merge(
      Checkpoint.open(fixture("models/" + base)), MergeOptions([.init(file)]),
      to: OutputSpec(path: folder.file("merged"), format: nil, default: .safetensors), check: MergeCheck())
    _ = try job.run()
    expectSame(try states(Model(folder.file("merged"), threads: 2)), attached, 1e-4)
    let again = try Trained(file, on: model)
    #expect(try states(model, again.attached(to: model)) == before)
    let written = again.folder(AdapterOptions(), start: file.config.json, on: model, binding: nil)
    #expect(written.tensors.map(\.name).sorted() == file.mapped.checkpoint.tensors.map(\.name.text).sorted())
    return (model, file, attached)
  }

  /// A run with accumulation, resumed or not.
  func checkRun(dropout: Double = 0) throws -> Finetuning.Result {
    let tests = RunTests()
    var options = try options(steps: 8)
    (options.run.dropout, options.run.accumulation) = (dropout, 2)
    let result = try #require(try tests.train("a", options))
    try tests.train("b", options, stopAfter: 5)
    try tests.train("b", options, resume: true)
    #expect(try tests.adapter("a") == tests.adapter("b"))
    return result
  }
}

/// What a model's body makes of two texts.
func states(_ model: Model, _ adapter: AttachedAdapter? = nil) throws -> [Float] {
  let runs = [[7, 9, 3, 200, 7, 41, 3], [200, 3, 5, 7]].map { TokenRun($0, adapters: adapter.map { [ActiveAdapter($0)] } ?? []) }
  let count = runs.reduce(0) { $0 + $1.ids.count } * model.network.width
  return Array(UnsafeBufferPointer(start: try model.network.hidden(.tokens(runs), tape: nil), count: count))
}

func expectSame(_ a: [Float], _ b: [Float], _ tolerance: Float) {
  let size = b.reduce(0) { max($0, abs($1)) }
  #expect(a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) <= tolerance * size })
}
