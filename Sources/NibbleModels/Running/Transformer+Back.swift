import NibbleAdapters
import NibbleCompute
import NibbleCore

/// The way back of a pass that left a tape. A frozen weight gives only the gradient of its input, by the products of the way forth
/// with the matrix turned; nothing below the lowest layer with anything trained in it is computed.
extension Transformer {
  package func backward(_ batch: Batch, _ gradient: Floats, tape: Tape, _ gradients: Gradients) throws {
    try backward(batch, gradient, tape: tape, gradients, goesOn: false)
  }

  /// - Parameters:
  ///   - goesOn: whether anything needs the gradient of the embeddings, which takes the place of that of the states
  ///   - source: what cross attention looked at
  func backward(
    _ batch: Batch, _ gradient: Floats, tape: Tape, _ gradients: Gradients, goesOn: Bool, source: SourceStates? = nil
  ) throws {
    let runs = try batch.runs
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let layers = operations(batch, tape)
    let (checkpointing, tape) = (tape.checkpointing, part(of: tape))
    let last = weights.layers.count - 1
    let reachesEmbeddings = goesOn || gradients.hasEmbeddings(weights)
    let lowest = reachesEmbeddings || source?.gradient != nil ? 0 : weights.layers.firstIndex { gradients.has($0) } ?? weights.layers.count
    let relative = weights.relative.flatMap { gradients.has($0) ? $0 : nil }
    let bias = weights.positionBias.flatMap { gradients.has($0.table) ? $0 : nil }
    let longest = runs.map(\.ids.count).max() ?? 0
    let distances = relative.map { FloatStore(count: $0.table.count * shape.width) }
      ?? bias.map { FloatStore(count: $0.places(max(longest, 1)) * $0.table.width) }
    distances?.start.update(repeating: 0, count: distances?.count ?? 0)
    if let norm = weights.finalNorm {
      layers.normBack(norm, shape, gradient, tape.inputs[last + 1].start, rows: rows, gradient, gradients)
    }
    for index in weights.layers.indices.reversed() where index >= lowest {
      try Interrupt.check()
      let own = tape.layer(index)
      let x = tape.inputs[index].start
      // The last layer's own is still there.
      if checkpointing, index != last {
        layer(index, runs, layers, rows, from: x, to: floats(Slot.again, rows * shape.width), own, source)
      }
      let goesOn = index > lowest || reachesEmbeddings
      layerBack(index, runs, layers, rows, x, own, gradient, gradients, goesOn: goesOn, distances: distances, source)
      guard LayerKernels.allFinite(gradient, count: rows * shape.width) else {
        throw NibbleError.quality("\(layer: index) gives NaN or infinite gradients")
      }
    }
    if let relative, let distances { distancesBack(relative, distances, layers, gradients) }
    if let bias, let distances { biasBack(bias, distances, tokens: max(longest, 1), layers, gradients) }
    if reachesEmbeddings { try embedBack(runs, layers, rows, tape, gradient, gradients) }
  }

