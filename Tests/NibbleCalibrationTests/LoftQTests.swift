import NibbleAdapters
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("LoftQ")
struct LoftQTests {
  let folder = TemporaryFolder()

  private func job(_ name: String, _ weight: [Float], rows: Int) throws -> StreamJob {
    var builder = SafetensorsBuilder()
    builder.add("layers.0.q_proj.weight", [rows, weight.count / rows], weight)
    let source = try folder.write(name + ".safetensors", builder.bytes)
    var options = QuantizeOptions()
    options.doubleQuant = false
    return try StreamJob.quantize(Checkpoint.open(source), options, to: OutputSpec(path: folder.file(name), format: nil, default: .nbl))
  }

  @Test("leaves as little after each step as the paper's equations say, and its factors are those of what codes leave")
  func golden() throws {
    let golden = try TensorFile(fixture("field_methods.safetensors"))
    let weight = try golden.floats(#require(golden.tensor("svd_inits/W")))
    let norm = weight.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    for (steps, error) in [(1, 0.35367476370486123), (2, 0.33329953968905823), (3, 0.32329892520703857)] {
      var job = try job("q\(steps).nbl", weight, rows: 24)
      let report = try job.loftq(rank: 4, steps: steps)
      #expect(abs(report.before * norm - 0.4812915925714528) < 1e-5)
      #expect(abs(report.after * norm - error) < 1e-5, "\(steps): \(report.after * norm)")
      let pair = try #require(report.corrections.first)
      #expect(pair.module == "layers.0.q_proj")
      guard steps == 1 else { continue }
      let product = FloatStore([Float](repeating: 0, count: weight.count))
      LowRankPair(a: Matrix(pair.a, rows: 4, columns: 64), b: Matrix(pair.b, rows: 24, columns: 4), scale: 1).add(to: product, Team(threads: 1))
      for (x, y) in zip(product.values, try golden.floats(#require(golden.tensor("svd_inits/loftq_product_1")))) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y)) }
    }
  }

  @Test("of one step leaves codes as they are without it")
  func oneStep() throws {
    let random = CountedRandom(seed: 3), weight = (0..<48 * 96).map { Float(random.normal(UInt64($0))) }
    var with = try job("a.nbl", weight, rows: 48)
    _ = try with.loftq(rank: 2, steps: 1)
    var more = try job("c.nbl", weight, rows: 48)
    _ = try more.loftq(rank: 2, steps: 2)
    let without = try job("b.nbl", weight, rows: 48)
    for one in [with, more, without] { _ = try one.run() }
    #expect(try bytes(of: folder.file("a.nbl")) == bytes(of: folder.file("b.nbl")))
    #expect(try bytes(of: folder.file("c.nbl")) != bytes(of: folder.file("b.nbl")))
  }
}
