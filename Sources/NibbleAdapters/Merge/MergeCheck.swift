import NibbleCompute
import NibbleCore
import NibbleFormats
import Synchronization

/// Compares what was written with what was wanted by another way than it was written: random inputs through the base with its adapters
/// beside it, as a running model computes them, and through the written matrix.
public final class MergeCheck: Sendable {
  /// The worst matrix and how far its outputs are from those wanted, relative to them.
  public struct Result: Sendable {
    /// Matrices compared.
    public var count = 0
    /// Changed tensors that no product is made with here: embeddings, convolutions, biases.
    public var skipped = 0
    /// ‖wanted − found‖ / ‖wanted‖ of the worst one.
    public var difference = 0.0
    /// Its name.
    public var name = ""
  }

  private let found = Mutex(Result())
  private static let rows = 4

  /// Nothing compared yet.
  public init() {}

  /// What the comparison found.
  public var result: Result { found.withLock { $0 } }

  /// Compares every matrix that got a delta.
  func run(_ base: Checkpoint, _ plan: MergePlan, written path: String, threads: Int) throws {
    let before = try MappedCheckpoint(base)
    let after = try MappedCheckpoint(try Checkpoint.open(path))
    let engine = Engine(.f32, team: Team(threads: threads))
    var result = Result()
    result.skipped = plan.vectors.count
    for (index, merging) in plan.matrices.sorted(by: { $0.key < $1.key }) {
      let tensor = base.tensors[index]
      guard let part = merging.parts.first?.module, !part.isEmbedding, !part.isConvolution, tensor.dtype != .f64,
        let output = after.checkpoint.tensor(tensor.name), output.dtype != .f64
      else {
        result.skipped += 1
        continue
      }
      func matrix(_ tensor: StoredTensor, _ mapped: MappedCheckpoint) throws -> Matrix {
        // Stored [inputs, outputs] if the layer has it so and the file does not turn it.
        try Matrix(tensor, of: mapped, isTransposed: merging.isInputsFirst != tensor.isTransposed)
      }
      let own = plan.replacements[index]
      let weight = try own.map { try matrix($0.tensor, $0.file.mapped) } ?? matrix(tensor, before)
      let x = Self.random(Self.rows * weight.inputs)
      let wanted = try outputs(weight, merging, x, engine)
      let values = FloatStore(count: Self.rows * weight.outputs)
      engine.multiply(
        x.start, rows: Self.rows, stride: weight.inputs, [.init(try matrix(output, after), values.start, stride: weight.outputs)])
      var error = 0.0, size = 0.0
      for i in 0..<values.count {
        error += (Double(values.start[i]) - wanted[i]) * (Double(values.start[i]) - wanted[i])
        size += wanted[i] * wanted[i]
      }
      let difference = size == 0 ? error.squareRoot() : (error / size).squareRoot()
      result.count += 1
      // Rounding to 16 bits is good for a thousandth, to 4 bits for a tenth: this is another matrix.
      guard difference <= (output.isPacked ? 0.5 : 0.02) else {
        throw NibbleError.quality(
          "\(path): tensor \(quoted(tensor.name.text)) as written is \(decimal(difference, 3)) off what base and adapter compute together; "
            + "--no-check writes it all the same")
      }
      if !(difference <= result.difference) { (result.difference, result.name) = (difference, tensor.name.text) }
    }
    found.withLock { $0 = result }
  }

  /// What the base says with the adapters beside it: Σ weight · (outputScale · (x·Wᵀ + scale · x·Aᵀ·Bᵀ) − x·Wᵀ) + x·Wᵀ.
  private func outputs(_ weight: Matrix, _ merging: Merging, _ x: FloatStore, _ engine: Engine) throws -> [Double] {
    let plain = FloatStore(count: Self.rows * weight.outputs)
    engine.multiply(x.start, rows: Self.rows, stride: weight.inputs, [.init(weight, plain.start, stride: weight.outputs)])
    var sum = plain.values.map(Double.init)
    if merging.isLinear, let factors = try merging.factors().first {
      let term = ForwardTerm(
        a: Matrix(factors.a, rows: factors.rank, columns: weight.inputs),
        b: Matrix(factors.b, rows: weight.outputs, columns: factors.rank), scale: Float(factors.scale))
      let adapted = FloatStore(count: Self.rows * weight.outputs)
      engine.multiply(
        x.start, rows: Self.rows, stride: weight.inputs,
        [.init(weight, adapted.start, stride: weight.outputs, terms: [term.lowRank(weight: 1, rows: 0..<Self.rows)])])
      return adapted.values.map(Double.init)
    }
    for part in merging.parts {
      let a = try Matrix(part.module.a, of: part.file.mapped, isTransposed: false)
      let b = try Matrix(part.module.b, of: part.file.mapped, isTransposed: false)
      let term = ForwardTerm(a: a, b: b, scale: Float(part.module.scale))
      let adapted = FloatStore(count: Self.rows * weight.outputs)
      engine.multiply(
        x.start, rows: Self.rows, stride: weight.inputs,
        [.init(weight, adapted.start, stride: weight.outputs, terms: [term.lowRank(weight: 1, rows: 0..<Self.rows)])])
      var scales = [Double](repeating: 1, count: weight.outputs)
      if let magnitude = part.module.magnitude {
        scales = zip(try part.file.mapped.floats(magnitude), DoRA.norms(weight, term, engine)).map { Double($0) / $1 }
      }
      for i in sum.indices {
        sum[i] += part.weight * (scales[i % weight.outputs] * Double(adapted.start[i]) - Double(plain.start[i]))
      }
    }
    return sum
  }

  /// Numbers between −1 and 1 that are the same every time.
  private static func random(_ count: Int) -> FloatStore {
    let store = FloatStore(count: count)
    var state: UInt64 = 0x9E37_79B9_7F4A_7C15
    for index in 0..<count {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      store.start[index] = Float(Int32(truncatingIfNeeded: state >> 16)) / Float(Int32.max)
    }
    return store
  }
}
