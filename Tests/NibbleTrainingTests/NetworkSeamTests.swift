import Glibc
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleFormats
import NibbleTraining
import TestSupport
import Testing

@testable import NibbleModels

// A family of images that exists for these tests only: a convolution, tanh, a linear layer at each position, and a head on the mean
// of all positions.

private enum TestConvolution: Architecture {
  static let modelTypes = ["test-convolution"]

  static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network {
    let channels = try config.int("channels", 1...16), filters = try config.int("filters", 1...64)
    let width = try config.int("width", 1...64), labels = try config.labelCount()
    let stem = try source.convolution("stem", outputs: filters, window: [channels, 3, 3], bias: .required)
    let mixer = try source.linear("mixer", outputs: width, inputs: filters, bias: .required)
    let output = try source.linear("classifier", outputs: labels, inputs: width, bias: .required)
    try source.checkNothingLeft(ignoring: Pattern("(?!)"))
    let head = ClassificationHead(token: .mean, dense: [], output: output, problem: try config.problem(labels: labels))
    return ConvolutionNetwork(stem, mixer, .classification(head), size: try config.int("size", 3...64), engine)
  }
}

private final class ConvolutionNetwork: Network, @unchecked Sendable {
  let engine: Engine
  let exact: Engine
  let scratch = Scratch()
  let parts: NetworkParts
  var head: Head
  private let stem: Linear
  private let mixer: Linear
  private let size: Int

  /// What a pass leaves, [rows, …] each.
  private final class Kept {
    var windows = FloatStore(count: 0), sums = FloatStore(count: 0), activated = FloatStore(count: 0)
    let linear = LinearTape()
  }

  init(_ stem: Linear, _ mixer: Linear, _ head: Head, size: Int, _ engine: Engine) {
    (self.stem, self.mixer, self.head, self.size, self.engine) = (stem, mixer, head, size, engine)
    exact = Engine(.f32, team: engine.team, variant: engine.variant)
    parts = NetworkParts(layers: [stem, mixer])
  }

  var width: Int { mixer.outputs }
  private var side: Int { size - 2 }

  func rows(_ batch: Batch) -> [Int] {
    if case .images(let images) = batch { images.map { _ in side * side } } else { [] }
  }

  /// The window of every position of every image: channels, then rows and columns.
  private func windows(_ images: [ImageRun]) -> FloatStore {
    var values: [Float] = []
    for image in images.map(\.image) {
      for at in 0..<side * side {
        for tap in 0..<stem.inputs {
          let (channel, row, column) = (tap / 9, at / side + tap % 9 / 3, at % side + tap % 3)
          values.append(image.values[(channel * size + row) * size + column])
        }
      }
    }
    return FloatStore(values)
  }

  func hidden(_ batch: Batch, tape: Tape?) throws -> UnsafePointer<Float> {
    let images = try batch.images
    guard images.allSatisfy({ [$0.image.channels * 9, $0.image.height, $0.image.width] == [stem.inputs, size, size] }) else {
      throw NibbleError.badInput("an image is not of the size the model takes")
    }
    let rows = images.count * side * side
    let layers = operations(batch, tape)
    let kept = tape?.part { Kept() } ?? Kept()
    kept.windows = windows(images)
    (kept.sums, kept.activated) = (FloatStore(count: rows * stem.outputs), FloatStore(count: rows * stem.outputs))
    layers.linear([stem], kept.windows.start, rows: 0..<rows, kept.sums.start, kept.linear)
    LayerKernels.activate(.tanh, kept.sums.start, count: kept.sums.count, kept.activated.start)
    let states = floats(0, rows * width)
    layers.linear([mixer], kept.activated.start, rows: 0..<rows, states, kept.linear)
    guard LayerKernels.allFinite(states, count: rows * width) else { throw NibbleError.quality("states are NaN or infinite") }
    return UnsafePointer(states)
  }

