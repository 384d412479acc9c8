import NibbleCompute
import NibbleCore

// Starts from the weight itself, W = R + scale · B₀ · A₀: training goes on from B₀ and A₀ while R stays. What comes out is no change of W
// but of R; beside W it is scale · (B · A − B₀ · A₀), an ordinary pair of twice the rank, which works on the base as it is, packed or not.

extension FactorStart {
  /// Whether factors hold a part of the weight: they are followed by those they began with, of the other sign, which stay.
  package var holdsWeight: Bool {
    switch self {
    case .pissa, .olora, .corda: true
    default: false
    }
  }

  /// Both factors, where they are not the usual random ones: A [rank, inputs] and B [outputs, rank], of twice the rank if they hold a part
  /// of the weight.
  ///
  /// - Throws: `.usage` for ranks that cannot begin so, `.failed` where there is no LAPACK
  package func factors(_ layer: NewModule) throws -> (a: [Float], b: [Float])? {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.usage("\(.initLora, rawValue): \(reason)") }
    let rank = layer.rank
    switch self {
    case .kaiming, .gaussian: return nil
    case .orthogonal:
      guard rank % 2 == 0 else { throw fail("the rank has to be even, and \(rank) is not") }
      return try orthogonal(layer)
    case .eva:
      guard let directions = layer.material.directions else { return nil }
      return (directions.first(rank), [Float](repeating: 0, count: layer.outputs * rank))
    case .pissa, .olora, .corda, .loftq: break
    }
    guard rank <= min(layer.inputs, layer.outputs) else {
      throw fail("rank \(rank) is above the \(min(layer.inputs, layer.outputs)) of a weight [\(layer.outputs), \(layer.inputs)]")
    }
    switch self {
    case .loftq: return try left(layer)
    case .olora: return doubled(try columns(layer), rank)
    case .corda: return doubled(try projected(layer), rank)
    case .pissa(let steps): return doubled(try values(layer, steps), rank)
    default: return nil
    }
  }

  /// Factors, and behind them the same with the other sign.
  private func doubled(_ pair: (a: [Float], b: [Float]), _ rank: Int) -> (a: [Float], b: [Float]) {
    let rows = stride(from: 0, to: pair.b.count, by: rank).map { pair.b[$0..<$0 + rank] }
    return (pair.a + pair.a, rows.flatMap { $0 + $0.map { -$0 } })
  }

  /// A = (X · Q₁)ᵀ / 10 and B = Y · Q₂ / 10 with X and Y normal, Q₁ and Q₂ every other row of a rotation.
  private func orthogonal(_ layer: NewModule) throws -> (a: [Float], b: [Float]) {
    let rank = layer.rank, half = rank / 2
    let drawn = layer.normal([rank, rank], deviation: 1, 2).map(Double.init)
    // Column by column: what comes out is as good by rows.
    let q = try LAPACK.qr(drawn, rows: rank, columns: rank).q
    func product(_ count: Int, _ stream: Int, from first: Int) -> [Float] {
      let x = layer.normal([count, half], deviation: 1, stream)
      return (0..<count * rank).map { place in
        let (i, k) = place.quotientAndRemainder(dividingBy: rank)
        var sum = 0.0
        for l in 0..<half { sum += Double(x[i * half + l]) * q[(2 * l + first) * rank + k] }
        return Float(sum / 10)
      }
    }
    return (transposed(product(layer.inputs, 0, from: 0), rows: layer.inputs, columns: rank), product(layer.outputs, 1, from: 1))
  }

  /// A₀ = √(S / scale) · Vᵀ and B₀ = U · √(S / scale) of the greatest values.
  private func values(_ layer: NewModule, _ steps: Int?) throws -> (a: [Float], b: [Float]) {
    let weight = layer.values
    guard let steps else {
      return try SingularFactors(allOf: weight, rows: layer.outputs, columns: layer.inputs, rank: layer.rank)
        .balanced(rank: layer.rank, scale: layer.scale)
    }
    let square = weight.values.reduce(0) { $0 + Double($1) * Double($1) }
    return try RandomizedFactors(
      weight, rows: layer.outputs, columns: layer.inputs, squaredNorm: square, rank: layer.rank, layer.random, layer.team, iterations: steps
    ).found.balanced(rank: layer.rank, scale: layer.scale)
  }

  /// The same of what packing left of the weight, W − Ŵ; nil where nothing is known of it.
  private func left(_ layer: NewModule) throws -> (a: [Float], b: [Float])? {
    guard let original = layer.material.original?.values() else { return nil }
    let packed = layer.values
    for place in 0..<packed.count { original.start[place] -= packed.start[place] }
    return try LowRankPair.best(
      for: original, outputs: layer.outputs, inputs: layer.inputs, rank: layer.rank, scale: layer.scale, layer.random, layer.team)
  }

  /// Of W = Q · R the first columns of Q and rows of R, which the first columns of W give: R = Qᵀ · W. As in PEFT the scale is no part of
  /// them.
  private func columns(_ layer: NewModule) throws -> (a: [Float], b: [Float]) {
    let (rank, inputs, outputs) = (layer.rank, layer.inputs, layer.outputs)
    let weight = layer.values
    let first = (0..<rank).flatMap { k in (0..<outputs).map { Double(weight.start[$0 * inputs + k]) } }
    let q = try LAPACK.qr(first, rows: outputs, columns: rank).q
    var a = [Double](repeating: 0, count: rank * inputs)
    for k in 0..<rank {
      for o in 0..<outputs {
        let factor = q[k * outputs + o]
        for i in 0..<inputs { a[k * inputs + i] += factor * Double(weight.start[o * inputs + i]) }
      }
    }
    return (a.map { Float($0) }, (0..<outputs * rank).map { Float(q[$0 % rank * outputs + $0 / rank]) })
  }

  /// Added to the covariance's diagonal, as a share of its mean: what PEFT's and the paper's code begin with.
  private static let damping = 0.01

  /// CorDA: with W · C = U · S · Vᵀ, C = E[x · xᵀ], the product of the factors is U₁ · S₁ · V₁ᵀ · C⁻¹ = U₁ · U₁ᵀ · W, with U₁ the vectors of the
  /// greatest values or of the least. No inverse is needed: A₀ = U₁ᵀ · W / √(S₁ · scale), B₀ = U₁ · √(S₁ / scale). C counts in units of its mean
  /// diagonal, which the product does not show.
  private func projected(_ layer: NewModule) throws -> (a: [Float], b: [Float]) {
    let (rank, inputs, outputs) = (layer.rank, layer.inputs, layer.outputs)
    guard let moments = layer.material.inputs else { throw NibbleError(.failed, "no statistics for a start that goes by them") }
    var c = moments.whole
    let mean = (0..<inputs).reduce(0) { $0 + c[$1 * inputs + $1] } / Double(inputs)
    guard mean > 0 else { throw NibbleError.badInput("\(.initLora, rawValue): the statistics say that a layer takes nothing but zeros") }
    for place in c.indices { c[place] /= mean }
    for place in 0..<inputs { c[place * inputs + place] += Self.damping }
    // Column by column, a weight by rows is Wᵀ, and C · Wᵀ is (W · C)ᵀ.
    let weight = layer.values.doubles
    let (_, s, vt) = try LAPACK.svd(LAPACK.product(c, weight, rows: inputs, inner: inputs, columns: outputs), rows: inputs, columns: outputs)
    let begin = layer.material.number(Self.side) == 0 ? 0 : s.count - rank
    let u = (begin..<begin + rank).flatMap { k in (0..<outputs).map { vt[$0 * s.count + k] } }
    let a = try LAPACK.product(weight, u, rows: inputs, inner: outputs, columns: rank)
    let roots = s[begin..<begin + rank].map { ($0 * abs(layer.scale)).squareRoot() }
    return (
      (0..<rank * inputs).map { roots[$0 / inputs] > 0 ? Float(a[$0] / roots[$0 / inputs]) : 0 },
      (0..<outputs * rank).map { Float(u[$0 % rank * outputs + $0 / rank] * roots[$0 % rank] / layer.scale) }
    )
  }
}

