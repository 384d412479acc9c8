import NibbleCompute
import NibbleCore

/// Householder reflection adaptation (HRA), arXiv:2405.17484: W′ = W · H, H a product of reflections along trained vectors, which
/// `apply_GS` makes orthogonal first.
package struct HRA: AdapterMethod {
  private static let vectors = "hra_u"
  private static let orthogonal = "apply_GS"

  package static let name = "HRA"
  package static let kind = "HRA"
  package static let onlyBias = "hra_only"
  package static let keys: Set<String> = ["init_weights"]
  package static let settings = [MethodSetting(orthogonal, flag: false)]
  package static let rankKey: String? = "r"
  package static let changesInputs = true
  package static let parts = [MethodPart(vectors, suffixes: [".hra_u"]) { [$0.inputs ?? 0, $0.rank] }]

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let shape = parts[vectors], shape.count == 2, !isEmbedding, shape[0] > 0, shape[1] > 0 else { return nil }
    return ModuleShape(input: [shape[0]], rank: shape[1], settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    if let inputs = module.inputs, module.settings[orthogonal] == 1, module.rank > inputs {
      return "\(module.rank) vectors of \(inputs) numbers are not orthogonal (\(key: orthogonal))"
    }
    return nil
  }

  /// Of two equal vectors the second has nothing that is orthogonal to the first.
  package static func contradiction(_ settings: MethodSettings) -> MessageText? {
    settings[orthogonal] == 1
      ? "\(key: orthogonal): orthogonal reflections do not begin as the base; an adapter that has them is trained on by \(.initAdapter)" : nil
  }

  /// Pairs of equal reflections, which are none together; of an odd rank the last reflection changes the layer from the beginning, as
  /// in PEFT.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let half = (layer.rank + 1) / 2
    let drawn = FactorStart.kaiming.first(layer, rows: layer.inputs, inputs: half)
    return [vectors: (0..<layer.inputs * layer.rank).map { drawn[$0 / layer.rank * half + $0 % layer.rank / 2] }]
  }

  private let own: FloatStore
  private let rank: Int
  private let inputs: Int
  private let isOrthogonal: Bool
  private let reflections: Reflections

  package init?(_ numbers: MethodNumbers) {
    guard let own = numbers.values[Self.vectors], let rank = numbers.rank, rank > 0 else { return nil }
    (self.own, self.rank, inputs) = (own, rank, own.count / rank)
    isOrthogonal = numbers.settings[Self.orthogonal] == 1
    let directions = Directions(own, count: rank, isOrthogonal: isOrthogonal)
    reflections = Reflections(inputs: inputs, count: rank) { du, gradients in
      if let gradient = gradients[Self.vectors] { directions.back(du, to: gradient) }
    }
    fold()
  }

  package var pair: LowRankPair? { nil }
  package var input: (any InputChange)? { reflections }
  package static let isMadeAnew = true

  package func fold() {
    Directions(own, count: rank, isOrthogonal: isOrthogonal).fill(reflections.vectors)
    reflections.settle()
  }
}

/// Columns of a matrix as vectors of length 1, each orthogonal to those before it if asked.
private struct Directions: Sendable {
  /// [length, count]
  private let columns: FloatStore
  private let count: Int
  private let isOrthogonal: Bool
  private var length: Int { columns.count / count }

  init(_ columns: FloatStore, count: Int, isOrthogonal: Bool) {
    (self.columns, self.count, self.isOrthogonal) = (columns, count, isOrthogonal)
  }

  /// One column, what it is without the directions before it, after each of them, and the direction it becomes.
  private func steps(_ k: Int, _ before: [[Double]]) -> (steps: [[Double]], norm: Double, direction: [Double]) {
    var steps = [(0..<length).map { Double(columns.start[$0 * count + k]) }]
    for other in isOrthogonal ? before : [] {
      let v = steps[steps.count - 1], along = dot(other, v)
      steps.append(zip(v, other).map { $0 - along * $1 })
    }
    let last = steps[steps.count - 1], norm = dot(last, last).squareRoot()
    return (steps, norm, last.map { $0 / norm })
  }

  private func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }

  /// - Parameter vectors: [count, length]
  func fill(_ vectors: FloatStore) {
    var found: [[Double]] = []
    for k in 0..<count {
      found.append(steps(k, found).direction)
      for i in 0..<length { vectors.start[k * length + i] = Float(found[k][i]) }
    }
  }

  /// - Parameters:
  ///   - gradient: of the vectors, [count, length]
  ///   - own: of the columns, [length, count]
  func back(_ gradient: FloatStore, to own: FloatStore) {
    var found: [(steps: [[Double]], norm: Double, direction: [Double])] = []
    for k in 0..<count { found.append(steps(k, found.map(\.direction))) }
    var dq = (0..<count).map { k in (0..<length).map { Double(gradient.start[k * length + $0]) } }
    for k in (0..<count).reversed() {
      let along = dot(dq[k], found[k].direction)
      var dv = zip(dq[k], found[k].direction).map { ($0 - along * $1) / found[k].norm }
      for j in (0..<found[k].steps.count - 1).reversed() {
        let (q, v) = (found[j].direction, found[k].steps[j])
        let (qdv, qv) = (dot(q, dv), dot(q, v))
        for i in 0..<length { dq[j][i] -= qv * dv[i] + qdv * v[i] }
        for i in 0..<length { dv[i] -= qdv * q[i] }
      }
      for i in 0..<length { own.start[i * count + k] += Float(dv[i]) }
    }
  }
}