  func backward(_ batch: Batch, _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws {
    let rows = try batch.images.count * side * side
    let (layers, kept) = (operations(batch, tape), tape.part { Kept() })
    let inner = floats(1, rows * stem.outputs)
    layers.linearBack([mixer], kept.activated.start, rows: rows, gradient, dx: inner, kept.linear, gradients)
    LayerKernels.activateBack(.tanh, inner, kept.sums.start, count: rows * stem.outputs, inner)
    layers.linearBack([stem], kept.windows.start, rows: rows, inner, dx: nil, kept.linear, gradients)
  }

  func room(_ size: PassSize) -> PassRoom {
    let rows = size.inputs * side * side
    return PassRoom(rows: rows, kept: rows * (stem.inputs + 2 * stem.outputs), inHand: rows * (width + stem.outputs))
  }
}

@Suite("A family of images added in one file")
struct NetworkSeamTests {
  let folder = TemporaryFolder()
  private static let families = Architectures([TestConvolution.self])
  private static let size = 6

  /// Images of one channel of noise with stripes across (0) or upright (1).
  private static func rows(_ count: Int, seed: UInt64) throws -> [TrainingRow] {
    let random = CountedRandom(seed: seed, stream: 0)
    return try (0..<count).map { row in
      let label = row % 2
      let values = (0..<size * size).map { at in
        let stripe: Float = (label == 0 ? at / size : at % size) % 2 == 0 ? 0.5 : -0.5
        return stripe + Float(0.3 * random.normal(UInt64(row * size * size + at)))
      }
      return TrainingRow(
        try Image(channels: 1, height: size, width: size, values), targets: [Double(label)], place: "image \(row)")
    }
  }

