import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  /// The rows in force.
  private func lookUp(_ table: Embedding, _ indices: [Int], _ out: Floats) {
    (trained.matrices[table.id]?.matrix ?? table.matrix).lookUp(indices, into: out)
    let width = shape.width
    if let own = trained.rows[table.id] {
      for (row, index) in indices.enumerated() {
        guard let place = own.row[index] else { continue }
        (out + row * width).update(from: own.values.values.start + place * width, count: width)
      }
    }
    guard let factors = trained.tableFactors[table.id] else { return }
    let low = lowRank(factors, table, indices)
    linear.exact.multiply(
      low, rows: indices.count, stride: factors.rank, [.init(factors.b.matrix, out, stride: width, adds: true)])
  }

  /// Columns of the first factor, scaled, one a row.
  private func lowRank(_ factors: TrainedFactors, _ table: Embedding, _ indices: [Int]) -> Floats {
    let rank = factors.rank, low = floats(Slot.low, indices.count * rank), a = factors.a.values.start
    for (row, index) in indices.enumerated() {
      for k in 0..<rank { low[row * rank + k] = factors.scale * a[k * table.count + index] }
    }
    return low
  }

  /// Embeddings of every token, through the norm behind them.
  func embed(_ runs: [TokenRun], _ rows: Int, _ x: Floats) throws {
    try model.transformer.check(runs)
    let weights = model.transformer.weights
    let width = shape.width
    lookUp(weights.tokens, runs.flatMap(\.ids), x)
    for (table, indices) in tables(runs) {
      let other = floats(Slot.half, rows * width)
      if let bad = indices.first(where: { !(0..<table.count).contains($0) }) {
        throw NibbleError.badInput("\(quoted(table.name)) has \(table.count) rows; number \(bad) is asked for")
      }
      lookUp(table, indices, other)
      LayerKernels.add(other, count: rows * width, to: x)
    }
    guard let norm = weights.embeddingNorm else { return }
    if embedded.count < rows * width { embedded = FloatStore(count: rows * width) }
    embedded.start.update(from: x, count: rows * width)
    self.norm(norm, embedded.start, rows, x)
  }

  /// Tables beside the tokens', and the row of each for every token.
  private func tables(_ runs: [TokenRun]) -> [(table: Embedding, indices: [Int])] {
    let weights = model.transformer.weights
    var tables: [(Embedding, [Int])] = []
    if let positions = weights.positions { tables.append((positions, runs.flatMap { model.transformer.positions($0) })) }
    if let types = weights.tokenTypes {
      tables.append((types, runs.flatMap { $0.types ?? Array(repeating: 0, count: $0.ids.count) }))
    }
    return tables
  }

  /// Adds to the gradients of the tables that are trained.
  func embedBackward(_ runs: [TokenRun], _ rows: Int, _ gradient: Floats) {
    guard trainsEmbeddings else { return }
    let weights = model.transformer.weights
    if let norm = weights.embeddingNorm { normBackward(norm, gradient, embedded.start, rows, gradient) }
    for (table, indices) in [(table: weights.tokens, indices: runs.flatMap(\.ids))] + tables(runs) {
      let whole = trained.matrices[table.id], rows = trained.rows[table.id]
      if let own = whole ?? rows?.values {
        for (row, index) in indices.enumerated() {
          guard let place = whole == nil ? rows?.row[index] : index else { continue }
          LayerKernels.add(gradient + row * shape.width, count: shape.width, to: own.gradient.start + place * shape.width)
        }
      }
      if let factors = trained.tableFactors[table.id] { addGradients(of: factors, table, indices, gradient) }
    }
  }

  /// With u = scale · A's columns and du = dy · B: dB = dyᵀ · u, and A's columns get scale · du.
  private func addGradients(of factors: TrainedFactors, _ table: Embedding, _ indices: [Int], _ dy: UnsafePointer<Float>) {
    let (rank, width) = (factors.rank, shape.width)
    let low = lowRank(factors, table, indices), dlow = floats(Slot.lowGradient, indices.count * rank)
    linear.exact.multiply(dy, rows: indices.count, stride: width, [.init(factors.b.matrix.turned, dlow, stride: rank)])
    engine.addWeightGradient(
      dy, stride: width, outputs: width, low, stride: rank, inputs: rank, rows: indices.count, to: factors.b.gradient.start)
    let a = factors.a.gradient.start
    for (row, index) in indices.enumerated() {
      for k in 0..<rank { a[k * table.count + index] += factors.scale * dlow[row * rank + k] }
    }
  }
}
