import NibbleCompute
import NibbleCore

extension Transformer {
  /// What the experts that `rows` take make of them together.
  ///
  /// - Parameters:
  ///   - x: the first of the rows; may be `out`
  ///   - up, activated: with a tape, room for all pairs; without, for the rows, and may be the same
  ///   - out: the first of the rows
  func route(
    _ experts: Experts, _ layers: Layers, _ x: Floats, rows: Range<Int>, up: Floats, activated: Floats, to out: Floats, _ tape: LayerTape?
  ) {
    let width = shape.width
    let routing = routing(experts, layers, x, rows: rows, tape)
    tape?.routing = routing
    let taken = gather(x, routing)
    let shared = experts.shared.map { share($0, layers, x, rows: rows, tape?.shared, tape?.linear) }
    out.update(repeating: 0, count: rows.count * width)
    for index in experts.all.indices {
      let pairs = routing.pairs(index)
      guard !pairs.isEmpty else { continue }
      let expert = experts.all[index]
      let at = tape == nil ? 0 : pairs.lowerBound
      let given = tape.map { $0.given.start + at * width } ?? floats(Slot.given, pairs.count * width)
      let own = layers.over(pairs.map { rows.lowerBound + routing.row($0) })
      feedForward(
        expert, own, taken + pairs.lowerBound * width, rows: 0..<pairs.count, up: up + at * expert.upWidth,
        activated: activated + at * expert.down.inputs, to: given, tape?.linear)
      engine.team.split(pairs.count, grain: layers.grain(width)) { part, _ in
        for index in part {
          let pair = pairs.lowerBound + index
          LayerKernels.add(given + index * width, scaledBy: routing.share(pair), count: width, to: out + routing.row(pair) * width)
        }
      }
    }
    if let shared { add(shared, layers, rows: rows.count, to: out) }
  }

  /// Which experts `rows` take.
  ///
  /// - Parameter x: the first of the rows
  func routing(_ experts: Experts, _ layers: Layers, _ x: Floats, rows: Range<Int>, _ tape: LayerTape?) -> Routing {
    let count = experts.all.count, p = tape?.chances.start ?? floats(Slot.chances, rows.count * count)
    router(experts, layers).linear([experts.router], x, rows: rows, p, tape?.linear)
    switch experts.rule.scores {
    case .softmax: for row in 0..<rows.count { LayerKernels.softmax(p + row * count, count: count) }
    case .sigmoid: LayerKernels.activate(.sigmoid, p, count: rows.count * count, p)
    case .ofInput: break
    }
    return Routing(p, rows: rows.count, experts)
  }

  /// The operations of the router's product.
  private func router(_ experts: Experts, _ layers: Layers) -> Layers { experts.rule.isExact ? layers.inFloat32 : layers }

  /// Of each pair the row that is taken, times what it counts with if the rule says so, [pairs, width].
  private func gather(_ x: UnsafePointer<Float>, _ routing: Routing) -> Floats {
    let width = shape.width, taken = floats(Slot.taken, routing.order.count * width)
    engine.team.split(routing.order.count, grain: max(1, (1 << 15) / width)) { part, _ in
      for pair in part {
        (taken + pair * width).update(from: x + routing.row(pair) * width, count: width)
        if routing.isOfInput { LayerKernels.scale(taken + pair * width, by: routing.inputShare(pair), count: width) }
      }
    }
    return taken
  }

  // MARK: The way back

  /// From the gradient of what the experts gave to that of what they took, in place.
  ///
  /// - Parameters:
  ///   - x: what they took, [rows, width]
  ///   - tape: of `route` with the same rows
  func routeBack(
    _ experts: Experts, _ layers: Layers, _ x: UnsafePointer<Float>, rows: Int, _ gradient: Floats, _ tape: LayerTape, _ gradients: Gradients
  ) {
    guard let routing = tape.routing else { return }
    let width = shape.width
    let taken = gather(x, routing)
    let dx = floats(Slot.takenGradient, rows * width)
    dx.update(repeating: 0, count: rows * width)
    let dShares = floats(Slot.shareGradient, routing.order.count)
    for index in experts.all.indices {
      let pairs = routing.pairs(index)
      guard !pairs.isEmpty else { continue }
      let expert = experts.all[index]
      let at = pairs.lowerBound
      let given = tape.given.start + at * width
      // The gradient of what an expert gives, then of what it takes.
      let dPairs = floats(Slot.given, pairs.count * width)
      engine.team.split(pairs.count, grain: layers.grain(width)) { part, _ in
        for index in part {
          let pair = at + index, dy = gradient + routing.row(pair) * width, y = given + index * width, own = dPairs + index * width
          var sum: Float = 0
          for place in 0..<width { sum += dy[place] * y[place] }
          dShares[routing.order[pair]] = sum
          let share = routing.share(pair)
          for place in 0..<width { own[place] = share * dy[place] }
        }
      }
      feedForwardBack(
        expert, layers, taken + at * width, rows: pairs.count, up: tape.up.start + at * expert.upWidth,
        activated: tape.activated.start + at * expert.down.inputs, dPairs, dx: dPairs, tape.linear, gradients)
      engine.team.split(pairs.count, grain: layers.grain(width)) { part, _ in
        for index in part {
          let pair = at + index, row = routing.row(pair) * width, own = dPairs + index * width
          if routing.isOfInput {
            dShares[routing.order[pair]] = (0..<width).reduce(into: Float(0)) { $0 += own[$1] * x[row + $1] }
            LayerKernels.scale(own, by: routing.inputShare(pair), count: width)
          }
          LayerKernels.add(own, count: width, to: dx + row)
        }
      }
    }
    let dChances = chancesBack(experts, routing, tape.chances.start, dShares, rows)
    let dShared = experts.shared.flatMap { shareBack($0, layers, x, rows: rows, gradient, tape, gradients) }
    router(experts, layers).linearBack([experts.router], x, rows: rows, dChances, dx: gradient, tape.linear, gradients)
    layers.add(dx, to: gradient, rows: rows, width: width)
    if let dShared { layers.add(dShared, to: gradient, rows: rows, width: width) }
  }

  /// From the gradient of what experts count with to that of what the router gave, [rows, experts].
  private func chancesBack(
    _ experts: Experts, _ routing: Routing, _ p: UnsafePointer<Float>, _ dShares: UnsafePointer<Float>, _ rows: Int
  ) -> Floats {
    let (count, used, rule) = (experts.all.count, experts.used, experts.rule)
    let gradient = floats(Slot.chanceGradient, rows * count)
    gradient.update(repeating: 0, count: rows * count)
    for row in 0..<rows {
      let places = row * used..<(row + 1) * used
      let p = p + row * count, gradient = gradient + row * count
      var (sum, mean): (Float, Float) = (1, 0)
      if rule.addsUp {
        sum = places.reduce(RoutingRule.least) { $0 + p[routing.taken[$1]] }
        mean = places.reduce(0) { $0 + dShares[$1] * routing.shares[$1] } / rule.scale
      }
      for place in places { gradient[routing.taken[place]] = (dShares[place] - mean) / sum * rule.scale }
      switch rule.scores {
      case .softmax: LayerKernels.softmaxBack(p, gradient, count: count, scale: 1)
      case .sigmoid: for expert in 0..<count { gradient[expert] *= p[expert] * (1 - p[expert]) }
      case .ofInput: for place in places { gradient[routing.taken[place]] *= routing.shares[place] * (1 - routing.shares[place]) }
      }
    }
    return gradient
  }
}
