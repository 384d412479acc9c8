import NibbleAdapters
import NibbleCompute
import NibbleCore

extension Transformer {
  /// Embeddings of every token, through the norm and the projection behind them.
  ///
  /// - Parameter noise: added to the embeddings of tokens
  func embed(
    _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ out: Floats, _ tape: TransformerTape?, _ noise: EmbeddingNoise? = nil
  ) throws {
    let width = weights.embeddingWidth
    let x = weights.embeddingProjection == nil ? out : floats(Slot.narrow, rows * width)
    defer { project(x, layers, rows, out, tape) }
    let tables = try lookups(runs)
    for segment in layers.segments where !segment.rows.isEmpty {
      let start = x + segment.rows.lowerBound * width
      for (number, (table, indices)) in tables.enumerated() {
        let own = Array(indices[segment.rows])
        let rows = number == 0 ? start : floats(Slot.rows, own.count * width)
        segment.matrix(table.id, table.matrix).lookUp(own, into: rows)
        segment.rows(table.id)?.replace(own, in: rows)
        layers.adapt(own, of: table, segment, rows, tape == nil ? engine : layers.exact)
        if number > 0 { LayerKernels.add(rows, scaledBy: 1, count: own.count * width, to: start) }
      }
    }
    func scale() { layers.scale(x, by: shape.embeddingScale, rows: rows, width: width) }
    if !shape.scalesNoise { scale() }
    noise?.add(to: x, lengths: runs.map(\.ids.count), width: width)
    if shape.scalesNoise { scale() }
    guard let norm = weights.embeddingNorm else { return }
    tape?.keepEmbedded(x, rows * width)
    layers.norm(norm, shape, x, rows: 0..<rows, x, embeddingRows)
  }

  /// How embeddings lie.
  var embeddingRows: NormRows { NormRows(count: weights.embeddingWidth, groups: 1, stride: weights.embeddingWidth) }

  private func project(_ x: Floats, _ layers: Layers, _ rows: Int, _ out: Floats, _ tape: TransformerTape?) {
    guard let projection = weights.embeddingProjection else { return }
    tape?.keepNarrow(x, rows * weights.embeddingWidth)
    layers.linear([projection], x, rows: 0..<rows, out, tape?.embeddingLinear)
  }

  /// Every table of embeddings, and its row for each token: tokens, then positions and token types.
  func lookups(_ runs: [TokenRun]) throws -> [(table: Embedding, rows: [Int])] {
    var tables = [(table: weights.tokens, rows: runs.flatMap(\.ids))]
    if let table = weights.positions { tables.append((table, runs.flatMap(positions))) }
    if let table = weights.tokenTypes {
      let types = runs.flatMap { $0.types ?? Array(repeating: 0, count: $0.ids.count) }
      if let bad = types.first(where: { !(0..<table.count).contains($0) }) {
        throw NibbleError.badInput("token type \(bad) is not among the model's \(table.count)")
      }
      tables.append((table, types))
    }
    return tables
  }

  /// Rows of a table of position embeddings. RoBERTa counts tokens that are no padding, and gives padding the row of its id.
  package func positions(_ run: TokenRun) -> [Int] {
    let past = run.cache?.count ?? 0
    guard shape.firstPosition > 0, let padding = shape.padding else { return run.ids.indices.map { past + $0 } }
    var seen = 0
    return run.ids.map { id in
      if id == padding { return padding }
      seen += 1
      return padding + seen
    }
  }
}
