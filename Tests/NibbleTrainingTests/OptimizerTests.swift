import Foundation
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import NibbleTraining
import TestSupport
import Testing

/// Tensors of one fixture and the gradients of its steps.
private struct Steps {
  let file: TensorFile
  let name: String
  let shape: [Int]

  init(_ name: String) throws {
    file = try TensorFile(fixture("optimizers/optimizers.safetensors"))
    self.name = name
    shape = try #require(file.tensor(name + "/p")).shape
  }

  func floats(_ key: String) throws -> [Float] { try file.floats(#require(file.tensor(name + "/" + key))) }

  /// Runs every step from `first` on.
  func run(_ optimizer: Optimizer, from first: Int = 0, to last: Int = 6, rate: (Int) -> Double = { _ in 0.01 }) throws {
    let gradients = try floats("g")
    let count = shape.reduce(1, *)
    for step in first..<last {
      _ = optimizer.tensors[0].gradient.values.update(from: gradients[step * count..<(step + 1) * count])
      try optimizer.step(rate: rate(step))
    }
  }

  func tensor() throws -> TrainedTensor { TrainedTensor(name, shape, FloatStore(try floats("p"))) }

  static func options(_ choice: String) throws -> OptimizerOptions {
    var options = OptimizerOptions()
    options.choice = try #require(try OptimizerChoice(named: choice))
    (options.learningRate, options.weightDecay, options.momentum) = (0.01, 0.1, 0.9)
    return options
  }

  static func optimizer(_ choice: String, _ tensor: TrainedTensor, threads: Int = 2) throws -> Optimizer {
    Optimizer(try options(choice), [tensor], team: Team(threads: threads), window: 1 << 13)
  }
}

private func distance(_ a: some Sequence<Float>, _ b: [Float]) -> Float { zip(a, b).map { abs($0 - $1) }.max() ?? .infinity }

/// transformers' and schedulefree's warm-up of three steps.
private func schedule(_ name: String) -> (Int) -> Double {
  guard name == "schedule-free-adamw" else { return { _ in 0.01 } }
  var schedule = Schedule(.constant, warmup: 3, steps: 6)
  schedule.risesFromFirst = true
  return { 0.01 * schedule.factor($0) }
}

private let inFloats = ["adamw", "adam", "sgd", "lion", "adafactor", "schedule-free-adamw"]
private let everything = inFloats + ["adamw-8bit", "adam-8bit", "sgd-8bit", "lion-8bit"]

@Suite("Optimizers")
struct OptimizerTests {
  @Test("take the steps of PyTorch, bitsandbytes, transformers and schedulefree", arguments: inFloats, ["matrix", "small", "vector"])
  func peers(_ name: String, _ shape: String) throws {
    let steps = try Steps(shape), tensor = try steps.tensor()
    let optimizer = try Steps.optimizer(name, tensor)
    try steps.run(optimizer, rate: schedule(name))
    #expect(try distance(tensor.values.values, steps.floats(name)) < 2e-6)
    // Nothing is left of the mean when it has been looked at.
    let stepped = Array(tensor.values.values)
    let used = optimizer.averaged { Array(tensor.values.values) }
    let expected = try steps.floats(name + (name == "schedule-free-adamw" ? ".average" : ""))
    #expect(distance(used, expected) < 2e-6)
    #expect(stepped == Array(tensor.values.values))
  }

  @Test("in 8 bits have bitsandbytes' states, code by code, and stay near its CPU kernel", arguments: ["adamw", "lion", "sgd"])
  func eightBits(_ name: String) throws {
    let steps = try Steps("matrix"), tensor = try steps.tensor()
    let optimizer = try Steps.optimizer(name + "-8bit", tensor)
    try steps.run(optimizer)
    #expect(try distance(tensor.values.values, steps.floats(name + "-8bit")) < 1e-4)
    let parts = try optimizer.parts()
    #expect(parts.count == (name == "adamw" ? 5 : 3))
    let states: [String] = name == "adamw" ? ["first", "second"] : ["first"]
    for (number, state) in states.enumerated() {
      let codes = try #require(parts.first { $0.name == "\(state)/matrix" })
      let absmax = try #require(parts.first { $0.name == "\(state).absmax/matrix" })
      let expected = try steps.file.integers(#require(steps.file.tensor("matrix/\(name)-8bit.codes\(number)")))
      // Sums of float32 in another order may take a number across a threshold.
      let distances = zip(codes.bytes, expected).map { abs(Int($0) - $1) }
      #expect(distances.allSatisfy { $0 <= 1 } && distances.reduce(0, +) <= expected.count / 500, "\(distances.reduce(0, +))")
      let scales = Array(absmax.bytes.bindMemory(to: Float.self))
      #expect(try distance(scales, steps.floats("\(name)-8bit.absmax\(number)")) < 1e-5)
    }
    func mean(_ a: [Float], _ b: [Float]) -> Float {
      var sum: Float = 0
      for (x, y) in zip(a, b) { sum += abs(x - y) }
      return sum / Float(a.count)
    }
    let (ours, cpu, exact) = (Array(tensor.values.values), try steps.floats(name + "-8bit.cpu"), try steps.floats(name))
    #expect(mean(ours, exact) <= 1.01 * mean(cpu, exact) && mean(ours, cpu) < 1.2e-3)
  }

  @Test("keep states of fewer than 4096 numbers in 32 bits, as bitsandbytes does")
  func small() throws {
    let steps = try Steps("small"), (a, b) = (try steps.tensor(), try steps.tensor())
    try steps.run(Steps.optimizer("adamw-8bit", a))
    try steps.run(Steps.optimizer("adamw", b))
    #expect(distance(a.values.values, Array(b.values.values)) < 1e-6)
  }

  @Test("take golden steps: clipping, decay, momentum, schedules")
  func golden() throws {
    let file = try TensorFile(fixture("optimizers/full_ft.safetensors"))
    func floats(_ name: String) throws -> [Float] { try file.floats(#require(file.tensor(name))) }
    for (name, decay) in [("adamw", 0.1), ("sgdm", 0)] {
      var options = OptimizerOptions()
      options.choice = try #require(try OptimizerChoice(named: name == "sgdm" ? "sgd" : name))
      (options.weightDecay, options.momentum, options.maximumNorm) = (decay, 0.9, 0.3)
      let tensor = TrainedTensor("p", [6, 5], FloatStore(try floats("p")))
      let optimizer = Optimizer(options, [tensor], team: Team(threads: 1))
      for step in 0..<4 {
        _ = tensor.gradient.values.update(from: try floats("g\(step)"))
        _ = optimizer.clip()
        try optimizer.step(rate: 2e-3)
      }
      #expect(try distance(tensor.values.values, floats("p_" + name)) < 2e-6)
    }
    for (kind, name) in [(Schedule.Kind.linear, "lr_linear"), (.cosine, "lr_cosine")] {
      let rates = try floats(name)
      for step in 0..<20 { #expect(abs(2e-3 * Schedule(kind, warmup: 4, steps: 20).factor(step) - Double(rates[step])) < 1e-8) }
    }
  }

  @Test("train LoRA+'s second factors at a rate of their own: the golden step")
  func loraPlus() throws {
    let file = try TensorFile(fixture("optimizers/lora_plus.safetensors"))
    func floats(_ name: String) throws -> [Float] { try file.floats(#require(file.tensor(name))) }
    let a = TrainedTensor("A", [2, 10], FloatStore(try floats("lora_A"))), b = TrainedTensor("B", [8, 2], FloatStore(try floats("lora_B")))
    b.isSecondFactor = true
    var options = OptimizerOptions()
    (options.learningRate, options.secondFactorRatio) = (1e-3, 16)
    let optimizer = Optimizer(options, [a, b], team: Team(threads: 1))
    _ = a.gradient.values.update(from: try floats("gA"))
    _ = b.gradient.values.update(from: try floats("gB"))
    try optimizer.step(rate: 1e-3)
    #expect(try distance(a.values.values, floats("A_next")) < 1e-6 && distance(b.values.values, floats("B_next")) < 1e-6)
  }

  @Test("give the same numbers for any number of threads, with paged states or not", arguments: everything)
  func same(_ name: String) throws {
    // More numbers than a thread takes at once, and no whole block at the end.
    let shape = [130, 257], count = 130 * 257
    let folder = TemporaryFolder()
    func result(_ threads: Int, _ name: String) throws -> [[UInt8]] {
      var random = Generator(7)
      let tensor = TrainedTensor("t", shape, FloatStore((0..<count).map { _ in random.normal() }))
      let optimizer = try Steps.optimizer(name, tensor, threads: threads)
      try optimizer.prepare(in: folder.path)
      for _ in 0..<3 {
        for i in 0..<count { tensor.gradient.start[i] = random.normal() * 0.1 }
        try optimizer.step(rate: 0.01)
      }
      return try optimizer.parts().map { Array($0.bytes) }
    }
    let one = try result(1, name)
    #expect(try one == result(3, name) && one == result(2, name + "-paged"))
    #expect(folder.contents.isEmpty)
  }

  static let sizes: [(String, Int)] = [
    ("adamw", 8 * 65536), ("sgd", 4 * 65536), ("lion", 4 * 65536), ("schedule-free-adamw", 8 * 65536),
    ("adamw-8bit", 2 * 65536 + 2 * 4 * 256), ("lion-8bit", 65536 + 4 * 256), ("adafactor", 4 * (64 + 1024)),
  ]

  @Test("say how many bytes they keep", arguments: sizes)
  func bytes(_ name: String, _ bytes: Int) throws {
    let tensor = TrainedTensor("t", [64, 1024], FloatStore(count: 65536))
    #expect(try Optimizer.stateBytes(Steps.options(name), [tensor]) == bytes)
  }

  @Test("have names of their own and those of transformers and axolotl", arguments: [
    ("adamw_torch", "adamw", false), ("adamw_bnb_8bit", "adamw-8bit", false), ("adamw_8bit", "adamw-8bit", false),
    ("paged_adamw_32bit", "adamw", true), ("paged_adamw_8bit", "adamw-8bit", true), ("paged_lion_8bit", "lion-8bit", true),
    ("lion_32bit", "lion", false), ("schedule_free_adamw", "schedule-free-adamw", false), ("adamw-8bit-paged", "adamw-8bit", true),
    ("AdamW-paged", "adamw", true),
  ])
  func aliases(_ name: String, _ own: String, _ isPaged: Bool) throws {
    let choice = try #require(try OptimizerChoice(named: name))
    #expect(choice.description == own && choice.isPaged == isPaged)
  }

  @Test("refuse states they do not have, and names of none")
  func refused() throws {
    for name in ["adafactor-8bit", "schedule-free-adamw-8bit"] {
      let error = #expect(throws: NibbleError.self) { try OptimizerChoice(named: name) }
      #expect(error?.message.contains("not kept in 8 bits") == true)
    }
    for name in ["", "adamv", "paged-", "8bit", "rmsprop"] { #expect(try OptimizerChoice(named: name) == nil) }
  }
}

@Suite("States in 8 bits")
struct StateMapTests {
  static let variants = KernelVariant.allCases.filter(\.runs)
  static let numbers: [Float] = {
    var random = Generator(3)
    var numbers: [Float] = []
    for _ in 0..<5120 { numbers.append(random.normal() * Float(pow(10, -6 * Double.random(in: 0...1, using: &random)))) }
    // A block of zeros, of the smallest numbers, and the values themselves.
    numbers += Array(repeating: 0, count: 256)
    for i in 0..<256 { numbers.append(Float(i - 128) * Float.leastNonzeroMagnitude) }
    numbers += Codebook.dynamic.values
    return numbers + [1, -0.0, 1e-9, -1e-9, 0.5]
  }()

  @Test("have bitsandbytes' values", arguments: variants, [true, false])
  func values(_ variant: KernelVariant, _ isSigned: Bool) throws {
    let file = try TensorFile(fixture("optimizers/optimizers.safetensors"))
    let expected = try file.floats(#require(file.tensor(isSigned ? "map/signed" : "map/unsigned")))
    var back = expected
    (isSigned ? StateMap.signed : .unsigned).decode((0..<256).map { UInt8($0) }, count: 256, absmax: [1], &back, variant: variant)
    for (a, b) in zip(back, expected) { #expect(abs(a - b) <= 2 * b.ulp) }
  }

  @Test("every variant of the kernels gives the nearest code", arguments: variants, [true, false])
  func nearest(_ variant: KernelVariant, _ isSigned: Bool) throws {
    let file = try TensorFile(fixture("optimizers/optimizers.safetensors"))
    let values = try file.floats(#require(file.tensor(isSigned ? "map/signed" : "map/unsigned")))
    let map = isSigned ? StateMap.signed : .unsigned
    let x = isSigned ? Self.numbers : Self.numbers.map { abs($0) }
    var codes = [UInt8](repeating: 9, count: x.count), scales = [Float](repeating: 0, count: ceilDivide(x.count, 256))
    map.encode(x, count: x.count, codes: &codes, absmax: &scales, variant: variant)
    var back = x
    map.decode(codes, count: x.count, absmax: scales, &back, variant: variant)
    for block in scales.indices {
      let range = 256 * block..<min(256 * block + 256, x.count)
      #expect(scales[block] == x[range].map { abs($0) }.max())
      for i in range {
        #expect(back[i] * x[i] >= 0 && (x[i] != 0 || back[i] == 0), "\(x[i])")
        // A first moment below half of the least value is 0; a second never is.
        guard scales[block] > 1e-30, x[i] != 0 else { continue }
        let s = x[i] / scales[block], own = values[Int(codes[i])]
        if !isSigned { #expect(own != 0) }
        let best = values.filter { isSigned || $0 != 0 }.map { abs($0 - s) }.min() ?? 0
        #expect(abs(own - s) <= best + 1e-6 * abs(s), "\(x[i]) of \(scales[block])")
      }
    }
  }

  @Test("all variants give the same bits: codes, steps, sums", arguments: variants)
  func same(_ variant: KernelVariant) {
    typealias K = OptimizerKernels
    func results(_ variant: KernelVariant) -> [[UInt32]] {
      let n = Self.numbers.count
      var all: [[UInt32]] = []
      for isSigned in [true, false] {
        let map = isSigned ? StateMap.signed : .unsigned
        let x = isSigned ? Self.numbers : Self.numbers.map { abs($0) }
        var codes = [UInt8](repeating: 0, count: n), scales = [Float](repeating: 0, count: ceilDivide(n, 256)), back = x
        map.encode(x, count: n, codes: &codes, absmax: &scales, variant: variant)
        map.decode(codes, count: n, absmax: scales, &back, variant: variant)
        all.append(codes.map { UInt32($0) })
        all.append(back.map { $0.bitPattern })
      }
      for count in [1, 15, 16, 17, n] {
        var p = Self.numbers, m = Array(Self.numbers.reversed())
        var v = Self.numbers.map { $0 * $0 + 1e-8 }
        var g = Self.numbers.map { $0 * 3 - 0.1 }
        let adam = K.Adam(keep: 0.99, coupled: 0.1, firstShare: 0.1, beta2: 0.999, secondShare: 0.001, size: 0.02, root: 0.7, epsilon: 1e-8)
        K.adam(adam, &p, &g, &m, &v, count: count, variant: variant)
        K.descend(rate: 0.1, decay: 0.01, momentum: 0.9, isFirst: false, &p, &g, &m, count: count, variant: variant)
        K.lion(rate: 0.1, keep: 0.9, beta1: (0.9, 0.1), beta2: (0.99, 0.01), &p, &g, &m, count: count, variant: variant)
        let free = K.ScheduleFree(rate: 0.1, slope: -0.02, weight: 0.3, decay: 0.1, beta2: 0.9, secondShare: 0.1, correction: 0.2, epsilon: 1e-8)
        K.scheduleFree(free, &p, &g, &m, &v, count: count, variant: variant)
        K.move(&p, towards: &m, by: 0.7, count: count, variant: variant)
        K.meanSquares(&g, epsilon: 1e-30, keep: 0.9, share: 0.1, &v, count: count, variant: variant)
        K.inverseRoots(&v, scale: 2, count: count, &m, variant: variant)
        K.update(&p, &g, factors: &m, row: 0.3, decay: -0.01, size: 0.1, count: count, variant: variant)
        var sums = [Double](repeating: 0, count: n)
        K.addSquares(&g, epsilon: 1e-30, count: count, to: &sums, variant: variant)
        sums.append(K.squareSum(&g, epsilon: 1e-30, count: count, variant: variant))
        sums.append(K.updateSum(&g, factors: &m, row: 2, count: count, variant: variant))
        for floats in [p, m, v] { all.append(floats.map { $0.bitPattern }) }
        all.append(sums.map { UInt32(truncatingIfNeeded: $0.bitPattern) ^ UInt32($0.bitPattern >> 32) })
      }
      return all
    }
    #expect(results(variant) == results(.portable))
  }

  @Test("a number whose gradient stops does not jump")
  func stops() throws {
    var options = OptimizerOptions()
    options.choice = try #require(try OptimizerChoice(named: "adamw-8bit"))
    let tensor = TrainedTensor("t", [4096], FloatStore(count: 4096))
    tensor.values.values.update(repeating: 0)
    let optimizer = Optimizer(options, [tensor], team: Team(threads: 1))
    for step in 0..<3 {
      // The second moment of a gradient of 1e-4 beside one of 1 is no value of the map; −0 has none at all.
      for i in 0..<4096 { tensor.gradient.start[i] = i % 256 == 0 ? 1 : step > 0 ? -0.0 : i % 3 == 0 ? -0.0 : 1e-4 }
      try optimizer.step(rate: 0.01)
    }
    #expect(tensor.values.values.allSatisfy { abs($0) < 0.03 })
  }
}

@Suite("Learning rates over a run")
struct ScheduleTests {
  @Test("fall as transformers' schedules do, several times, as a power, late")
  func kinds() {
    var shape = Schedule.Shape()
    shape.cycles = 2
    let restarts = Schedule(.cosineWithRestarts, shape, warmup: 2, steps: 10)
    #expect((0..<10).map(restarts.factor).map { ($0 * 1000).rounded() } == [0, 500, 1000, 854, 500, 146, 1000, 854, 500, 146])
    #expect(restarts.factor(10) == 0)
    (shape.power, shape.end) = (2, 1e-3)
    let polynomial = Schedule(.polynomial, shape, steps: 4, peak: 1e-2)
    let expected = [1, 0.60625, 0.325, 0.15625, 0.1, 0.1]
    for step in 0...5 { #expect(abs(polynomial.factor(step) - expected[step]) < 1e-12) }
    (shape.decaySteps, shape.decay, shape.least) = (4, .linear, 0.2)
    let stable = Schedule(.warmupStableDecay, shape, warmup: 2, steps: 10)
    let rates = [0.2, 0.6, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    for step in 0...10 { #expect(abs(stable.factor(step) - rates[step]) < 1e-12, "\(step)") }
  }

  @Test("have transformers' names", arguments: [
    ("constant_with_warmup", Schedule.Kind.constant), ("cosine-with-restarts", .cosineWithRestarts), ("WSD", .warmupStableDecay),
    ("warmup_stable_decay", .warmupStableDecay), ("polynomial", .polynomial),
  ])
  func names(_ name: String, _ kind: Schedule.Kind) { #expect(Schedule.Kind(named: name) == kind) }
}
