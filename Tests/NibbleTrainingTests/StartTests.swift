import NibbleAdapters
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

/// Starts that go by more than the weight, and a weight that moves.
@Suite("Starts by statistics, LoftQ, Delta-LoRA")
struct StartTests {
  private let tests = RunTests()

  private func statistics(_ model: Model) throws -> StatisticsFile {
    let windows = (0..<20).map { start in (0..<24).map { 3 + (start * 37 + $0 * $0 * 7) % 200 } }
    let path = tests.folder.file("statistics")
    _ = try StatisticsPass(model, windows, diagonal: false).run(to: path, force: true, threads: 2)
    return try StatisticsFile(path)
  }

  private func options(_ start: FactorStart, _ statistics: StatisticsFile?, steps: Int = 6, _ change: (inout FinetuneOptions) -> Void = { _ in }) -> FinetuneOptions {
    RunTests.options(steps: steps) {
      ($0.adapter.start, $0.adapter.statistics, $0.adapter.rank, $0.adapter.alpha) = (start, statistics, 4, 6)
      change(&$0)
    }
  }

  @Test("EVA gives all ranks away, none above rho times its own, and a scale that stays", arguments: [1.0, 1.5, 3])
  func spread(_ rho: Double) throws {
    let model = try Model(fixture("models/llama"), threads: 2)
    let trained = try Trained(options(.eva, try statistics(model)) { $0.adapter.startSettings["rho"] = rho }.adapter, on: model)
    let modules = Array(trained.modules.values), layers = model.linears.filter { $0.name.contains("layers.") }
    #expect(modules.reduce(0) { $0 + $1.rank } == 4 * layers.count)
    #expect(modules.allSatisfy { Double($0.rank) <= 4 * rho && abs($0.scale - 1.5) < 1e-9 })
    #expect(rho == 1 ? modules.count == layers.count : Set(modules.map(\.rank)).count > 1)
    for module in modules {
      let a = try #require(module.parts[LoRA.first]), b = try #require(module.parts[LoRA.second]), width = a.shape[1]
      #expect(b.values.values.allSatisfy { $0 == 0 })
      for k in 0..<a.shape[0] {
        for l in 0...k {
          let dot = (0..<width).reduce(0.0) { $0 + Double(a.values.start[k * width + $1] * a.values.start[l * width + $1]) }
          #expect(abs(dot - (k == l ? 1 : 0)) < 1e-4)
        }
      }
    }
  }

  @Test("are resumed where they were, and the record of a run knows them", arguments: ["eva", "corda", "delta"])
  func resumed(_ name: String) throws {
    let model = try Model(fixture("models/llama"), threads: 2)
    let start = FactorStart(rawValue: name)
    let text = try start.map { _ in try statistics(model) }
    let asked = options(start ?? .kaiming, text, steps: 8) { options in
      guard start == nil else { return }
      options.adapter.method = .init(rawValue: "delta-lora") ?? .lora
      options.adapter.settings["delta_start"] = 2
    }
    try tests.train("a", asked)
    try tests.train("b", asked, stopAfter: 5)
    try tests.train("b", asked, resume: true)
    #expect(try tests.adapter("a") == tests.adapter("b"))
    let file = try AdapterFile.open(tests.folder.file("a"))
    #expect(file.config.methodName == "LoRA" && file.config.unknownKeys.isEmpty)
    #expect(start == .eva || file.modules.allSatisfy { $0.rank == 8 && abs($0.scale - 1.5) < 1e-9 })
    var other = asked
    other.adapter.startSettings["rho"] = 3
    let error = #expect(throws: NibbleError.self) { try tests.train("b", other, resume: true) }
    #expect(error?.kind == .usage)
  }
}
