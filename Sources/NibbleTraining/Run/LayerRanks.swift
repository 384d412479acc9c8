import NibbleAdapters
import NibbleCore
import NibbleModels

/// Ranks by what layers are part of, or by the half of the model they are in.
public struct LayerRanks: Sendable, Equatable {
  public var attention: Int?
  public var mlp: Int?
  /// Of layers 0 to below half their number, and of the others.
  public var firstHalf: Int?
  public var secondHalf: Int?

  public init() {}

  /// nil if none is given.
  package var json: JSON? {
    let all = [("attention", attention), ("mlp", mlp), ("first_half", firstHalf), ("second_half", secondHalf)]
    let given = all.compactMap { name, rank in rank.map { (name, JSON($0)) } }
    return given.isEmpty ? nil : .object(given)
  }
}

/// The rank and alpha of every module: those of the first pattern that is found in its path, or of its kind or half, or the common ones.
struct LayerFactors {
  private let options: AdapterOptions
  private let ranks: [(Pattern, Int)]
  private let alphas: [(Pattern, Double)]
  private let attention, mlp: Set<String>
  /// Layers of the model.
  private let depth: Int

  /// - Throws: `.usage` for patterns that are none, and for ranks by kind beside ranks by depth
  init(_ options: AdapterOptions, _ parts: NetworkParts) throws {
    let own = options.layerRanks
    guard own.attention == nil && own.mlp == nil || own.firstHalf == nil && own.secondHalf == nil else {
      throw NibbleError.usage("ranks by kind and by depth together: which one a layer gets is not said; \(.rankPattern) says it")
    }
    self.options = options
    ranks = try options.rankPattern.map { (try Pattern($0.pattern), $0.value) }
    alphas = try options.alphaPattern.map { (try Pattern($0.pattern), $0.value) }
    (attention, mlp) = (Set(parts.attention.map(\.name)), Set(parts.mlp.map(\.name)))
    depth = (parts.layers.compactMap { Self.number($0.name) }.max() ?? -1) + 1
  }

  /// The number of the layer that a module is part of.
  private static func number(_ path: String) -> Int? { path.split(separator: ".").lazy.compactMap { Int($0) }.first }

  func rank(of path: String) throws -> Int {
    if let found = try ranks.first(where: { try $0.0.isFound(in: path) }) { return found.1 }
    let own = options.layerRanks
    if let rank = own.attention, attention.contains(path) { return rank }
    if let rank = own.mlp, mlp.contains(path) { return rank }
    guard let number = Self.number(path) else { return options.rank }
    return (2 * number < depth ? own.firstHalf : own.secondHalf) ?? options.rank
  }

  /// What the product of a module's factors is multiplied with.
  func scale(of path: String, rank: Int, _ method: TrainableMethod) throws -> Double {
    let own = try alphas.first { try $0.0.isFound(in: path) }?.1
    let counted = own == nil && options.fixesScale ? options.rank : rank
    guard method.method.alphaKey != nil else { return 1 }
    return method.method.scale(
      alpha: own ?? options.alpha, rank: counted, common: options.rank, isStabilized: method.isRankStabilized)
  }
}
