import NibbleCompute
import NibbleCore

/// A tensor that a method has for each module it adapts.
package struct MethodPart: Sendable {
  /// What the method asks for it by.
  package let name: String
  /// What follows a module's path in adapter files; the first is written.
  package let suffixes: [String]
  /// The key of `adapter_config.json` that says whether modules have it; nil if they always do.
  package let flag: String?
  /// Whether it is one of two thin factors.
  let isFactor: Bool
  /// Whether it is a matrix that products are made with, and no factor.
  let isMatrix: Bool
  /// Whether the module's scale is for this part too.
  let isScaled: Bool
  /// Whether LoRA+ trains it at its other rate.
  package let isSecond: Bool
  /// Whether modules may be without it.
  let isOptional: Bool
  /// Whether it is there while a method is trained only: without a gradient, and in no adapter.
  package let isKept: Bool
  /// Whether all modules share one tensor, whose whole name the suffix is, and by what it is as large as the largest of them needs it:
  /// nil for a tensor of each module's own. What is shared stays as it is.
  package let sharing: Sharing?
  /// Its shape in a module; where that leaves ones out, files may have them.
  package let shape: @Sendable (ModuleShape) -> [Int]

  package init(
    _ name: String, suffixes: [String], flag: String? = nil, isFactor: Bool = false, isMatrix: Bool = false, isScaled: Bool = false,
    isSecond: Bool = false, isOptional: Bool = false, isKept: Bool = false, sharing: Sharing? = nil,
    shape: @escaping @Sendable (ModuleShape) -> [Int]
  ) {
    (self.name, self.suffixes, self.flag, self.isFactor, self.isScaled, self.isSecond) = (
      name, suffixes, flag, isFactor, isScaled, isSecond
    )
    (self.isMatrix, self.isOptional, self.isKept, self.sharing, self.shape) = (isMatrix, isOptional, isKept, sharing, shape)
  }

  /// What follows the path of such a module in the file that is written.
  package func suffix(_ shape: ModuleShape) -> String {
    suffixes.first { $0.contains(MethodPart.embedding) == (shape.kind == .embedding) } ?? suffixes[0]
  }

  package enum Sharing: Sendable { case inputs, outputs }

  /// In the suffixes of embeddings.
  static let embedding = "embedding"
}

/// What an adapted module is like, as far as an adapter's tensors show it.
package struct ModuleShape: Sendable, Equatable {
  package enum Kind: Sendable { case linear, embedding, convolution }

  package var kind = Kind.linear
  /// [inputs], of convolutions [channels, height, width]; nil if no tensor shows it.
  package var input: [Int]?
  /// nil if no tensor shows it.
  package var outputs: Int?
  /// As it is configured, of methods with factors; 0 without.
  package var rank = 0
  /// The method's own numbers for it.
  package var settings: MethodSettings = [:]
  /// Whether its factors are those of the weight's transpose.
  package var isTurned = false

  package init(
    _ kind: Kind = .linear, input: [Int]? = nil, outputs: Int? = nil, rank: Int = 0, settings: MethodSettings = [:]
  ) {
    (self.kind, self.input, self.outputs, self.rank, self.settings) = (kind, input, outputs, rank, settings)
  }

  /// Numbers a module takes; of a convolution, all it sees of its channels.
  package var inputs: Int? { input.flatMap { elementCount(of: $0) } }

  /// Whether a module that takes and gives so many numbers can be this one.
  package func fits(inputs: Int, outputs: Int) -> Bool {
    (self.inputs ?? inputs) == inputs && (self.outputs ?? outputs) == outputs
  }

  /// [outputs, inputs…], with the other's where this one has none.
  func weight(like other: [Int]) -> [Int]? {
    guard other.count >= 2, input == nil || input?.count == other.count - 1 else { return nil }
    return [outputs ?? other[0]] + (input ?? Array(other[1...]))
  }
}

/// What an adapter has for one linear layer or embedding.
package struct MethodNumbers {
  /// Of two dimensions, by part.
  package var matrices: [String: Matrix]
  /// Of one dimension, by part; of an embedding all.
  package var values: [String: FloatStore]
  /// What the product of factors is multiplied with.
  package var scale: Double
  /// Of the module, as far as its tensors and its layer show it.
  package var shape: ModuleShape
  package var settings: MethodSettings { shape.settings }
  /// nil for none.
  package var rank: Int? { shape.rank > 0 ? shape.rank : nil }
  package var inputs: Int? { shape.inputs }
  package var outputs: Int? { shape.outputs }
  /// The layer's weight, where none of the numbers changes any more; what follows from them is found once then.
  package var weight: Matrix?
  package var engine: Engine

  package init(
    matrices: [String: Matrix] = [:], values: [String: FloatStore] = [:], scale: Double = 1, settings: MethodSettings = [:],
    shape: ModuleShape? = nil, weight: Matrix? = nil, _ engine: Engine
  ) {
    (self.matrices, self.values, self.scale, self.weight, self.engine) = (matrices, values, scale, weight, engine)
    self.shape = shape ?? ModuleShape(settings: settings)
  }
}

/// A linear layer or embedding that is about to be adapted.
package struct NewModule {
  package let kind: ModuleShape.Kind
  package let inputs: Int
  package let outputs: Int
  package let rank: Int
  package let settings: MethodSettings
  package let factors: FactorStart
  package let random: CountedRandom
  /// What the product of its factors is multiplied with.
  package let scale: Double
  /// What its factors begin by, beside its weight.
  package let material: StartMaterial
  /// Of its weight's rows, [outputs].
  package var lengths: [Double] { MatrixLengths(weight, engine).squares(adding: nil).map { $0.squareRoot() } }
  private let weight: Matrix
  private let engine: Engine

  package init(
    _ weight: Matrix, kind: ModuleShape.Kind = .linear, rank: Int, settings: MethodSettings = [:], scale: Double = 1, _ factors: FactorStart,
    _ random: CountedRandom, _ engine: Engine, material: StartMaterial = .init()
  ) {
    self.kind = kind
    (inputs, outputs, self.rank, self.factors, self.random) = (weight.inputs, weight.outputs, rank, factors, random)
    (self.settings, self.scale, self.material, self.weight, self.engine) = (settings, scale, material, weight, engine)
  }
}

extension NewModule {
  /// The layer's weight, [outputs, inputs].
  var values: FloatStore { weight.values() }

  var team: Team { engine.team }

  /// Numbers for a matrix [rows, columns], uniform within ± 1/√columns: PEFT's for most of what does not begin as zeros.
  ///
  /// - Parameter stream: another for each part
  func uniform(_ shape: [Int], _ stream: Int) -> [Float] {
    let bound = 1 / Double(shape[1]).squareRoot()
    return (0..<shape[0] * shape[1]).map { Float((2 * random.uniform(UInt64(stream) << 40 + UInt64($0)) - 1) * bound) }
  }

  /// The same, normal.
  func normal(_ shape: [Int], deviation: Double, _ stream: Int) -> [Float] {
    (0..<shape[0] * shape[1]).map { Float(deviation * random.normal(UInt64(stream) << 40 + UInt64($0))) }
  }
}
