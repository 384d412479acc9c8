import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Merges into calibrated codes")
struct CalibratedMergeTests {
  let folder = TemporaryFolder()

  /// Text that stories260K writes.
  private static let windows: [[Int]] = {
    let model = try? Model(fixture("stories260K"), threads: 2)
    return model.flatMap { try? CalibrationText(writtenBy: $0, from: [.init([1])], tokens: 2048, seed: 1, ends: [2]).windows } ?? []
  }()

  /// stories260K packed, and a LoRA of every linear layer that is small beside rounding.
  private func task() throws -> (base: Checkpoint, adapter: AdapterFile) {
    let path = folder.file("base.nbl")
    let job = try StreamJob.quantize(
      Checkpoint.open(fixture("stories260K")), QuantizeOptions(), to: OutputSpec(path: path, format: nil, default: .nbl))
    _ = try job.run()
    let base = try Checkpoint.open(path), model = try Model(base, precision: .f32, team: Team(threads: 1))
    var random = Generator(5)
    let factors = try model.transformer.weights.layers.flatMap(\.linears).map { linear in
      AdapterFolder.Factors(
        module: linear.name, a: (0..<4 * linear.inputs).map { _ in Float(random.normal()) * 0.14 },
        b: (0..<4 * linear.outputs).map { _ in Float(random.normal()) * 0.14 }, rank: 4)
    }
    try AdapterFolder(factors, of: base, threads: 1).write(to: folder.file("adapter"), force: false)
    return (base, try AdapterFile.open(folder.file("adapter")))
  }

  private func merged(
    _ base: Checkpoint, _ adapter: AdapterFile, _ name: String, _ calibrate: (inout StreamJob) throws -> CalibrationReport? = { _ in nil }
  ) throws -> (path: String, stream: StreamReport, calibration: CalibrationReport?) {
    var options = MergeOptions([.init(adapter)])
    options.minimumSurvival = 0
    let path = folder.file(name + ".nbl")
    var job = try StreamJob.merge(base, options, to: OutputSpec(path: path, format: nil, default: .nbl))
    let report = try calibrate(&job)
    return (path, try job.run(), report)
  }

  /// ‖states − those of base and adapter‖²
  private func distance(_ path: String, _ base: Checkpoint, _ adapter: String) throws -> Double {
    let own = try Model(path, threads: 1), model = try Model(base, precision: .f32, team: Team(threads: 1))
    let set = AdapterSet(model)
    try set.attach(adapter, as: "a")
    let run = TokenRun(Array(Self.windows[0].prefix(40)))
    let count = 40 * model.network.width
    let wanted = Array(
      UnsafeBufferPointer(
        start: try model.network.hidden(.tokens([TokenRun(run.ids, adapters: try set.selection([("a", 1)]))]), tape: nil), count: count))
    let found = UnsafeBufferPointer(start: try own.network.hidden(.tokens([run]), tape: nil), count: count)
    return zip(wanted, found).reduce(0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
  }

  @Test("come much closer to the attached adapter than rounding does, with a text or its statistics")
  func close() throws {
    let (base, adapter) = try task()
    let model = try Model(base, precision: .f32, team: Team(threads: 2))
    let rounded = try merged(base, adapter, "rounded")
    let own = try merged(base, adapter, "own") { try $0.calibrate(with: model, Self.windows) }
    #expect(own.calibration?.certificates.count == 35 && own.calibration?.unreached.isEmpty == true)
    // The survival of the change is measured in the outputs.
    #expect(own.stream.changed.count == 35 && own.stream.changed.allSatisfy { $0.isOfOutputs && $0.sums.survival > 0.5 },
      "\(own.stream.changed.map(\.sums.survival))")
    #expect(own.stream.change.survival > 0.9)
    _ = try Checkpoint.open(own.path).verify(threads: 2)
    let far = try distance(rounded.path, base, adapter.path), near = try distance(own.path, base, adapter.path)
    #expect(near < 0.5 * far, "\(near) \(far)")
    _ = try StatisticsPass(model, Self.windows, diagonal: false).run(to: folder.file("s"), force: false, threads: 1)
    let kept = try merged(base, adapter, "kept") { try $0.calibrate(from: StatisticsFile(folder.file("s"))) }
    let middle = try distance(kept.path, base, adapter.path)
    #expect(middle < 0.8 * far, "\(middle) \(far)")
  }

