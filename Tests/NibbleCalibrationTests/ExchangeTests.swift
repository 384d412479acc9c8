import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("What makes the difference between two models")
struct ExchangeTests {
  let folder = TemporaryFolder()
  private static let windows = (0..<3).map { start in (0..<20).map { 3 + (start * 37 + $0 * $0 * 7) % 400 } }

  private func model(_ checkpoint: Checkpoint) throws -> Model { try Model(checkpoint, precision: .f32, team: Team(threads: 2)) }

  /// stories260K with some tensors packed.
  private func packed(_ pattern: String, _ codec: String = "nf4") throws -> Checkpoint {
    var options = QuantizeOptions()
    options.rules = try [PackingRule("\(pattern)=\(codec)"), PackingRule(".=keep")]
    let path = folder.file("packed.nbl")
    _ = try StreamJob.quantize(Checkpoint.open(fixture("stories260K")), options, to: OutputSpec(path: path, format: nil, default: .nbl)).run()
    return try Checkpoint.open(path)
  }

  @Test("is one tensor where one was packed: it costs all there is, and nothing is left when it is given back")
  func one() throws {
    let name = "model.layers.2.mlp.down_proj.weight"
    let found = try Exchange(model(Checkpoint.open(fixture("stories260K"))), model(packed("layers.2.mlp.down_proj")), Self.windows, top: 3)
    #expect(found.tensors.map(\.name) == [name] && found.isDivergence && found.tokens == 60)
    let tensor = try #require(found.tensors.first)
    #expect(found.total.value > 1e-4)
    #expect(abs(tensor.alone.value - found.total.value) <= 1e-6 * found.total.value)
    #expect(tensor.alone.standardError > 0 && tensor.change > 0.05 && tensor.change < 0.15)
    #expect(try #require(tensor.left).value < 1e-9)
  }

  @Test("ranks tensors by what each costs, whichever way it is put in its place")
  func rank() throws {
    let a = try model(Checkpoint.open(fixture("stories260K")))
    let other = try packed("layers.[13].self_attn.v_proj|layers.0.mlp.up_proj")
    let found = try Exchange(a, model(other), Self.windows, top: 2)
    #expect(found.tensors.count == 3)
    #expect(found.tensors.map(\.alone.value) == found.tensors.map(\.alone.value).sorted(by: >))
    let lefts = found.tensors.compactMap(\.left?.value)
    #expect(lefts.count == 2 && lefts[0] < found.total.value && lefts[1] < lefts[0])
    let sensitivity = try Sensitivity(a, Self.windows)
    for tensor in found.tensors {
      // From the half layer where it stands, and from the start in a model of its own.
      let own = try #require(other.tensor(ByteName(tensor.name)))
      let whole = try sensitivity.cost(of: model(a.checkpoint.replacing([own], identity: nil)))
      #expect(abs(whole.value - tensor.alone.value) <= 1e-5 * whole.value)
    }
  }

  @Test("is nothing between a model and itself")
  func none() throws {
    let a = try model(Checkpoint.open(fixture("stories260K")))
    let found = try Exchange(a, a, Self.windows, top: 10)
    #expect(found.tensors.isEmpty && found.total.value < 1e-12 && found.onlyA.isEmpty && found.onlyB.isEmpty)
  }
}