  /// From the gradient of a layer's output to that of its input, in place.
  ///
  /// - Parameters:
  ///   - goesOn: whether anything below needs the latter
  ///   - distances: gets what the table of distances has of this layer
  private func layerBack(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ x: Floats, _ tape: LayerTape, _ gradient: Floats,
    _ gradients: Gradients, goesOn: Bool, distances: FloatStore?, _ source: SourceStates?
  ) {
    let layer = weights.layers[index]
    let (attention, mlp) = (layer.attentionNorms, layer.mlpNorms)
    let width = shape.width
    let half = floats(Slot.half, rows * width)
    let input = attention.before == nil ? x : tape.attentionInput.start
    let base = shape.isParallel ? x : tape.cross?.sum.start ?? tape.middle.start
    let sharesInput = shape.isParallel && mlp.before == nil
    let mlpInput = mlp.before != nil || attention.behind != nil ? tape.mlpInput.start : shape.isParallel ? input : base
    /// The gradient of what a branch gave before its norm, from that of the sum.
    func enter(_ norms: BranchNorms, _ branch: FloatStore) {
      half.update(from: gradient, count: rows * width)
      layers.scale(half, by: shape.residualScale, rows: rows, width: width)
      if let norm = norms.after { layers.normBack(norm, shape, half, branch.start, rows: rows, half, gradients) }
    }
    // Behind the MLP.
    if let norm = mlp.behind { layers.normBack(norm, shape, gradient, tape.end.start, rows: rows, gradient, gradients) }
    enter(mlp, tape.mlpBranch)
    if let experts = layer.experts {
      routeBack(experts, layers, mlpInput, rows: rows, half, tape, gradients)
    } else {
      feedForwardBack(
        layer.own, layers, mlpInput, rows: rows, up: tape.up.start, activated: tape.activated.start, half, dx: half, tape.linear, gradients)
    }
    if let norm = mlp.before { layers.normBack(norm, shape, half, base, rows: rows, half, gradients) }
    let beside = shape.isParallel ? floats(Slot.beside, rows * width) : half
    if shape.isParallel {
      beside.update(from: half, count: rows * width)
    } else {
      layers.add(half, to: gradient, rows: rows, width: width)
    }
    if let cross = layer.cross, let source {
      crossBack(cross, index, runs, layers, rows, tape.middle.start, source, tape, gradient, gradients)
    }
    if let norm = attention.behind { layers.normBack(norm, shape, gradient, tape.middle.start, rows: rows, gradient, gradients) }
    // Behind attention.
    let dAttended = floats(Slot.inner, rows * shape.attendedWidth)
    let dQueryKeyValue = floats(Slot.wide, rows * shape.attentionWidth)
    enter(attention, tape.attentionBranch)
    layers.linearBack([layer.attentionOutput], tape.attended.start, rows: rows, half, dx: dAttended, tape.linear, gradients)
    let pairs = pairs(index, runs, layers, tape, dAttended, dQueryKeyValue, gradients)
    withExtendedLifetime(runs) {
      if let relative = weights.relative, relative.isUsed {
        attendByDistanceBack(index, relative, pairs, layers, gradients, sum: distances)
      } else if let bias = weights.positionBias {
        attendWithBiasBack(index, bias, pairs, layers, sum: distances)
      } else {
        layers.timed(.attention) { shape.attention(index).backward(pairs, engine.team) }
        addSinks(layer, pairs, gradients)
      }
    }
    scaleQueries(index, runs, dQueryKeyValue)
    rotate(index, runs, dQueryKeyValue, back: true)
    normHeadsBack(index, layers, rows, dQueryKeyValue, tape, gradients)
    var dProjected = dQueryKeyValue
    if shape.isGrouped {
      dProjected = floats(Slot.grouped, rows * shape.attentionWidth)
      group(dQueryKeyValue, rows, to: dProjected)
    }
    // Norms may be trained though nothing below them is.
    let isNeeded = goesOn || attention.before.map { gradients.has($0) } ?? false
    if let latent = layer.latent {
      projectBack(latent, layers, rows, input, dProjected, tape, dx: isNeeded ? half : nil, gradients)
    } else {
      layers.linearBack(layer.queryKeyValue, input, rows: rows, dProjected, dx: isNeeded ? half : nil, tape.linear, gradients)
    }
    guard isNeeded else { return }
    if sharesInput { layers.add(beside, to: half, rows: rows, width: width) }
    if let norm = attention.before { layers.normBack(norm, shape, half, x, rows: rows, half, gradients) }
    layers.add(half, to: gradient, rows: rows, width: width)
    if shape.isParallel, !sharesInput { layers.add(beside, to: gradient, rows: rows, width: width) }
  }

  func activateBack(_ dy: Floats, _ up: Floats, _ rows: Int, inner: Int, _ dUp: Floats) {
    engine.team.split(rows, grain: max(1, (1 << 13) / inner)) { part, _ in
      for row in part {
        if let clamped = shape.clampedGate {
          clamped.activateBack(dy + row * inner, up + row * 2 * inner, count: inner, dUp + row * 2 * inner)
        } else if shape.isGated {
          let gate = up + row * 2 * inner, to = dUp + row * 2 * inner
          LayerKernels.activateBack(
            shape.activation, dy + row * inner, gate: gate, times: gate + inner, count: inner, dgate: to, dup: to + inner)
        } else {
          LayerKernels.activateBack(shape.activation, dy + row * inner, up + row * inner, count: inner, dUp + row * inner)
        }
      }
    }
  }

