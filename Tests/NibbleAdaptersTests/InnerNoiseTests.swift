import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("The noise where an adapter reads")
struct InnerNoiseTests {
  let folder = TemporaryFolder()

  /// A layer and an adapter for it, with the noise recomputed from the files.
  struct Sample {
    let outputs: Int, inputs: Int
    let base: Checkpoint
    let adapter: AdapterFile
    let a: [Float], b: [Float]

    init(_ folder: TemporaryFolder, outputs: Int, inputs: Int, scale: Float = 0.002) throws {
      (self.outputs, self.inputs) = (outputs, inputs)
      var random = Generator(7)
      var model = SafetensorsBuilder()
      model.add("layer.weight", [outputs, inputs], (0..<outputs * inputs).map { _ in 0.05 * random.normal() })
      base = try Checkpoint.open(folder.write("base.safetensors", model.bytes))
      a = (0..<2 * inputs).map { _ in random.normal() }
      b = (0..<outputs * 2).map { _ in scale * random.normal() }
      var factors = SafetensorsBuilder()
      factors.add("base_model.model.layer.lora_A.weight", [2, inputs], a)
      factors.add("base_model.model.layer.lora_B.weight", [outputs, 2], b)
      _ = try folder.write("adapter/adapter_model.safetensors", factors.bytes)
      _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#)
      adapter = try AdapterFile.open(folder.file("adapter"))
    }

    /// ‖(written − before − Δ) · Vᵀ‖ / ‖Δ‖
    func inner(_ written: [Float], _ before: [Float]) -> Double {
      func dot(_ x: [Double], _ y: [Double]) -> Double {
        var sum = 0.0
        for j in 0..<inputs { sum += x[j] * y[j] }
        return sum
      }
      func unit(_ x: [Double]) -> [Double] {
        let length = dot(x, x).squareRoot()
        return x.map { $0 / length }
      }
      let u = unit(a[..<inputs].map(Double.init)), second = a[inputs...].map(Double.init)
      let share = dot(second, u)
      let v = unit((0..<inputs).map { second[$0] - share * u[$0] })
      var noise = 0.0, change = 0.0
      var error = [Double](repeating: 0, count: inputs)
      for row in 0..<outputs {
        for j in 0..<inputs {
          let delta = b[2 * row] * a[j] + b[2 * row + 1] * a[inputs + j]
          error[j] = Double(written[row * inputs + j] - before[row * inputs + j] - delta)
          change += Double(delta) * Double(delta)
        }
        let (x, y) = (dot(error, u), dot(error, v))
        noise += x * x + y * y
      }
      return (noise / change).squareRoot()
    }
  }

  func merge(_ sample: Sample, _ base: Checkpoint, to name: String, _ way: WhenLost = .fail) throws -> (
    report: StreamReport, values: [Float]
  ) {
    var options = MergeOptions([.init(sample.adapter)])
    options.minimumSurvival = way == .shape ? 0.5 : 0
    var spec = try OutputSpec(path: folder.file(name), format: nil, default: .safetensors)
    spec.force = true
    var job = try StreamJob.merge(base, options, to: spec)
    job.changing.whenLost = way
    let report = try job.run()
    return (report, try values(Checkpoint.open(folder.file(name)).tensors[0]))
  }

  @Test("is what the files show, whole rows or rows divided between pieces", arguments: [(40, 96), (790, 700), (2, 300_000)])
  func measured(_ outputs: Int, _ inputs: Int) throws {
    let sample = try Sample(folder, outputs: outputs, inputs: inputs)
    var packing = try OutputSpec(path: folder.file("plain.nbl"), format: nil, default: .nbl)
    packing.force = true
    _ = try StreamJob.quantize(sample.base, QuantizeOptions(), to: packing).run()
    let packed = try Checkpoint.open(folder.file("plain.nbl"))
    let before = try values(packed.tensors[0])
    for (base, way) in [(sample.base, WhenLost.fail), (packed, .fail), (packed, .shape)] where way != .shape || inputs < 1000 {
      let (report, written) = try merge(sample, base, to: "out.nbl", way)
      let found = try #require(report.changed[0].sums.innerNoise)
      #expect(abs(found - sample.inner(written, before)) < 1e-3 * found)
    }
  }

  @Test("is several times as large for stochastic rounding as for shaping, though both keep the change")
  func stochastic() throws {
    let sample = try Sample(folder, outputs: 256, inputs: 1024, scale: 0.0004)
    var packing = try OutputSpec(path: folder.file("plain.nbl"), format: nil, default: .nbl)
    packing.force = true
    _ = try StreamJob.quantize(sample.base, QuantizeOptions(), to: packing).run()
    let packed = try Checkpoint.open(folder.file("plain.nbl"))
    let tensor = packed.tensors[0]
    let before = try values(tensor)
    // Up or down, so that the mean is right.
    let codebook = BlockCodec(.nf4).codebook.values
    var random = Generator(3)
    var written = before
    for row in 0..<sample.outputs {
      for start in stride(from: row * 1024, to: (row + 1) * 1024, by: 64) {
        let scale = before[start..<start + 64].map(abs).max() ?? 0
        for i in start..<start + 64 {
          let column = i - row * 1024
          let x =
            (before[i] + sample.b[2 * row] * sample.a[column] + sample.b[2 * row + 1] * sample.a[1024 + column]) / scale
          let above = codebook.first { $0 >= min(x, 1) } ?? 1, below = codebook.last { $0 <= max(x, -1) } ?? -1
          let share = above == below ? 0 : (x - below) / (above - below)
          let chance = Float(random.next() >> 40) / Float(1 << 24)
          written[i] = scale * (chance < share ? above : below)
        }
      }
    }
    var sums = (kept: 0.0, delta: 0.0)
    for i in written.indices {
      let (row, column) = (i / 1024, i % 1024)
      let delta = Double(sample.b[2 * row] * sample.a[column] + sample.b[2 * row + 1] * sample.a[1024 + column])
      sums.kept += Double(written[i] - before[i]) * delta
      sums.delta += delta * delta
    }
    let survival = sums.kept / sums.delta
    #expect(survival > 0.9 && survival < 1.1)
    let shaped = try merge(sample, packed, to: "out.nbl", .shape).report.changed[0]
    #expect(shaped.isShaped && shaped.sums.survival > 0.9)
    let noise = try #require(shaped.sums.innerNoise)
    #expect(sample.inner(written, before) > 3 * noise)
  }
}
