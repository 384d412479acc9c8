import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleTraining

@Suite("Merge-aware training")
struct MergeAwareTests {
  let folder = TemporaryFolder()

  private func base(_ encoder: StreamJob.Encoder = .absmax) throws -> Model {
    let path = folder.file("base-\(encoder.rawValue).nbl")
    if PathKind(path) == .nothing {
      var options = QuantizeOptions()
      options.encoder = encoder
      _ = try StreamJob.quantize(
        Checkpoint.open(fixture("stories260K")), options, to: OutputSpec(path: path, format: nil, default: .nbl)
      ).run()
    }
    return try Model(Checkpoint.open(path), precision: .f32, team: Team(threads: 2))
  }

  private func trained(_ model: Model, rank: Int = 4) throws -> Trained {
    var options = AdapterOptions()
    (options.rank, options.seed) = (rank, 3)
    let trained = try Trained(options, on: model)
    // Second factors that are not zero.
    var random = Generator(9)
    for module in trained.modules.values {
      guard let b = module.parts[LoRA.second]?.values else { continue }
      for place in 0..<b.count { b.start[place] = Float(random.normal()) * 0.02 }
    }
    return trained
  }

  private let rows = (0..<4).map { start in (0..<32).map { 3 + (start * 37 + $0 * $0 * 7) % 400 } }

  @Test("computes with the weights that a merge stores", arguments: [StreamJob.Encoder.absmax, .mse, .mseSigned])
  func weights(_ encoder: StreamJob.Encoder) throws {
    let model = try base(encoder), trained = try trained(model)
    let rounded = try RoundedWeights(model, trained)
    try rounded.update()
    let binding = AdapterBinding(to: model.checkpoint, identity: try model.checkpoint.hash(threads: 1))
    var adapter = AdapterOptions()
    adapter.rank = 4
    try trained.folder(adapter, start: nil, on: model, binding: binding).write(to: folder.file("adapter"), force: true)
    var options = MergeOptions([.init(try AdapterFile.open(folder.file("adapter")))])
    options.minimumSurvival = 0
    let path = folder.file("merged.nbl")
    _ = try StreamJob.merge(model.checkpoint, options, to: OutputSpec(path: path, format: nil, default: .nbl)).run()
    let merged = try Model(path, threads: 1)
    for layer in merged.linears where trained.modules[layer.id] != nil {
      let own = try #require(rounded.merged.matrices[layer.id])
      // A sum that lies between two codes may fall either way: the stream adds in runs of its own.
      let others = zip(own.values().values, layer.matrix.values().values).count { abs($0 - $1) > 1e-6 }
      #expect(others <= layer.inputs * layer.outputs / 500, "\(layer.name): \(others)")
    }
  }

  @Test("has the gradients that unrounded weights of those values would give the factors")
  func gradients() throws {
    let model = try base(), trained = try trained(model)
    let rounded = try RoundedWeights(model, trained)
    let pass = TrainingPass(model, trained, rounded: rounded)
    try pass.round()
    let ids = rows.map { TokenRun($0) }
    let loss = try pass.language(ids, labels: rows).loss
    let last = try #require(model.linears.last { trained.modules[$0.id] != nil })
    // The gradient of a float weight moved along B is what the second factor gets.
    let module = try #require(trained.modules[last.id]), tensor = try #require(module.parts[LoRA.second])
    #expect(tensor.gradient.values.contains { $0 != 0 } && loss.isFinite)
    // The last layer's weight, as float32, moves freely.
    let matrix = try #require(rounded.merged.matrices[last.id])
    let a = try #require(module.parts[LoRA.first]?.values)
    for place in [0, 5, tensor.values.count - 1] {
      let (row, k) = place.quotientAndRemainder(dividingBy: module.rank)
      func moved(_ step: Float) throws -> Double {
        let values = matrix.values()
        for input in 0..<last.inputs { values.start[row * last.inputs + input] += step * Float(module.scale) * a.start[k * last.inputs + input] }
        rounded.merged.matrices[last.id] = Matrix(
          .f32, rows: last.outputs, columns: last.inputs, UnsafeRawBufferPointer(values.values), owner: values)
        return try pass.language(ids, labels: rows, learns: false).loss
      }
      let slope = (try moved(2e-2) - moved(-2e-2)) / 4e-2
      #expect(abs(slope - Double(tensor.gradient.start[place])) <= 2e-2 * abs(slope) + 2e-4)
    }
  }

  @Test("leaves less for rounding to take than plain training does")
  func learns() throws {
    let model = try base()
    let data = (0..<16).map { index in
      TrainingRow(rows[index % 4], labels: rows[index % 4], place: "row")
    }
    func merged(_ aware: Bool) throws -> (attached: Double, merged: Double) {
      var options = RunOptions()
      (options.mergeAware, options.maximumSteps, options.batchSize, options.optimizer.learningRate) = (aware, 25, 4, 2e-3)
      var adapter = AdapterOptions()
      (adapter.rank, adapter.seed) = (4, 3)
      let trained = try Trained(adapter, on: model)
      let run = try TrainingRun(model, trained, data, options)
      for _ in 0..<25 { _ = try run.step() }
      let rounded = try RoundedWeights(model, trained)
      let apart = try TrainingPass(model, trained).language(rows.map { TokenRun($0) }, labels: rows, learns: false).loss
      let pass = TrainingPass(model, trained, rounded: rounded)
      try pass.round()
      return (apart, try pass.language(rows.map { TokenRun($0) }, labels: rows, learns: false).loss)
    }
    let plain = try merged(false), aware = try merged(true)
    #expect(aware.merged < plain.merged, "\(aware) \(plain)")
  }

  @Test("is refused where nothing is packed, for DoRA, with dropout and with full training")
  func refused() throws {
    let float = try Model(fixture("stories260K"), threads: 1)
    var adapter = AdapterOptions()
    let error = #expect(throws: NibbleError.self) { try RoundedWeights(float, Trained(adapter, on: float)) }
    #expect(error?.kind == .usage)
    let model = try base()
    adapter.method = .dora
    #expect(throws: NibbleError.self) { try RoundedWeights(model, Trained(adapter, on: model)) }
    var options = FinetuneOptions()
    (options.run.mergeAware, options.run.dropout) = (true, 0.1)
    let rows = [TrainingRow([1, 2, 3], labels: [1, 2, 3], place: "row")]
    let refusal = #expect(throws: NibbleError.self) { try Finetuning(model, options, train: rows) }
    #expect(refusal?.kind == .usage)
  }
}