  /// What attention took and gave, and where its gradients lie.
  private func pairs(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ tape: LayerTape, _ dAttended: Floats, _ dQueryKeyValue: Floats,
    _ gradients: Gradients
  ) -> [(sequence: Attention.Sequence, gradient: Attention.Gradient)] {
    let stride = shape.attentionWidth
    let sinks = weights.layers[index].sinks.flatMap { gradients.vectors[$0.id] }.map { _ in floats(Slot.sinkGradient, runs.count * shape.heads) }
    var row = 0
    var pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)] = []
    for sequence in sequences(index, runs, layers, tape.queryKeyValue.start, tape.attended.start) {
      let to = dQueryKeyValue + row * stride
      pairs.append(
        (
          sequence,
          Attention.Gradient(
            output: dAttended + row * shape.attendedWidth, outputStride: shape.attendedWidth, query: to, key: to + shape.queryWidth,
            value: to + shape.queryWidth + shape.keyWidth, stride: stride, sinks: sinks.map { $0 + pairs.count * shape.heads })
        ))
      row += sequence.new
    }
    return pairs
  }

  /// Adds what came back to the sinks of a layer, if they are trained.
  private func addSinks(
    _ layer: LayerWeights, _ pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)], _ gradients: Gradients
  ) {
    guard let own = layer.sinks.flatMap({ gradients.vectors[$0.id] }) else { return }
    for pair in pairs {
      if let sinks = pair.gradient.sinks { LayerKernels.add(sinks, count: shape.heads, to: own.start) }
    }
  }

  /// Adds to the gradients of the tables that are trained.
  private func embedBack(
    _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ tape: TransformerTape, _ gradient: Floats, _ gradients: Gradients
  ) throws {
    var gradient = gradient
    if let projection = weights.embeddingProjection {
      let narrow = floats(Slot.narrow, rows * weights.embeddingWidth)
      layers.linearBack([projection], tape.narrow.start, rows: rows, gradient, dx: narrow, tape.embeddingLinear, gradients)
      gradient = narrow
    }
    if let norm = weights.embeddingNorm {
      layers.normBack(norm, shape, gradient, tape.embedded.start, rows: rows, gradient, gradients, embeddingRows)
    }
    guard let segment = layers.segments.first else { return }
    layers.scale(gradient, by: shape.embeddingScale, rows: rows, width: weights.embeddingWidth)
    for (table, indices) in try lookups(runs) { add(gradient, indices, of: table, segment, layers, gradients) }
  }

  /// Adds the gradient of rows that were looked up to those of what is trained in their table.
  func add(
    _ gradient: UnsafePointer<Float>, _ indices: [Int], of table: Embedding, _ segment: Segment, _ layers: Layers,
    _ gradients: Gradients
  ) {
    if let own = gradients.matrices[table.id] {
      for (row, index) in indices.enumerated() {
        LayerKernels.add(gradient + row * table.width, count: table.width, to: own.start + index * table.width)
      }
    }
    if let own = gradients.rows[table.id] { segment.rows(table.id)?.addGradient(indices, gradient, to: own) }
    if let own = gradients.tables[table.id] {
      layers.adaptBack(indices, of: table, segment, gradient, own, floats(Slot.wide, 2 * indices.count * table.width))
    }
  }
}

extension Gradients {
  fileprivate func has(_ layer: LayerWeights) -> Bool {
    layer.linears.contains { has($0) } || layer.norms.contains { has($0) } || layer.sinks.map { vectors[$0.id] != nil } ?? false
  }

  /// Of tables of embeddings, and of the norm behind them.
  fileprivate func hasEmbeddings(_ weights: TransformerWeights) -> Bool {
    [weights.tokens, weights.positions, weights.tokenTypes, weights.positionBias?.table].contains { $0.map { has($0) } ?? false }
      || weights.embeddingNorm.map { has($0) } ?? false || weights.embeddingProjection.map { has($0) } ?? false || weights.relative.map { has($0) } ?? false
  }
}
