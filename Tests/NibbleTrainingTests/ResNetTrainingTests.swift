import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleFormats
import NibbleTraining
import TestSupport
import Testing

@testable import NibbleModels

@Suite("Training residual networks")
struct ResNetTrainingTests {
  let folder = TemporaryFolder()
  private static let forms = ["basic", "bottleneck", "small"]

  private static func rows(_ count: Int, seed: UInt64) throws -> [TrainingRow] {
    let random = CountedRandom(seed: seed, stream: 0)
    return try (0..<count).map { row in
      let values = (0..<3 * 9 * 8).map { Float(random.normal(UInt64(row * 1000 + $0))) + (row % 2 == 0 ? 0.5 : -0.5) }
      return TrainingRow(try Image(channels: 3, height: 9, width: 8, values), targets: [Double(row % 2)], place: "image \(row)")
    }
  }

  private static func options(_ method: AdapterOptions.Method) -> FinetuneOptions {
    var options = FinetuneOptions()
    (options.adapter.method, options.adapter.rank) = (method, 2)
    options.adapter.targets = #".*(conv\d|convolution)"#
    options.run.optimizer.learningRate = 0.02
    (options.run.maximumSteps, options.run.batchSize) = (12, 8)
    return options
  }

  @Test("has torch's gradients, with running statistics and with the batch's", arguments: forms, ["running", "batch"])
  func gradients(_ form: String, _ statistics: String) throws {
    let asked = try SmallSafetensors(fixture("images/logits.safetensors")).floats("images"), size = 3 * 14 * 10
    let images = try (0..<3).map { ModelInput.image(try Image(channels: 3, height: 14, width: 10, Array(asked[$0 * size..<($0 + 1) * size]))) }
    let expected = try #require(JSON.parse(bytes(of: fixture("images/gradients.json")))[form]?[statistics])
    let model = try Model(fixture("images/" + form), threads: 2)
    let trained = try Trained(everythingOf: model)
    let pass = TrainingPass(model, trained)
    pass.movesStatistics = statistics == "batch"
    let loss = try pass.classes(Batch(images), targets: [[0], [1], [2]]).loss
    #expect(abs(loss - (expected["loss"]?.double ?? .nan)) <= 1e-5 * loss)
    #expect(trained.tensors.count == expected["gradients"]?.members?.count)
    for tensor in trained.tensors {
      let length = tensor.gradient.values.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
      let wanted = expected["gradients"]?[tensor.name]?.double ?? .nan
      #expect(abs(length - wanted) <= 1e-4 * wanted + 1e-5, "\(tensor.name): \(length), \(wanted)")
    }
  }

  @Test("has the slopes of the loss for gradients of adapters, with dropout and without", arguments: ["basic", "small"], [0, 0.3])
  func slopes(_ form: String, _ rate: Double) throws {
    let model = try Model(fixture("images/" + form), threads: 2)
    let trained = try Trained(Self.options(.lora).adapter, on: model)
    let random = CountedRandom(seed: 3, stream: 0)
    for (place, tensor) in trained.tensors.enumerated() {
      for index in 0..<tensor.values.count { tensor.values.start[index] += Float(0.05 * random.normal(UInt64(place * 100_000 + index))) }
    }
    let pass = TrainingPass(model, trained), rows = try Self.rows(3, seed: 9)
    pass.dropout = rate > 0 ? Dropout(rate: rate, seed: 5, pass: 2) : nil
    func loss(learns: Bool = false) throws -> Double {
      try pass.classes(Batch(rows.map(\.input)), targets: rows.map(\.targets), learns: learns).loss
    }
    _ = try loss(learns: true)
    // Between a ReLU's two slopes only where steps are small.
    try checkSlopes(of: trained, change: 0.0003) { try loss() }
  }

