import NibbleCompute
import NibbleCore

/// LoKr of LyCORIS, arXiv:2309.14859: z = x · Wᵀ + scale · x · kron(W₁, W₂)ᵀ, each of the two whole or a product of thin factors.
package struct LoKr: AdapterMethod {
  package static let name = "LoKr"
  package static let kind = "LOKR"
  package static let keys: Set<String> = [
    "rank_pattern", "alpha_pattern", "rank_dropout", "module_dropout", "rank_dropout_scale", "use_effective_conv2d", "init_weights",
  ]
  private static let factor = "decompose_factor", both = "decompose_both"
  package static let settings = [
    MethodSetting(factor, standard: -1, -1...1_048_576), MethodSetting(both, flag: false),
  ]
  package static let rankKey: String? = "r", alphaKey: String? = "alpha"
  package static let isMadeAnew = true

  /// One of the two matrices: [rows, columns], and the rank of the factors it is a product of; 0 for a whole one.
  private struct Side {
    let name: String
    var rows: Int
    var columns: Int
    var rank: Int

    init(_ name: String, rows: Int, columns: Int, rank: Int = 0) {
      (self.name, self.rows, self.columns, self.rank) = (name, rows, columns, rank)
    }

    /// As `settings` has them.
    init(_ name: String, of settings: MethodSettings) {
      func number(_ key: String) -> Int { Int(settings[name + key] ?? 0) }
      self.init(name, rows: number(".rows"), columns: number(".columns"), rank: number(".rank"))
    }

    var settings: MethodSettings {
      [name + ".rows": Double(rows), name + ".columns": Double(columns), name + ".rank": Double(rank)]
    }

    /// From the shapes of its parts; nil for shapes that are none.
    init?(_ name: String, shapes: [String: [Int]]) {
      let (whole, a, b) = (shapes[name], shapes[name + "_a"], shapes[name + "_b"])
      switch (whole, a, b) {
      case (let whole?, nil, nil) where whole.count == 2: self.init(name, rows: whole[0], columns: whole[1])
      case (nil, let a?, let b?) where a.count == 2 && b.count == 2 && a[1] == b[0] && a[1] > 0:
        self.init(name, rows: a[0], columns: b[1], rank: a[1])
      default: return nil
      }
      guard rows > 0, columns > 0 else { return nil }
    }

    /// The shapes of its parts; [0] of those it does not have.
    func shape(_ part: String) -> [Int] {
      switch part.dropFirst(name.utf8.count) {
      case "": rank == 0 ? [rows, columns] : [0]
      case "_a": rank > 0 ? [rows, rank] : [0]
      default: rank > 0 ? [rank, columns] : [0]
      }
    }
  }

  private static let first = "lokr_w1", second = "lokr_w2"
  package static let parts = [first, second].flatMap { side in
    ["", "_a", "_b"].map { end in
      MethodPart(side + end, suffixes: ["." + side + end], isOptional: true) { module in
        Side(side, of: module.settings).shape(side + end)
      }
    }
  }

  /// A number is split into two, as close to each other or to `factor` as its divisors allow, the smaller one first.
  private static func split(_ number: Int, by factor: Int) -> (Int, Int) {
    if factor > 0, number % factor == 0 { return (factor, number / factor) }
    let limit = factor < 0 ? number : factor
    var (m, n) = (1, number)
    while m < n {
      guard let next = (m + 1...max(number, m + 1)).first(where: { number % $0 == 0 }) else { break }
      guard next + number / next <= m + n, next <= limit else { break }
      (m, n) = (next, number / next)
    }
    return (min(m, n), max(m, n))
  }

  /// The sizes PEFT gives a new module.
  package static func settled(_ settings: MethodSettings, inputs: Int, outputs: Int) -> MethodSettings {
    guard settings[first + ".rows"] == nil, let rank = settings[MethodSetting.rank].map({ Int($0) }) else { return settings }
    let factor = Int(settings[factor] ?? -1)
    let ((m, n), (l, k)) = (split(inputs, by: factor), split(outputs, by: factor))
    let isFirstThin = settings[both] == 1 && 2 * rank < max(l, m), isSecondThin = 2 * rank < max(k, n)
    return settings.merging(Side(first, rows: l, columns: m, rank: isFirstThin ? rank : 0).settings) { $1 }
      .merging(Side(second, rows: k, columns: n, rank: isSecondThin ? rank : 0).settings) { $1 }
  }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let u = Side(first, shapes: parts), let v = Side(second, shapes: parts), !isEmbedding else { return nil }
    let inputs = u.columns.multipliedReportingOverflow(by: v.columns), outputs = u.rows.multipliedReportingOverflow(by: v.rows)
    guard !inputs.overflow, !outputs.overflow else { return nil }
    // Whole matrices do not show the rank, which the scale depends on.
    let shown = max(u.rank, v.rank)
    return ModuleShape(
      input: [inputs.partialValue], outputs: outputs.partialValue, rank: shown > 0 ? shown : Int(settings[MethodSetting.rank] ?? 0),
      settings: settings.merging(u.settings) { $1 }.merging(v.settings) { $1 })
  }

  /// PEFT's: the first matrix of zeros, or its first factor.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    var numbers: [String: [Float]] = [:]
    for (stream, part) in parts.enumerated() {
      let shape = Side(stream < 3 ? first : second, of: layer.settings).shape(part.name)
      guard shape.count == 2 else { continue }
      let isZero = part.name == first || part.name == first + "_a"
      numbers[part.name] = isZero ? [Float](repeating: 0, count: shape[0] * shape[1]) : layer.uniform(shape, stream)
    }
    return numbers
  }

  /// A side's numbers, and what they are multiplied to.
  private struct Numbers: Sendable {
    let name: String
    let whole: FloatStore?
    let a: FloatStore?
    let b: FloatStore?
    let factor: KroneckerTerm.Factor
    private let rank: Int

    init?(_ side: Side, _ numbers: MethodNumbers) {
      (name, rank) = (side.name, side.rank)
      (whole, a, b) = (numbers.values[name], numbers.values[name + "_a"], numbers.values[name + "_b"])
      guard side.rank > 0 ? a != nil && b != nil : whole != nil else { return nil }
      let values = side.rank > 0 ? FloatStore(count: side.rows * side.columns) : whole ?? FloatStore(count: 0)
      factor = KroneckerTerm.Factor(values, rows: side.rows, columns: side.columns)
    }

    func fold() {
      guard let a, let b else { return }
      factor.values.values.update(repeating: 0)
      for i in 0..<factor.rows {
        for k in 0..<rank {
          LayerKernels.add(
            b.start + k * factor.columns, scaledBy: a.start[i * rank + k], count: factor.columns,
            to: factor.values.start + i * factor.columns)
        }
      }
    }

    /// dA += dM · Bᵀ, dB += Aᵀ · dM.
    func back(_ d: FloatStore, to gradients: PartGradients) {
      guard let a, let b else {
        if let own = gradients[name] { LayerKernels.add(d.start, count: d.count, to: own.start) }
        return
      }
      let width = factor.columns
      for i in 0..<factor.rows {
        for k in 0..<rank {
          if let own = gradients[name + "_a"] {
            own.start[i * rank + k] += Float((0..<width).reduce(0.0) { $0 + Double(d.start[i * width + $1] * b.start[k * width + $1]) })
          }
          if let own = gradients[name + "_b"] {
            LayerKernels.add(d.start + i * width, scaledBy: a.start[i * rank + k], count: width, to: own.start + k * width)
          }
        }
      }
    }
  }

  private let u: Numbers
  private let v: Numbers
  private let kron: KroneckerTerm

  package init?(_ numbers: MethodNumbers) {
    guard let u = Numbers(Side(Self.first, of: numbers.settings), numbers),
      let v = Numbers(Side(Self.second, of: numbers.settings), numbers)
    else { return nil }
    (self.u, self.v) = (u, v)
    kron = KroneckerTerm(u.factor, v.factor, scale: numbers.scale) { du, dv, gradients in
      u.back(du, to: gradients)
      v.back(dv, to: gradients)
    }
    fold()
  }

  package var pair: LowRankPair? { nil }
  package var term: (any LayerTerm)? { kron }

  package func fold() {
    u.fold()
    v.fold()
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
}
