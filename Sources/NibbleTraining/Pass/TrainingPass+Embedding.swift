import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  private func matrix(_ table: Embedding) -> Matrix { trained.matrices[table.id]?.matrix ?? table.matrix }

  /// Embeddings of every token, through the norm behind them.
  func embed(_ runs: [TokenRun], _ rows: Int, _ x: Floats) throws {
    try model.transformer.check(runs)
    let weights = model.transformer.weights
    let width = shape.width
    matrix(weights.tokens).lookUp(runs.flatMap(\.ids), into: x)
    for (table, indices) in tables(runs) {
      let other = floats(Slot.half, rows * width)
      if let bad = indices.first(where: { !(0..<table.count).contains($0) }) {
        throw NibbleError.badInput("\(quoted(table.name)) has \(table.count) rows; number \(bad) is asked for")
      }
      matrix(table).lookUp(indices, into: other)
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
      guard let own = trained.matrices[table.id] else { continue }
      for (row, index) in indices.enumerated() {
        LayerKernels.add(gradient + row * shape.width, count: shape.width, to: own.gradient.start + index * shape.width)
      }
    }
  }
}
