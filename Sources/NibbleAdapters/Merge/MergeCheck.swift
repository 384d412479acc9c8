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
    /// Changed tensors that no product is made with here: embeddings, convolutions, biases, compressed ones.
    public var skipped = 0
    /// ‖wanted − found‖ / ‖wanted‖ of the worst one.
    public var difference = 0.0
    /// Its name.
    public var name = ""
  }

  private let found = Mutex(Result())
  /// Outputs of a plain matrix that are compared.
  private static let outputs = 256

  private let allowsNonfinite: Bool

  /// Nothing compared yet.
  ///
  /// - Parameter allowsNonfinite: passes over matrices with values that are not finite
  public init(allowsNonfinite: Bool = false) { self.allowsNonfinite = allowsNonfinite }

  /// What the comparison found.
  public var result: Result { found.withLock { $0 } }

  /// Compares every matrix that got a delta.
  ///
  /// - Parameters:
  ///   - path: where the output lies now
  ///   - name: what it will be called, for messages
  func run(_ base: Checkpoint, _ plan: MergePlan, written path: String, as name: String) throws {
    let before = try MappedCheckpoint(base, readsAhead: false)
    let after = try MappedCheckpoint(try Checkpoint.openWritten(path), readsAhead: false)
    // One thread: there is little to do, and others would only wait.
    let engine = Engine(.f32, team: Team(threads: 1))
    var result = Result()
    result.skipped = plan.vectors.count + plan.tokenRows.keys.filter { plan.matrices[$0] == nil }.count
    for (index, merging) in plan.matrices.sorted(by: { $0.key < $1.key }) {
      try Interrupt.check()
      let tensor = base.tensors[index]
      guard let part = merging.parts.first?.module, part.shape.kind == .linear, tensor.logicalShape.count == 2,
        tensor.dtype != .f64,
        let output = after.checkpoint.tensor(tensor.name), output.dtype != .f64,
        (tensor.sections + output.sections).allSatisfy({ $0.compression == .none })
      else {
        result.skipped += 1
        continue
      }
      let (outputs, inputs) = (
        tensor.logicalShape[merging.isInputsFirst ? 1 : 0], tensor.logicalShape[merging.isInputsFirst ? 0 : 1]
      )
      // Of plain matrices, stored output by output, a run of outputs: what is wrong with one is wrong with all.
      let isWhole =
        merging.isInputsFirst || tensor.encoding.kind.hasBlocks || output.encoding.kind.hasBlocks || outputs <= Self.outputs
        || !merging.isSum || merging.hasMoreThanPairs
      let first = isWhole ? 0 : (index * 7919) % (outputs - Self.outputs + 1)
      let range = first..<(isWhole ? outputs : first + Self.outputs)
      func matrix(_ tensor: StoredTensor, _ mapped: MappedCheckpoint) throws -> Matrix {
        if !isWhole, !tensor.isPacked, let data = tensor.section(.data) {
          let width = inputs * tensor.dtype.bitWidth / 8
          let bytes = try mapped.bytes(data, tensor.name.text)
          let run = UnsafeRawBufferPointer(rebasing: bytes[range.lowerBound * width..<range.upperBound * width])
          if let matrix = Matrix(tensor.dtype, rows: range.count, columns: inputs, run, owner: mapped) { return matrix }
        }
        if !isWhole, tensor.isPacked {
          return try Matrix(unpacking: range, of: tensor, mapped, isTransposed: false)
        }
        // Stored [inputs, outputs] if the layer has it so and the file does not turn it.
        return try Matrix(tensor, of: mapped, isTransposed: merging.isInputsFirst != tensor.isTransposed)
      }
      let own = plan.replacements[index]
      let weight = try own.map { try matrix($0.tensor, $0.file.mapped) } ?? matrix(tensor, before)
      // What was merged the wrong way round agrees with itself: the siblings of a square weight are asked once more.
      if weight.inputs == weight.outputs,
        let shown = WeightOrientation.ofSquare(tensor.name.text, width: weight.inputs, in: after.checkpoint),
        shown != merging.isInputsFirst
      {
        let orders = ["[inputs, outputs]", "[outputs, inputs]"]
        throw NibbleError.quality(
          "\(name): \(tensor: tensor.name.text) was merged as \(orders[shown ? 1 : 0]), its siblings are \(orders[shown ? 0 : 1])"
        )
      }
      let factors = try merging.factors()
      let probe = MergeProbe(factors, range, inputs: weight.inputs)
      let x = probe.x
      let wanted = try wanted(weight, range, merging, factors, x, engine)
      let values = FloatStore(count: weight.outputs)
      let written = try matrix(output, after)
      engine.multiply(x.start, rows: 1, stride: weight.inputs, [.init(written, values.start, stride: weight.outputs)])
      var error = 0.0, size = 0.0
      let rows = plan.tokenRows[index]
      for i in 0..<values.count where rows?.replaces(range.lowerBound + i) != true {
        error += (Double(values.start[i]) - wanted[i]) * (Double(values.start[i]) - wanted[i])
        size += wanted[i] * wanted[i]
      }
      // Sums that cancel are small; what rounding may add to them is not.
      size = max(size, probe.expected)
      let limit = output.isPacked ? 0.5 : 0.02
      // Rounding codes is large enough that the few outputs of a small head may be smaller.
      if output.isPacked, !(error <= limit * limit * size) { size = max(size, Self.expected(written, x)) }
      let difference = size == 0 ? error.squareRoot() : (error / size).squareRoot()
      before.release(tensor)
      after.release(output)
      result.count += 1
      if allowsNonfinite, !difference.isFinite {
        result.count -= 1
        result.skipped += 1
        continue
      }
      // Rounding to 16 bits is good for a thousandth, to 4 bits for a tenth: this is another matrix.
      guard difference <= limit else {
        throw NibbleError.quality(
          "\(name): \(tensor: tensor.name.text) as written is \(decimal(difference, 3)) off what base and adapter compute together; "
            + "\(.check, false) writes it all the same")
      }
      if !(difference <= result.difference) { (result.difference, result.name) = (difference, tensor.name.text) }
    }
    found.withLock { $0 = result }
  }

  /// Σ ‖Wx‖² over outputs, of inputs as long as `x` on average.
  private static func expected(_ weight: Matrix, _ x: FloatStore) -> Double {
    let row = FloatStore(count: weight.native.columns)
    func square(_ values: FloatStore) -> Double { values.values.reduce(0) { $0 + Double($1) * Double($1) } }
    var sum = 0.0
    for index in 0..<weight.native.rows {
      weight.rows(index..<index + 1, into: row.start)
      sum += square(row)
    }
    return sum * square(x) / Double(max(weight.inputs, 1))
  }

  /// What a running model computes of the base with the adapters beside it: Σ weight · (s ∘ (x′·Wᵀ + scale · x·Aᵀ·Bᵀ + K(x)) − x·Wᵀ) + x·Wᵀ.
  private func wanted(
    _ weight: Matrix, _ range: Range<Int>, _ merging: Merging, _ factors: [LowRankFactors], _ x: FloatStore, _ engine: Engine
  ) throws -> [Double] {
    let plain = product(x, weight, engine)
    var sum = plain
    guard case .sum = merging.combination, !merging.isSum || merging.hasMoreThanPairs else {
      for part in merging.parts {
        guard let term = part.method.pooled else { continue }
        let all = FloatStore([Float](repeating: 0, count: term.tiles.outputs * term.outputs))
        PooledPass(term, rows: 1, engine, Scratch()).add(x.start, weight: Float(part.weight), to: all.start, stride: all.count)
        for i in sum.indices where range.lowerBound + i < all.count { sum[i] += Double(all.start[range.lowerBound + i]) }
      }
      for part in factors {
        for (i, value) in product(x, part.pair(range), engine).enumerated() { sum[i] += part.scale * value }
      }
      return sum
    }
    for part in merging.parts {
      let delta = part.method.pair.map { pair in product(x, pair, engine).map { pair.scale * $0 } }
      let scales = try part.method.scales(MatrixLengths(weight, engine))
      let more = part.method.term.map { term in
        let y = FloatStore([Float](repeating: 0, count: weight.outputs))
        term.add(x.start, to: y.start, stride: y.count, weight: 1, TermPass(rows: 1, engine, Scratch()))
        return y
      }
      let own = part.method.input.map { input in
        let changed = FloatStore(count: weight.inputs)
        input.apply(x.start, to: changed.start)
        return product(changed, weight, engine)
      }
      for i in sum.indices {
        let adapted = (own ?? plain)[i] + (delta?[i] ?? 0) + Double(more?.start[i] ?? 0)
        sum[i] += part.weight * ((scales?[i % weight.outputs] ?? 1) * adapted - plain[i])
      }
    }
    return sum
  }

  private func product(_ x: FloatStore, _ weight: Matrix, _ engine: Engine) -> [Double] {
    let y = FloatStore(count: weight.outputs)
    engine.multiply(x.start, rows: 1, stride: weight.inputs, [.init(weight, y.start, stride: weight.outputs)])
    return y.values.map(Double.init)
  }

  /// Without the scale.
  private func product(_ x: FloatStore, _ pair: LowRankPair, _ engine: Engine) -> [Double] {
    let inner = FloatStore(count: pair.rank), y = FloatStore(count: pair.b.outputs)
    engine.multiply(x.start, rows: 1, stride: pair.a.inputs, [.init(pair.a, inner.start, stride: pair.rank)])
    engine.multiply(inner.start, rows: 1, stride: pair.rank, [.init(pair.b, y.start, stride: pair.b.outputs)])
    return y.values.map(Double.init)
  }
}