  @Test("leaves the base's statistics alone with an adapter, and moves and saves them where everything is trained")
  func statistics() throws {
    let path = fixture("images/basic")
    let name = "resnet.encoder.stages.1.layers.0.layer.1.normalization.running_var"
    let before = try SmallSafetensors(path + "/model.safetensors").floats(name)
    let (train, valid) = (try Self.rows(32, seed: 3), try Self.rows(12, seed: 4))
    func judge(_ model: Model, _ adapters: [ActiveAdapter] = []) throws -> Double {
      try RowScores(model, valid.map { .init($0.input, targets: $0.targets) }, adapters: adapters).loss
    }
    let model = try Model(path)
    let adapter = try Finetuning(model, Self.options(.lora), train: train, valid: valid)
    let learned = try adapter.train(in: TrainingFolder(folder.file("a"), .anew(force: false)), resume: false) { _, _ in }
    let active = ActiveAdapter(try model.attach(AdapterFile.open(folder.file("a")), name: "a"))
    let loss = try judge(model, [active])
    #expect(loss < (learned.validationBefore.first?.value ?? 0) && learned.validationLoss.map { abs($0 - loss) <= 1e-5 } == true)

    let whole = try Finetuning(model, Self.options(.full), train: train, valid: valid)
    let result = try whole.train(in: TrainingFolder(folder.file("f"), .anew(force: false), isFull: true), resume: false) { _, _ in }
    let after = try SmallSafetensors(folder.file("f/model.safetensors")).floats(name)
    #expect(zip(before, after).contains { abs($0 - $1) > 1e-3 })
    let found = try judge(Model(folder.file("f")))
    #expect(found < (result.validationBefore.first?.value ?? 0) && result.validationLoss.map { abs($0 - found) <= 1e-5 } == true)
  }

  @Test("that is interrupted goes on with the statistics it had")
  func resumed() throws {
    let train = try Self.rows(32, seed: 3)
    func run(_ name: String, stopping: Int?, resume: Bool) throws {
      let model = try Model(fixture("images/small"), threads: 1)
      var options = Self.options(.full)
      options.saveSteps = 5
      options.run.images.padding = 1
      options.run.images.flips = true
      let tuning = try Finetuning(model, options, train: train)
      let output = try TrainingFolder(folder.file(name), resume ? .resume : .anew(force: false), isFull: true)
      struct Stop: Error {}
      do {
        _ = try tuning.train(in: output, resume: resume) { report, _ in if report.step == stopping { throw Stop() } }
      } catch is Stop {}
    }
    try run("whole", stopping: nil, resume: false)
    try run("halves", stopping: 7, resume: false)
    try run("halves", stopping: nil, resume: true)
    let (whole, halves) = (try bytes(of: folder.file("whole/model.safetensors")), try bytes(of: folder.file("halves/model.safetensors")))
    #expect(whole == halves)
  }

  @Test("sees other images each time, as torchvision's crops and flips would be")
  func augmented() throws {
    let image = try Image(channels: 1, height: 3, width: 3, (1...9).map { Float($0) })
    var changes = ImageAugmentation()
    changes.flips = true
    (changes.padding, changes.black) = (1, [-1])
    let random = CountedRandom(seed: 1, stream: 0)
    let seen = try (0..<200).map { try changes.applied(to: image, random, place: $0) }
    #expect(Set(seen.map(\.values)).count == 18)
    #expect(try seen[3] == changes.applied(to: image, random, place: 3))
    // Every one is a window of the padded image, mirrored or not.
    let padded: [[Float]] = [[-1, -1, -1, -1, -1], [-1, 1, 2, 3, -1], [-1, 4, 5, 6, -1], [-1, 7, 8, 9, -1], [-1, -1, -1, -1, -1]]
    var windows: Set<[Float]> = []
    for top in 0..<3 {
      for left in 0..<3 {
        let lines = (top..<top + 3).map { Array(padded[$0][left..<left + 3]) }
        windows.formUnion([lines.flatMap { $0 }, lines.flatMap { $0.reversed() }])
      }
    }
    #expect(Set(seen.map(\.values)) == windows)
  }
}