  private func write() throws {
    var file = SafetensorsBuilder()
    for (name, shape) in [("stem", [4, 1, 3, 3]), ("mixer", [8, 4]), ("classifier", [2, 8])] {
      file.add(name + ".weight", shape, Self.numbers(shape.reduce(1, *), UInt64(shape[0])))
      file.add(name + ".bias", [shape[0]], Self.numbers(shape[0], UInt64(10 + shape[0])))
    }
    try folder.write("m/model.safetensors", file.bytes)
    try folder.write(
      "m/config.json",
      #"{"model_type": "test-convolution", "channels": 1, "filters": 4, "width": 8, "size": 6, "num_labels": 2}"#)
  }

  private static func numbers(_ count: Int, _ seed: UInt64) -> [Float] {
    let random = CountedRandom(seed: seed, stream: 1)
    return (0..<count).map { Float(0.5 * random.normal(UInt64($0))) }
  }

  private func open(_ name: String) throws -> Model {
    try Model(
      Checkpoint.open(folder.file(name)), precision: .f32, team: Team(threads: 2), architectures: Self.families)
  }

  private func open() throws -> Model {
    try write()
    return try open("m")
  }

  private static func judge(_ model: Model, _ rows: [TrainingRow], _ adapters: [ActiveAdapter] = []) throws -> RowScores {
    try RowScores(model, rows.map { .init($0.input, targets: $0.targets) }, adapters: adapters)
  }

  @Test("classifies, as plain loops over its weights do")
  func classes() throws {
    let model = try open()
    let file = try SmallSafetensors(folder.file("m/model.safetensors"))
    func affine(_ x: [Float], _ name: String) -> [Float] {
      let (weight, bias) = (file.floats(name + ".weight"), file.floats(name + ".bias"))
      return bias.indices.map { j in bias[j] + x.indices.reduce(0) { $0 + x[$1] * weight[j * x.count + $1] } }
    }
    let rows = try Self.rows(20, seed: 1)
    let found = try Self.judge(model, rows)
    for (row, scores) in zip(rows, found.scores) {
      guard case .image(let image) = row.input else { continue }
      var mean = [Float](repeating: 0, count: 8)
      for at in 0..<16 {
        let window = (0..<9).map { image.values[(at / 4 + $0 / 3) * 6 + at % 4 + $0 % 3] }
        let state = affine(affine(window, "stem").map { tanhf($0) }, "mixer")
        for index in 0..<8 { mean[index] += state[index] / 16 }
      }
      for (x, y) in zip(scores, affine(mean, "classifier")) { #expect(abs(x - y) <= 1e-5) }
    }
    #expect(found.count == 20 && found.metrics != nil && model.classCount == 2)
  }

  private static func options(_ method: AdapterOptions.Method, whole: [String] = []) -> FinetuneOptions {
    var options = FinetuneOptions()
    (options.adapter.method, options.adapter.rank, options.adapter.modulesToSave) = (method, 2, whole)
    options.run.optimizer.learningRate = 0.03
    (options.run.maximumSteps, options.run.batchSize) = (40, 8)
    return options
  }

  @Test(
    "has the slopes of the loss for gradients", arguments: [AdapterOptions.Method.lora, .full], [[], ["stem"]])
  func slopes(_ method: AdapterOptions.Method, _ whole: [String]) throws {
    let model = try open()
    let trained =
      try method == .full ? Trained(everythingOf: model) : Trained(Self.options(method, whole: whole).adapter, on: model)
    // Second factors of zeros leave the first no gradient.
    for tensor in trained.tensors where tensor.isSecondFactor { tensor.values.values.update(repeating: 0.1) }
    let pass = TrainingPass(model, trained)
    let rows = try Self.rows(6, seed: 2)
    func loss(learns: Bool = false) throws -> Double {
      try pass.classes(Batch(rows.map(\.input)), targets: rows.map(\.targets), learns: learns).loss
    }
    _ = try loss(learns: true)
    #expect(trained.tensors.contains { $0.name.hasSuffix("stem.weight") } == (method == .full || !whole.isEmpty))
    try checkSlopes(of: trained) { try loss() }
  }

  @Test("is trained by the run that trains all others, and what it learned is read again", arguments: [[], ["stem"]])
  func adapters(_ whole: [String]) throws {
    let model = try open()
    let (train, valid) = (try Self.rows(48, seed: 3), try Self.rows(16, seed: 4))
    let before = try Self.judge(model, valid)
    let tuning = try Finetuning(model, Self.options(.lora, whole: whole), train: train, valid: valid)
    #expect(tuning.memory(length: 36).activations > 0)
    let result = try tuning.train(in: TrainingFolder(folder.file("a"), .anew(force: false)), resume: false) { _, _ in }
    let active = ActiveAdapter(try model.attach(AdapterFile.open(folder.file("a")), name: "a"))
    let after = try Self.judge(model, valid, [active])
    let accuracy = try #require(after.metrics?.figures.first { $0.key == "accuracy" }).value
    #expect(after.loss < 0.5 * before.loss)
    // The filters of the file are random numbers: frozen, they do not tell the classes apart.
    #expect(whole.isEmpty || accuracy >= 0.9, "\(accuracy)")
    #expect(result.validationLoss.map { abs($0 - after.loss) <= 1e-5 } == true)
    #expect(try Self.judge(model, valid).loss == before.loss)
  }

  @Test("is trained whole, and written as a model that opens")
  func full() throws {
    let model = try open()
    let (train, valid) = (try Self.rows(48, seed: 3), try Self.rows(16, seed: 4))
    let before = try Self.judge(model, valid).loss
    let tuning = try Finetuning(model, Self.options(.full), train: train, valid: valid)
    let output = try TrainingFolder(folder.file("f"), .anew(force: false), isFull: true)
    let result = try tuning.train(in: output, resume: false) { _, _ in }
    let after = try Self.judge(open("f"), valid).loss
    #expect(after < 0.5 * before && result.validationLoss.map { abs($0 - after) <= 1e-5 } == true)
    #expect(result.validationBefore.first.map { abs($0.value - before) <= 1e-5 } == true)
  }

  @Test("is refused by name where texts are needed")
  func refused() throws {
    let model = try open()
    var timing = NibbleModels.Generator.Timing()
    let uses: [(String, () throws -> Void)] = [
      ("generation", { _ = try NibbleModels.Generator(model, maximumNew: 1, endIDs: []).run([.init([1])], timing: &timing) }),
      ("perplexity", { _ = try Perplexity().run([[1, 2, 3]], mark: nil, model: model) }),
      ("a vocabulary", { _ = try model.vocabularySize }), ("a context", { _ = try model.contextLength }),
    ]
    for (purpose, use) in uses {
      let error = #expect(throws: NibbleError.self) { try use() }
      #expect(error?.kind == .usage && error?.message.contains(purpose + " needs a text model") == true)
      #expect(error?.message.contains("'test-convolution'") == true)
    }
    let texts = [TrainingRow([1, 2], targets: [0], place: "text")]
    let error = #expect(throws: NibbleError.self) { try Self.judge(model, texts) }
    #expect(error?.message.contains("takes images") == true)
    let mixed = #expect(throws: NibbleError.self) { try Self.judge(model, texts + Self.rows(1, seed: 1)) }
    #expect(mixed?.message.contains("one batch") == true)
    let words = #expect(throws: NibbleError.self) {
      try Model(fixture("models/roberta"), threads: 1).network.hidden(Batch(Self.rows(1, seed: 1).map(\.input)), tape: nil)
    }
    #expect(words?.message.contains("takes tokens") == true)
  }

  @Test("has factors of convolutions where they are named", arguments: [AdapterOptions.Method.lora, .dora])
  func convolutions(_ method: AdapterOptions.Method) throws {
    let model = try open()
    let (train, valid) = (try Self.rows(48, seed: 3), try Self.rows(16, seed: 4))
    var options = Self.options(method)
    options.adapter.targets = "stem,mixer"
    let tuning = try Finetuning(model, options, train: train, valid: valid)
    let result = try tuning.train(in: TrainingFolder(folder.file("a"), .anew(force: false)), resume: false) { _, _ in }
    let stem = try SmallSafetensors(folder.file("a/adapter_model.safetensors")).entry("base_model.model.stem.lora_A.weight")
    #expect(stem?.shape == [2, 1, 3, 3])
    let active = ActiveAdapter(try model.attach(AdapterFile.open(folder.file("a")), name: "a"))
    let loss = try Self.judge(model, valid, [active]).loss
    #expect(loss < 0.5 * (result.validationBefore.first?.value ?? 0) && result.validationLoss.map { abs($0 - loss) <= 1e-5 } == true)
  }

  @Test("with factors of its convolution gives what PEFT gives", arguments: ["lora", "dora"])
  func convolutionsOfPEFT(_ name: String) throws {
    let model = try Model(
      Checkpoint.open(fixture("convolution")), precision: .f32, team: Team(threads: 1), architectures: Self.families)
    let file = try SmallSafetensors(fixture("convolution/expected.safetensors"))
    let pixels = file.floats("images"), expected = file.floats(name)
    let images = try (0..<3).map { row in
      TrainingRow(try Image(channels: 1, height: 6, width: 6, Array(pixels[row * 36..<(row + 1) * 36])), targets: [0], place: "image \(row)")
    }
    let active = ActiveAdapter(try model.attach(AdapterFile.open(fixture("convolution/" + name)), name: name))
    let found = try Self.judge(model, images, [active]).scores.flatMap { $0 }
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 1e-5 * 3, "\(x), \(y)") }
    #expect(found.count == expected.count)
  }

  @Test("has factors of convolutions of LoRA and DoRA only", arguments: ["stem", "stem,mixer", ".*(stem|mixer)"])
  func otherMethods(_ targets: String) throws {
    let model = try open()
    var options = AdapterOptions()
    options.targets = targets
    options.method = try #require(AdapterOptions.Method(rawValue: "vera"))
    let error = #expect(throws: NibbleError.self) { try Trained(options, on: model) }
    #expect(error?.kind == .usage && error?.message.contains("'stem' is a convolution") == true)
  }

  @Test("is none of nibble's own")
  func list() throws {
    try write()
    let error = #expect(throws: NibbleError.self) { try Model(folder.file("m")) }
    #expect(error?.kind == .badInput && error?.message.contains("'test-convolution' is not implemented") == true)
  }
}
