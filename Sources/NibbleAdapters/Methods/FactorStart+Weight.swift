import NibbleCompute
import NibbleCore

// Starts from the weight itself, W = R + scale · B₀ · A₀: training goes on from B₀ and A₀ while R stays. What comes out is no change of W
// but of R; beside W it is scale · (B · A − B₀ · A₀), an ordinary pair of twice the rank, which works on the base as it is, packed or not.

extension FactorStart {
  /// Whether factors hold a part of the weight: they are followed by those they began with, of the other sign, which stay.
  package var holdsWeight: Bool {
    switch self {
    case .pissa, .olora: true
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
    case .pissa, .olora:
      guard rank <= min(layer.inputs, layer.outputs) else {
        throw fail("rank \(rank) is above the \(min(layer.inputs, layer.outputs)) of a weight [\(layer.outputs), \(layer.inputs)]")
      }
      let (a, b) = self == .olora ? try columns(layer) : try values(layer)
      var both: [Float] = []
      for row in 0..<layer.outputs {
        let own = b[row * rank..<(row + 1) * rank]
        both += own
        both += own.map { -$0 }
      }
      return (a + a, both)
    }
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
  private func values(_ layer: NewModule) throws -> (a: [Float], b: [Float]) {
    let (rank, inputs, outputs) = (layer.rank, layer.inputs, layer.outputs)
    let weight = layer.values
    let found: SingularFactors
    if case .pissa(let steps?) = self {
      let square = weight.values.reduce(0) { $0 + Double($1) * Double($1) }
      found = try RandomizedFactors(
        weight, rows: outputs, columns: inputs, squaredNorm: square, rank: rank, layer.random, layer.team, iterations: steps
      ).found
    } else {
      let columns = transposed(Array(weight.values), rows: outputs, columns: inputs).map(Double.init)
      let (u, s, vt) = try LAPACK.svd(columns, rows: outputs, columns: inputs)
      found = SingularFactors(
        values: Array(s.prefix(rank)), left: Array(u.prefix(rank * outputs)), outputs: outputs,
        right: (0..<rank).flatMap { k in (0..<inputs).map { vt[$0 * s.count + k] } }, inputs: inputs)
    }
    var factors = found.factors(rank: rank)
    for k in 0..<min(rank, found.values.count) where found.values[k] > 0 {
      let root = (found.values[k] / abs(layer.scale)).squareRoot(), sign = layer.scale < 0 ? -1.0 : 1.0
      for i in 0..<inputs { factors.a[k * inputs + i] = Float(root * Double(factors.a[k * inputs + i])) }
      for o in 0..<outputs { factors.b[o * rank + k] = Float(sign * root / found.values[k] * Double(factors.b[o * rank + k])) }
    }
    return (factors.a, factors.b)
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
}
