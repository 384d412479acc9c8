import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// Which tensors make the difference between two models A and B: tensor after tensor of B in its place in A, and what that does to A's answers.
public struct Exchange: Sendable {
  /// A tensor that both have, with other values.
  public struct Tensor: Sendable {
    /// Its name in A.
    public let name: String
    /// ‖B − A‖ / ‖A‖.
    public let change: Double
    /// What A costs with this one tensor of B.
    public let alone: TokenMean
    /// What B costs with this and all tensors above it of A; nil where that was not measured.
    public internal(set) var left: TokenMean?
  }

  /// What B costs.
  public let total: TokenMean
  /// The dearest first.
  public private(set) var tensors: [Tensor]
  /// Tensors that only A, or only B, has.
  public let onlyA: [String], onlyB: [String]
  /// Tokens that were measured with.
  public let tokens: Int
  /// Whether costs are KL(A ‖ ·) of next tokens, in nats a token; else ‖· − A‖² / ‖A‖² of final states.
  public let isDivergence: Bool

  /// - Parameters:
  ///   - windows: ids as the models take them
  ///   - top: tensors that are given back to B one after another
  ///   - progress: called with tensors done and tensors in all
  /// - Throws: `.usage` without any token or for networks that are no transformer, `.badInput` for models of other shapes, `.quality` where
  ///   answers are not finite
  public init(
    _ a: Model, _ b: Model, _ windows: [[Int]], top: Int, progress: (Int, Int) -> Void = { _, _ in }
  ) throws {
    let windows = try CalibrationText.first(.max, of: windows)
    try Sensitivity.check(a, b)
    let sensitivity = try Sensitivity(a, windows)
    total = try Self.finite(sensitivity.cost(of: b), "\(path: b.path)")
    tokens = windows.reduce(0) { $0 + $1.count }
    isDivergence = sensitivity.isLanguage
    let report = try a.checkpoint.diff(b.checkpoint, threads: a.team.threads)
    (onlyA, onlyB) = (report.removed, report.added)
    tensors = []
    let changed = report.changed.filter { !$0.isEqual }
    for one in changed where one.a.logicalShape != one.b.logicalShape {
      throw NibbleError.badInput(
        "\(path: b.path): \(tensor: one.name) has shape \(one.b.logicalShape), in \(path: a.path) it is \(one.a.logicalShape)")
    }
    let projections = try Self.projections(of: a, b)
    let count = changed.count + min(top, changed.count)
    for one in changed {
      try Interrupt.check()
      let cost = try projections[one.name].map { try sensitivity.cost(half: $0.half, $0.id, $0.other) }
        ?? sensitivity.cost(of: a.exchanging([one.b]))
      tensors.append(
        Tensor(name: one.name, change: one.difference?.relativeRMS ?? .nan, alone: try Self.finite(cost, "\(path: b.path): \(tensor: one.name)")))
      progress(tensors.count, count)
    }
    tensors.sort { ($1.alone.value, $0.name) < ($0.alone.value, $1.name) }
    let own = Dictionary(changed.map { ($0.name, $0.a) }, uniquingKeysWith: { first, _ in first })
    var given: [StoredTensor] = []
    for place in tensors.indices.prefix(top) {
      try Interrupt.check()
      if let tensor = own[tensors[place].name] { given.append(tensor) }
      tensors[place].left = try Self.finite(sensitivity.cost(of: b.exchanging(given)), "\(path: b.path)")
      progress(changed.count + place + 1, count)
    }
  }

  private static func finite(_ cost: TokenMean, _ place: @autoclosure () -> MessageText) throws -> TokenMean {
    guard cost.value.isFinite else { throw NibbleError.quality("\(place()): what the model answers is not finite") }
    return cost
  }

  /// A projection of a layer: where it stands, and what the other model has in its place.
  private struct Projection {
    let half: Int
    let id: ParameterID
    let other: Matrix
  }

  /// Projections of layers, by the name of their weight in A's checkpoint.
  private static func projections(of a: Model, _ b: Model) throws -> [String: Projection] {
    let others = Dictionary(try b.transformer.weights.layers.flatMap(\.linears).map { ($0.name, $0.matrix) }, uniquingKeysWith: { first, _ in first })
    var found: [String: Projection] = [:]
    for (layer, weights) in try a.transformer.weights.layers.enumerated() {
      for linear in weights.linears {
        guard let other = others[linear.name], other.outputs == linear.outputs, other.inputs == linear.inputs else { continue }
        let isMLP = linear.id == weights.down.id || weights.up.contains { $0.id == linear.id }
        let name = linear.name + ".weight"
        found[a.checkpoint.tensor(called: name)?.name.text ?? name] = Projection(half: 2 * layer + (isMLP ? 1 : 0), id: linear.id, other: other)
      }
    }
    return found
  }
}

extension Model {
  /// The model with other tensors in the place of its own.
  fileprivate func exchanging(_ tensors: [StoredTensor]) throws -> Model {
    try Model(checkpoint.replacing(tensors, identity: nil), precision: engine.compute, team: team, verifies: false)
  }
}
