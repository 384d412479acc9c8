import NibbleCompute

/// How factors begin.
public enum FactorStart: RawRepresentable, Sendable, Hashable, CaseIterable {
  /// A uniform within ± 1/√inputs, B zero: PEFT's default.
  case kaiming
  /// A normal with a deviation of 1/rank, B zero.
  case gaussian
  /// Neither zero, their product zero: rows of one random rotation go into A, the others into B. Of even ranks.
  case orthogonal
  /// The greatest singular values of the weight with their vectors, or as good as so many steps of a random search find them
  /// (arXiv:2404.02948).
  case pissa(steps: Int?)
  /// The first columns of the weight's QR decomposition (arXiv:2406.01775).
  case olora
  /// The best factors for what packing took from the weight: one step of arXiv:2310.08659. Layers that are not packed begin as usual.
  case loftq
  /// A: the directions in which a layer's inputs differ most, B zero; ranks go where they explain more (arXiv:2410.07170).
  case eva
  /// The part of the weight that does most to a layer's inputs, or least (arXiv:2406.05223).
  case corda

  public static let allCases: [FactorStart] = [
    .kaiming, .gaussian, .orthogonal, .pissa(steps: nil), .olora, .loftq, .eva, .corda,
  ]

  /// - Parameter rawValue: PEFT's word in `init_lora_weights`
  public init?(rawValue: String) {
    if let found = Self.allCases.first(where: { $0.rawValue == rawValue }) {
      self = found
      return
    }
    let start = "pissa_niter_"
    guard rawValue.hasPrefix(start), let steps = Int(rawValue.dropFirst(start.count)), (0...100).contains(steps) else { return nil }
    self = .pissa(steps: steps)
  }

  public var rawValue: String {
    switch self {
    case .kaiming: "kaiming"
    case .gaussian: "gaussian"
    case .orthogonal: "orthogonal"
    case .pissa(nil): "pissa"
    case .pissa(let steps?): "pissa_niter_\(steps)"
    case .olora: "olora"
    case .loftq: "loftq"
    case .eva: "eva"
    case .corda: "corda"
    }
  }

  /// Whether they are random, which every method with factors can begin with.
  package var isRandom: Bool { self == .kaiming || self == .gaussian }

  /// What a start goes by beside a layer's weight.
  package enum Need { case statistics, original }

  /// nil for nothing.
  package var need: Need? {
    switch self {
    case .eva, .corda: .statistics
    case .loftq: .original
    default: nil
    }
  }

  /// Whether layers get ranks by what their inputs are like.
  package var spreadsRanks: Bool { self == .eva }

  /// How many times the rank a layer may get at most.
  package static let rho = MethodSetting("rho", standard: 2, real: 1...1000)
  /// Whether a layer's scale stays when its rank changes.
  package static let keepsScale = MethodSetting("adjust_scaling_factors", flag: true)
  /// Whether the part of the weight is the one that does most (ipm) or least (kpm).
  package static let side = MethodSetting("corda_method", standard: 0, words: ["ipm", "kpm"])

  /// The start's own numbers, under PEFT's names.
  package var settings: [MethodSetting] {
    switch self {
    case .eva: [Self.rho, Self.keepsScale]
    case .corda: [Self.side]
    default: []
    }
  }

  /// A, [rank, inputs]
  func first(_ layer: NewModule) -> [Float] { first(layer, rows: layer.rank, inputs: layer.inputs) }

  /// The same for an A of another shape.
  func first(_ layer: NewModule, rows: Int, inputs: Int) -> [Float] {
    let bound = 1 / Double(inputs).squareRoot()
    return (0..<rows * inputs).map { index in
      switch self {
      case .gaussian: Float(layer.random.normal(UInt64(index)) / Double(layer.rank))
      default: Float((2 * layer.random.uniform(UInt64(index)) - 1) * bound)
      }
    }
  }
}

/// What a layer's factors begin by, beside its weight.
package struct StartMaterial {
  /// The start's own numbers; what is missing is as it is usually.
  package var settings: MethodSettings = [:]
  /// What the layer takes.
  package var inputs: InputMoments?
  /// The same, decomposed.
  package var directions: InputDirections?
  /// The weight before it was packed; nil where it is not packed.
  package var original: Matrix?

  package init() {}

  func number(_ setting: MethodSetting) -> Double { settings[setting.key] ?? setting.standard ?? 0 }
}