  @Test("go on where they were stopped, with the same bytes")
  func resumed() throws {
    let (base, adapter) = try task()
    let model = try Model(base, precision: .f32, team: Team(threads: 2))
    var resumed: [Int] = []
    func run(_ name: String, resumes: Bool) throws -> String {
      let path = folder.file(name + ".nbl")
      var job = try StreamJob.merge(base, MergeOptions([.init(adapter)]), to: OutputSpec(path: path, format: nil, default: .nbl))
      job.resumes = resumes
      resumed.append(try job.calibrate(with: model, Self.windows).resumed)
      job.resumes = false
      _ = try job.run()
      return path
    }
    let whole = try bytes(of: run("whole", resumes: false))
    _ = try run("a", resumes: true)
    // What a kill leaves: a journal that ends in the middle of a record.
    let journal = folder.file(".a.nbl.nibble-codes")
    let kept = try bytes(of: journal)
    for share in [0.3, 0.8] {
      try Data(kept.prefix(Int(share * Double(kept.count)))).write(to: URL(fileURLWithPath: journal))
      unlink(folder.file("a.nbl"))
      #expect(try bytes(of: run("a", resumes: true)) == whole)
    }
    #expect(resumed[0] == 0 && resumed[1] == 0 && resumed[2] > 5 && resumed[2] < 20 && resumed[3] > resumed[2] && resumed[3] < 35)
    #expect(try bytes(of: journal) == kept)
    // Of another job nothing is taken.
    var job = try StreamJob.merge(base, MergeOptions([.init(adapter, weight: 2)]), to: OutputSpec(path: folder.file("a.nbl"), format: nil, default: .nbl))
    job.resumes = true
    #expect(try job.calibrate(with: model, Self.windows).resumed == 0)
    job.removeKeptCodes()
    #expect(PathKind(journal) == .nothing)
  }

  @Test("are refused where all of them together lose their change")
  func gate() throws {
    let (base, adapter) = try task()
    let model = try Model(base, precision: .f32, team: Team(threads: 2))
    var options = MergeOptions([.init(adapter)])
    options.minimumSurvival = 0.9999
    var job = try StreamJob.merge(base, options, to: OutputSpec(path: folder.file("o.nbl"), format: nil, default: .nbl))
    _ = try job.calibrate(with: model, Self.windows)
    let error = #expect(throws: NibbleError.self) { try job.run() }
    #expect(error?.kind == .quality && error?.message.contains("35 changed tensors together") == true, "\(error?.message ?? "")")
    #expect(PathKind(folder.file("o.nbl")) == .nothing)
  }

  @Test("refuse adapters that change norms or embeddings")
  func refused() throws {
    let (base, _) = try task()
    let model = try Model(base, precision: .f32, team: Team(threads: 1))
    var job = try StreamJob.convert(base, to: OutputSpec(path: folder.file("o.nbl"), format: nil, default: .nbl))
    let norm = try #require(job.items.firstIndex { $0.source.name.text == "model.layers.1.input_layernorm.weight" })
    job.items[norm].replacement = job.items[norm].source
    let q = try #require(job.items.firstIndex { $0.source.name.text == "model.layers.1.self_attn.q_proj.weight" })
    let source = job.items[q].source
    job.items[q].change = { Zero(count: source.count) }
    let error = #expect(throws: NibbleError.self) { try job.calibrate(with: model, Self.windows) }
    #expect(error?.kind == .usage && error?.message.contains("input_layernorm") == true)
  }

  private struct Zero: TensorChange {
    let count: Int
    func delta(_ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _: Scratch) {
      delta.update(repeating: 0, count: count)
    }
  }
}
