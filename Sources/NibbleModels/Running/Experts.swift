import NibbleCompute
import NibbleCore

/// A feed-forward network among several of a layer.
package struct Expert: Sendable {
  /// [gate, up], one projection of both, or that of a plain MLP.
  package var up: [Linear]
  package var down: Linear

  package init(up: [Linear], down: Linear) { (self.up, self.down) = (up, down) }

  package var linears: [Linear] { up + [down] }
}

/// The feed-forward networks of a layer, all of one size, and the router that picks some of them for each token.
///
/// With p = softmax(router · x) over all experts, in float32, a token x takes the experts of the greatest p. Each counts with its p, or with
/// its part of their sum. The others are not computed.
package struct Experts: Sendable {
  package var router: Linear
  package var all: [Expert]
  /// How many a token takes.
  package var used: Int
  /// Whether what they count with adds up to 1.
  package var addsUp: Bool

  package init(router: Linear, all: [Expert], used: Int, addsUp: Bool) {
    (self.router, self.all, self.used, self.addsUp) = (router, all, used, addsUp)
  }

  package var linears: [Linear] { [router] + all.flatMap(\.linears) }
}

/// Which experts the rows of a pass take, and how much each counts. A row with an expert it takes is a pair.
struct Routing {
  private let used: Int
  /// Of each row, the experts it takes, the one of the greatest p first.
  private(set) var taken: [Int]
  /// What these count with.
  private(set) var shares: [Float]
  /// Pairs by their places in `taken`: those of the first expert, in the order of rows, then those of the next.
  private(set) var order: [Int]
  /// Where the pairs of each expert begin in `order`, and where those of the last end.
  private let starts: [Int]

  /// - Parameter p: of all experts, [rows, experts]
  init(_ p: UnsafePointer<Float>, rows: Int, _ experts: Experts) {
    let count = experts.all.count
    used = experts.used
    (taken, shares, order) = ([], [], [])
    taken.reserveCapacity(rows * used)
    shares.reserveCapacity(rows * used)
    var left = [Float](repeating: 0, count: count)
    for row in 0..<rows {
      for expert in 0..<count { left[expert] = p[row * count + expert] }
      var sum: Float = 0
      for _ in 0..<used {
        // A row with a NaN is all NaN behind the softmax: the first experts are taken, and what the layer gives is NaN.
        var best: Int?
        for expert in 0..<count where left[expert] != -1 && best.map({ left[expert] > left[$0] }) ?? true { best = expert }
        guard let best else { break }
        taken.append(best)
        shares.append(left[best])
        sum += left[best]
        left[best] = -1
      }
      guard experts.addsUp else { continue }
      for place in row * used..<(row + 1) * used { shares[place] /= sum }
    }
    var counts = [Int](repeating: 0, count: count)
    for expert in taken { counts[expert] += 1 }
    var ends = [0]
    for count in counts { ends.append(ends[ends.count - 1] + count) }
    starts = ends
    order = [Int](repeating: 0, count: taken.count)
    for (place, expert) in taken.enumerated() {
      order[ends[expert]] = place
      ends[expert] += 1
    }
  }

