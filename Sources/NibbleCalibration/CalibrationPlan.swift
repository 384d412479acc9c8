import NibbleCompute
import NibbleCore
import NibbleModels

/// What calibration is going to take, known before it starts.
public struct CalibrationPlan: Sendable {
  /// Resident memory at its highest, the mapped weights of the model included.
  public let peakMemory: Int
  /// Floating-point operations of the model's passes, and of moments, factors and codes; the rest is small beside them.
  public let passOperations: Double
  public let codeOperations: Double
  /// Seconds with the threads of the model's team, from how fast this machine multiplies now.
  public let seconds: Double

  /// - Parameters:
  ///   - packed: bytes of all packed tensors, which wait in memory until they are written
  ///   - writing: tokens that the model writes itself
  public init(_ model: Model, tokens: Int, window: Int, packed: Int, writing: Int, _ options: CalibrationOptions = .init()) throws {
    let transformer = try model.calibrated, shape = transformer.shape
    let width = shape.width, rows = min(tokens, CalibrationPass.batchRows + window)
    var passing = 0.0, coding = 0.0, memory = 0, kept = 0, held = 0
    for layer in transformer.weights.layers {
      // What experts take in both models, and the last projection of one.
      if let experts = layer.experts {
        let inner = (experts.all + (experts.shared.map { [$0.expert] } ?? [])).map(\.down.inputs).max() ?? 0
        kept = max(kept, 8 * tokens * (width + inner))
      }
      for step in Self.steps(layer) {
        let (entries, exit) = (step.entries, step.exit)
        let n = Double(tokens) * step.share, inner = exit.inputs
        let entered = entries.reduce(0) { $0 + $1.outputs }
        // The float model once; the packed one up to the exit and through it, what the exit takes perhaps twice.
        let isKept = tokens * inner <= CalibrationPass.mostKept
        if isKept { kept = max(kept, 4 * tokens * inner) }
        passing += n * 2 * Double((isKept ? 2 : 3) * width * entered + 3 * inner * width)
        for (inputs, lacking, outputs) in [(width, width, entered), (inner, width, width)] {
          let (c, r) = (Double(inputs), Double(outputs))
          coding += n * (c * c + 2 * c * Double(lacking)) + 3 * c * c * c + r * c * c * Double(12 + 6 * options.rounds)
          // Moments, their factor in float64 and float32, the damped moments; weight, drift, two packings.
          let moments = Moments.bytes(inputs: inputs, lacking: lacking)
          let own = entries.map(\.outputs).max() ?? 0
          let largest = inputs == inner && outputs == width ? width : own
          memory = max(
            memory, moments + 16 * inputs * inputs + 10 * largest * inputs + model.team.threads * 7 * 4 * 256 * inputs)
        }
        // Tokens that matrices are measured with: what goes in, what comes out, and what is wanted of it.
        held = max(held, 4 * CalibrationPass.batchRows * (2 * inner + 8 * max(width, entries.map(\.outputs).max() ?? 0)))
        memory = max(memory, 4 * rows * (entered + 3 * inner + 5 * width))
      }
      // Attention: scores and sums, in both models.
      coding += 2 * Double(tokens) * Double(window) * 4 * Double(shape.queryWidth)
    }
    // Answers of both models, in the end.
    memory = max(memory, 4 * 3 * Answers.scoreRows * Answers(transformer).width)
    passing += Double(writing) * 2 * Double(model.parameterCount) * 1.5
    (passOperations, codeOperations) = (passing, coding)
    let biggest = transformer.weights.layers.first.map { $0.linears.reduce(0) { $0 + $1.outputs * $1.inputs } } ?? 0
    // The program, OpenBLAS' buffers.
    peakMemory = (80 << 20) + model.checkpoint.storedBytes + 2 * 4 * ResidualStream.size(shape, tokens: tokens) + memory + kept + held + packed + biggest * 2
      + 4 * rows * (width + 8)
    seconds = (passing / Self.speed(model.engine.compute) + coding / Self.speed(.f32)) / Double(model.team.threads)
  }

  /// Projections of a layer that share their input, the one that takes what comes of them, and the share of the tokens that they see.
  private static func steps(_ layer: LayerWeights) -> [(entries: [Linear], exit: Linear, share: Double)] {
    let attention = (layer.queryKeyValue, layer.attentionOutput, 1.0)
    guard let experts = layer.experts else { return [attention, (layer.up, layer.down, 1)] }
    let share = Double(experts.used) / Double(max(experts.all.count, 1))
    return [attention] + experts.all.map { ($0.up, $0.down, share) } + (experts.shared.map { [($0.expert.up, $0.expert.down, 1)] } ?? [])
  }

  /// Operations a second of one thread, from a product of the usual kind.
  private static func speed(_ compute: Compute) -> Double {
    let size = 512, engine = Engine(compute, team: Team(threads: 1))
    let (a, b, c) = (FloatStore(count: size * size), FloatStore(count: size * size), FloatStore(count: size * size))
    for store in [a, b] { store.values.initialize(repeating: 0.5) }
    let product = Engine.Product(Matrix(b, rows: size, columns: size), c.start, stride: size)
    var best = Double.infinity
    for _ in 0..<5 {
      let started = monotonicSeconds()
      engine.multiply(a.start, rows: size, stride: size, [product])
      best = min(best, monotonicSeconds() - started)
    }
    // Not all of a pass runs as fast as its best part.
    return 2 * Double(size * size * size) / max(best, 1e-9) * 0.6
  }
}

extension Model {
  var team: Team { engine.team }
  /// Numbers of the linear layers and the head.
  var parameterCount: Int { linears.reduce(0) { $0 + $1.outputs * $1.inputs } }
}
