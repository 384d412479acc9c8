import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Statistics")
struct StatisticsTests {
  let folder = TemporaryFolder()
  private static let windows = (0..<24).map { start in (0..<40).map { 3 + (start * 37 + $0 * $0 * 7) % 400 } }

  private func written(_ name: String, diagonal: Bool = false, threads: Int = 2, cap: Double = 100) throws -> StatisticsFile {
    let model = try Model(Checkpoint.open(fixture("stories260K")), precision: .f32, team: Team(threads: threads))
    var options = CalibrationOptions()
    options.cap = cap
    let report = try StatisticsPass(model, Self.windows, diagonal: diagonal, options).run(to: folder.file(name), force: false, threads: threads)
    #expect(report.layers == 35 && report.tensors == 20 && report.tokens == 24 * 40)
    return try StatisticsFile(folder.file(name))
  }

  @Test("are the mean products of what a layer takes, the same from any number of threads")
  func oracle() throws {
    let file = try written("a.safetensors", cap: 1e12), again = try written("b.safetensors", threads: 1, cap: 1e12)
    #expect(try bytes(of: folder.file("a.safetensors")) == bytes(of: folder.file("b.safetensors")))
    #expect(file.text == again.text && !file.isDiagonal)
    // What the first layer's queries take.
    let model = try Model(fixture("stories260K"), threads: 1), transformer = try model.transformer
    let width = transformer.shape.width, rows = 24 * 40
    let x = FloatStore(count: rows * width), input = FloatStore(count: rows * width)
    for (index, window) in Self.windows.enumerated() { try transformer.embedded([TokenRun(window)], into: x.start + index * 40 * width) }
    HalfLayer(transformer, layer: 0, .attention).input(x.start, rows, into: input.start)
    for name in ["q", "k", "v"] {
      let moments = try #require(try file.moments(of: "model.layers.0.self_attn.\(name)_proj", inputs: width))
      for (i, j) in [(0, 0), (3, 17), (17, 40), (63, 63)] {
        let wanted = (0..<rows).reduce(0.0) { $0 + Double(input.start[$1 * width + i]) * Double(input.start[$1 * width + j]) } / Double(rows)
        #expect(abs(Double(moments.hessian.start[i * width + j]) - wanted) < 1e-4 * max(abs(wanted), 1))
      }
    }
    #expect(try file.moments(of: "model.layers.0.self_attn.x_proj", inputs: width) == nil)
    let energies = try written("d.safetensors", diagonal: true, cap: 1e12)
    let own = try #require(try energies.moments(of: "model.layers.2.mlp.down_proj", inputs: 172))
    let full = try #require(try file.moments(of: "model.layers.2.mlp.down_proj", inputs: 172))
    #expect(energies.isDiagonal)
    for place in 0..<172 { #expect(abs(own.diagonal[place] - full.diagonal[place]) <= 1e-4 * full.diagonal[place]) }
    #expect(own.hessian.start[1] == 0)
  }

  private func packed(_ name: String, from statistics: StatisticsFile?, correction: Int? = nil) throws -> (String, CalibrationReport?) {
    var options = QuantizeOptions()
    options.encoder = statistics == nil ? .mse : .mseSigned
    let path = folder.file(name + ".nbl")
    var job = try StreamJob.quantize(Checkpoint.open(fixture("stories260K")), options, to: OutputSpec(path: path, format: nil, default: .nbl))
    var settings = CalibrationOptions()
    settings.correctionRank = correction
    let report = try statistics.map { try job.calibrate(from: $0, settings) }
    _ = try job.run()
    return (path, report)
  }

  @Test("choose codes that lose less than rounding does, and corrections, without a model")
  func codes() throws {
    let (path, report) = try packed("own", from: try written("a.safetensors"), correction: 4)
    let found = try #require(report)
    #expect(found.certificates.count == 35 && found.unreached.isEmpty && found.corrections.count == 35)
    #expect(found.certificates.allSatisfy { !$0.isTaken || $0.after < $0.before })
    #expect(found.meanAfter < 0.6 * found.meanBefore && found.meanCorrected < 0.9 * found.meanAfter)
    _ = try Checkpoint.open(path).verify(threads: 2)
    // Energies alone: nothing is made up for, and little is gained.
    let (_, energies) = try packed("energies", from: try written("d.safetensors", diagonal: true))
    #expect(try #require(energies).meanAfter < #require(energies).meanBefore)
  }

  @Test("of another model are refused, and so are files that are none")
  func refused() throws {
    let file = try written("a.safetensors")
    let error = #expect(throws: NibbleError.self) { try file.check(Checkpoint.open(fixture("models/llama")), threads: 1) }
    #expect(error?.kind == .adapterMismatch)
    // What was packed from it says so.
    try file.check(Checkpoint.open(try packed("own", from: file).0), threads: 1)
    #expect(throws: NibbleError.self) { try StatisticsFile(fixture("stories260K/model.safetensors")) }
    #expect(throws: NibbleError.self) { try file.moments(of: "model.layers.0.mlp.down_proj", inputs: 64) }
    let damaged = try TensorFile.Writer(
      [("m.moments", [3])],
      metadata: [
        ("format", StatisticsFile.format), ("version", "1"), ("model", file.model.description), ("tokens", "5"), ("text", ""),
        ("layers", #"{"m": "m", "n": "o"}"#),
      ], to: folder.file("nan"), force: false)
    try [1, .nan, 1].withUnsafeBufferPointer { try damaged.add($0, to: "m.moments") }
    try damaged.finish()
    let broken = try StatisticsFile(folder.file("nan"))
    for layer in ["m", "n"] {
      let error = #expect(throws: NibbleError.self) { try broken.moments(of: layer, inputs: 2) }
      #expect(error?.kind == .badInput)
    }
  }
}