  /// The pairs of an expert.
  func pairs(_ expert: Int) -> Range<Int> { starts[expert]..<starts[expert + 1] }
  func row(_ pair: Int) -> Int { order[pair] / used }
  func share(_ pair: Int) -> Float { shares[order[pair]] }
}

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
    let (count, width) = (experts.all.count, shape.width)
    let p = tape?.chances.start ?? floats(Slot.chances, rows.count * count)
    layers.linear([experts.router], x, rows: rows, p, tape?.linear)
    for row in 0..<rows.count { LayerKernels.softmax(p + row * count, count: count) }
    let routing = Routing(p, rows: rows.count, experts)
    tape?.routing = routing
    let taken = gather(x, routing)
    out.update(repeating: 0, count: rows.count * width)
    for index in experts.all.indices {
      let pairs = routing.pairs(index)
      guard !pairs.isEmpty else { continue }
      let expert = experts.all[index]
      let upWidth = expert.up.reduce(0) { $0 + $1.outputs }, inner = expert.down.inputs
      let at = tape == nil ? 0 : pairs.lowerBound
      let up = up + at * upWidth, activated = activated + at * inner
      let given = tape.map { $0.given.start + at * width } ?? floats(Slot.given, pairs.count * width)
      let own = layers.over(pairs.map { rows.lowerBound + routing.row($0) })
      own.linear(expert.up, taken + pairs.lowerBound * width, rows: 0..<pairs.count, up, tape?.linear)
      activate(up, pairs.count, inner: inner, activated)
      own.linear([expert.down], activated, rows: 0..<pairs.count, given, tape?.linear)
      engine.team.split(pairs.count, grain: layers.grain(width)) { part, _ in
        for index in part {
          let pair = pairs.lowerBound + index
          LayerKernels.add(given + index * width, scaledBy: routing.share(pair), count: width, to: out + routing.row(pair) * width)
        }
      }
    }
  }

  /// Of each pair the row that is taken, [pairs, width].
  private func gather(_ x: UnsafePointer<Float>, _ routing: Routing) -> Floats {
    let width = shape.width, taken = floats(Slot.taken, routing.order.count * width)
    engine.team.split(routing.order.count, grain: max(1, (1 << 15) / width)) { part, _ in
      for pair in part { (taken + pair * width).update(from: x + routing.row(pair) * width, count: width) }
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
      let upWidth = expert.up.reduce(0) { $0 + $1.outputs }, inner = expert.down.inputs, at = pairs.lowerBound
      let given = tape.given.start + at * width
      // The gradient of what an expert gives, then of what it takes.
      let dPairs = floats(Slot.given, pairs.count * width)
      let dInner = floats(Slot.inner, pairs.count * inner), dUp = floats(Slot.wide, pairs.count * upWidth)
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
      layers.linearBack([expert.down], tape.activated.start + at * inner, rows: pairs.count, dPairs, dx: dInner, tape.linear, gradients)
      activateBack(dInner, tape.up.start + at * upWidth, pairs.count, inner: inner, dUp)
      layers.linearBack(expert.up, taken + at * width, rows: pairs.count, dUp, dx: dPairs, tape.linear, gradients)
      engine.team.split(pairs.count, grain: layers.grain(width)) { part, _ in
        for index in part { LayerKernels.add(dPairs + index * width, count: width, to: dx + routing.row(at + index) * width) }
      }
    }
    let dChances = chancesBack(experts, routing, tape.chances.start, dShares, rows)
    layers.linearBack([experts.router], x, rows: rows, dChances, dx: gradient, tape.linear, gradients)
    layers.add(dx, to: gradient, rows: rows, width: width)
  }

  /// From the gradient of what experts count with to that of what the router gave, [rows, experts].
  private func chancesBack(
    _ experts: Experts, _ routing: Routing, _ p: UnsafePointer<Float>, _ dShares: UnsafePointer<Float>, _ rows: Int
  ) -> Floats {
    let (count, used) = (experts.all.count, experts.used)
    let gradient = floats(Slot.chanceGradient, rows * count)
    gradient.update(repeating: 0, count: rows * count)
    for row in 0..<rows {
      let places = row * used..<(row + 1) * used
      var (sum, mean): (Float, Float) = (1, 0)
      if experts.addsUp {
        sum = places.reduce(0) { $0 + p[row * count + routing.taken[$1]] }
        mean = places.reduce(0) { $0 + dShares[$1] * routing.shares[$1] }
      }
      for place in places { gradient[row * count + routing.taken[place]] = (dShares[place] - mean) / sum }
      LayerKernels.softmaxBack(p + row * count, gradient + row * count, count: count, scale: 1)
    }
    return gradient
  }
}