extension SingularFactors {
  /// A = √(S / scale) · Vᵀ and B = U · √(S / scale).
  func balanced(rank: Int, scale: Double) -> (a: [Float], b: [Float]) {
    var factors = factors(rank: rank)
    for k in 0..<min(rank, values.count) where values[k] > 0 {
      let root = (values[k] / abs(scale)).squareRoot(), sign = scale < 0 ? -1.0 : 1.0
      for i in 0..<inputs { factors.a[k * inputs + i] = Float(root * Double(factors.a[k * inputs + i])) }
      for o in 0..<outputs { factors.b[o * rank + k] = Float(sign * root / values[k] * Double(factors.b[o * rank + k])) }
    }
    return (factors.a, factors.b)
  }
}

extension LowRankPair {
  /// The factors whose product, times scale, comes nearest to a matrix [outputs, inputs], as long as each other.
  ///
  /// - Throws: `.failed` where there is no LAPACK
  package static func best(
    for matrix: FloatStore, outputs: Int, inputs: Int, rank: Int, scale: Double, _ random: CountedRandom, _ team: Team
  ) throws -> (a: [Float], b: [Float]) {
    try SingularFactors(greatestOf: matrix, rows: outputs, columns: inputs, rank: rank, random, team).balanced(rank: rank, scale: scale)
  }
}
