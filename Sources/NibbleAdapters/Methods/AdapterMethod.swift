import NibbleCompute
import NibbleCore

/// A way to adapt modules: which adapter files are of this method, what its numbers make of a linear layer, forward and backward, and
/// how a new adapter begins. With z = x · Wᵀ + pair(x) and the layer's own bias b:
///
///     y = s ∘ z + b + t,   or   y = s ∘ (z + b) + t   if `scalesBias`
///
/// A pass computes z, with the pair's part in the layer's own product, and y. A method says what its pair, s and t are, and takes the
/// gradient of y to that of z. Merging needs nothing else: the weight becomes s ∘ (W + D), D the pair's product, the bias b + t or
/// s ∘ b + t. Beside a pair a method may have a term that is none, or change what the layer takes. Numbers lie in memory that training may change between passes.
package protocol AdapterMethod: Sendable {
  /// What messages call it.
  static var name: String { get }
  /// `peft_type` in `adapter_config.json`.
  static var kind: String { get }
  /// The key whose `true` tells this method from others of its `kind`; nil for the one without.
  static var flag: String? { get }
  /// Whether adapters of other methods of its kind say that the flag is false: readers know it well.
  static var flagIsCommon: Bool { get }
  /// Whether PEFT has it: that loads what is written.
  static var isInPEFT: Bool { get }
  /// Whether tensors show the method where the configuration describes `other`. Files of programs without a key for it are read so.
  ///
  /// - Parameter parts: the names of all parts in the file
  static func isShown(by parts: Set<String>, insteadOf other: any AdapterMethod.Type) -> Bool
  /// Keys of `adapter_config.json` beside those of every method: what the method reads, and what means nothing to a trained adapter.
  static var keys: Set<String> { get }
  /// Numbers of `adapter_config.json` that decide, beside rank and scale, what its parts are.
  static var settings: [MethodSetting] { get }
  /// The keys of a module's rank and alpha, and of dropout; nil for methods without.
  static var rankKey: String? { get }
  static var alphaKey: String? { get }
  static var dropoutKey: String? { get }
  /// The rank of a configuration that says none.
  static var standardRank: Int { get }
  /// Whether its factors may begin as any `FactorStart` says.
  static var takesStarts: Bool { get }
  /// Whether modules may have ranks and alphas of their own.
  static var hasPatterns: Bool { get }
  /// The word for training biases of adapted layers only.
  static var onlyBias: String { get }
  /// What a key of `rank_pattern` and its value say: a pattern for paths, and their rank; nil for what says nothing.
  static func rankPattern(_ name: String, _ value: JSON) -> (name: String, rank: Double)?
  /// What the product of a module's factors is multiplied with.
  ///
  /// - Parameter common: the rank of modules without one of their own
  static func scale(alpha: Double, rank: Int, common: Int, isStabilized: Bool) -> Double
  /// The settings of a new module that takes and gives so many numbers; `MethodSetting.rank` among them.
  static func settled(_ settings: MethodSettings, inputs: Int, outputs: Int) -> MethodSettings
  /// What the settings of a new adapter say twice; nil for nothing.
  static func contradiction(_ settings: MethodSettings) -> MessageText?
  /// What such settings have that is read and not trained; nil for nothing.
  static func untrained(_ settings: MethodSettings) -> MessageText?
  /// What in `adapter_config.json` makes it another method, which is not implemented; nil for nothing.
  static func refusal(_ config: JSON) -> MessageText?
  /// What adapter files hold for each module.
  static var parts: [MethodPart] { get }
  /// Whether what is added has a scale, which rank and alpha of the configuration give.
  static var hasScale: Bool { get }
  /// Whether s may be other than 1. Such an adapter has no fraction, and goes with no other.
  static var scalesOutputs: Bool { get }
  /// Whether `scale` is for the layer's own bias too.
  static var scalesBias: Bool { get }
  /// Whether `input` may be other than nil.
  static var changesInputs: Bool { get }

  /// Whether models run with embeddings adapted by it.
  static var looksUp: Bool { get }
  /// Whether it adapts convolutions.
  static var adaptsConvolutions: Bool { get }

  /// What a module is like whose parts have these shapes.
  ///
  /// - Returns: nil if there is no such module
  static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape?
  /// Why a module of such a shape and rank cannot be adapted; nil if it can.
  static func refusal(of module: ModuleShape) -> MessageText?
  /// Whether a merge moves groups of a packed weight and touches no code: what it adds is the same for so many inputs in a row.
  static var movesGroups: Bool { get }
  /// Inputs, one after another, that the change of such a module adds the same to.
  static func sharedInputs(_ module: ModuleShape) -> Int
  /// Outputs of which the same holds.
  static func sharedOutputs(_ module: ModuleShape) -> Int
  /// The rank of the pair of such a module.
  static func pairRank(_ module: ModuleShape) -> Int
  /// The numbers that modules share and no file holds, by part.
  ///
  /// - Parameters:
  ///   - inputs: the most that any module takes
  ///   - outputs: the most that any module gives
  static func shared(rank: Int, inputs: Int, outputs: Int, settings: MethodSettings) -> [String: [Float]]
  /// The method of the adapters that training it leaves; another than itself holds the pair.
  static var storedAs: any AdapterMethod.Type { get }
  /// Whether it is for bases that are not packed.
  static var needsFloats: Bool { get }
  /// What it does in training beside gradients; nil for nothing.
  ///
  /// - Parameter steps: of the run
  /// - Throws: `.usage` for settings that contradict each other
  static func rule(_ modules: [RuledModule], steps: Int) throws -> (any TrainingRule)?
  /// The numbers a new adapter begins with, by part: of a layer that takes and gives so many numbers, and changes nothing.
  static func start(_ layer: NewModule) -> [String: [Float]]

  /// nil if numbers are missing.
  init?(_ numbers: MethodNumbers)
  /// Added to the layer's product; nil for nothing.
  var pair: LowRankPair? { get }
  /// The part of the pair whose input dropout leaves whole, with the pair's own B; nil for none.
  var undropped: LowRankPair? { get }
  /// x′ for x, before the layer's product; nil for x. Goes with no pair and no term.
  var input: (any InputChange)? { get }
  /// Added to the layer's product where that is no pair; nil for nothing.
  var term: (any LayerTerm)? { get }
  /// Whether the pair is made of the method's numbers, in memory of its own, instead of being two of its parts.
  static var folds: Bool { get }
  /// Whether `fold` makes anything.
  static var isMadeAnew: Bool { get }
  /// Makes the pair, and what else a pass is computed with, of the numbers as they are now: `init` does, and training before each pass.
  func fold()
  /// Adds what the gradients of the pair's factors are for the method's own numbers. Methods that fold have it.
  func foldBack(_ pair: PairGradients, to gradients: PartGradients)
  /// Added to the layer's product too, of methods that have no pair but numbers for tiles of the weight; nil for nothing.
  var pooled: PooledTerm? { get }
  /// The part whose numbers these are.
  var pooledPart: String? { get }
  /// Added to rows of an embedding; nil unless the method `looksUp`.
  var lookup: EmbeddingTerm? { get }
  /// t, [outputs]; nil for 0.
  var bias: FloatStore? { get }
  /// s, [outputs], where it is a number of the method's own; nil for 1, and where the weight has a say in it.
  var scale: FloatStore? { get }
  /// s, [outputs], for a weight whose rows have these lengths; nil for 1.
  func scales(_ lengths: any RowLengths) throws -> [Double]?
  /// s and t, as the method's numbers are now.
  ///
  /// - Parameters:
  ///   - weight: W, in place
  ///   - engine: of float32
  func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange
  /// Turns dy into the gradient of z, and adds to the gradients of what s and t are made of. The pair has its own way back.
  func backward(_ outputs: OutputGradient, _ gradients: PartGradients)
  /// Whether numbers as they are change nothing, and have no gradient by which they ever would.
  var isDead: Bool { get }
}

extension AdapterMethod {
  package static var keys: Set<String> { [] }
  package static var settings: [MethodSetting] { [] }
  package static var flagIsCommon: Bool { false }
  package static var isInPEFT: Bool { true }
  package static func isShown(by parts: Set<String>, insteadOf other: any AdapterMethod.Type) -> Bool { false }
  package static func refusal(of module: ModuleShape) -> MessageText? { nil }
  package static func pairRank(_ module: ModuleShape) -> Int { module.rank }
  package static var movesGroups: Bool { false }
  package static func sharedInputs(_ module: ModuleShape) -> Int { 1 }
  package static var rankKey: String? { hasScale ? "r" : nil }
  package static var alphaKey: String? { hasScale ? "lora_alpha" : nil }
  package static var dropoutKey: String? { hasScale ? "lora_dropout" : nil }
  package static var takesStarts: Bool { false }
  package static var standardRank: Int { 8 }
  package static var hasPatterns: Bool { keys.contains("alpha_pattern") }
  package static var onlyBias: String { AdapterConfig.Bias.loraOnly.rawValue }
  package static func rankPattern(_ name: String, _ value: JSON) -> (name: String, rank: Double)? {
    guard let rank = value.double, (1...1_048_576).contains(rank), rank == rank.rounded() else { return nil }
    return (name, rank)
  }
  package static func scale(alpha: Double, rank: Int, common: Int, isStabilized: Bool) -> Double {
    isStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank)
  }
  package static func settled(_ settings: MethodSettings, inputs: Int, outputs: Int) -> MethodSettings { settings }
  package static func contradiction(_ settings: MethodSettings) -> MessageText? { nil }
  package static func untrained(_ settings: MethodSettings) -> MessageText? { nil }
  package static func shared(rank: Int, inputs: Int, outputs: Int, settings: MethodSettings) -> [String: [Float]] { [:] }
  package static var storedAs: any AdapterMethod.Type { self }
  package static var needsFloats: Bool { false }
  package static func rule(_ modules: [RuledModule], steps: Int) throws -> (any TrainingRule)? { nil }
  package static var changesInputs: Bool { false }
  package var input: (any InputChange)? { nil }
  package var term: (any LayerTerm)? { nil }
  package static var isMadeAnew: Bool { folds }
  package static func sharedOutputs(_ module: ModuleShape) -> Int { 1 }
  package static var folds: Bool { false }
  package static var hasScale: Bool { hasFactors }
  package var pooled: PooledTerm? { nil }
  package var pooledPart: String? { nil }
  package var undropped: LowRankPair? { nil }
  package func fold() {}
  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {}
  package static func refusal(_ config: JSON) -> MessageText? { nil }
  package static var flag: String? { nil }
  package static var scalesOutputs: Bool { false }
  package static var scalesBias: Bool { false }
  package static var looksUp: Bool { false }
  package static var adaptsConvolutions: Bool { false }
  package var lookup: EmbeddingTerm? { nil }
  package var bias: FloatStore? { nil }
  package var scale: FloatStore? { nil }
  package var isDead: Bool { false }
  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
  package func scales(_ lengths: any RowLengths) throws -> [Double]? { scale?.values.map(Double.init) }
  package func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange {
    OutputChange(scale: scale, bias: bias, scalesBias: Self.scalesBias)
  }

  /// Whether it does nothing but add to its layers' products: its adapters have fractions, go with others, and can be taken out again.
  package static var isSum: Bool { !scalesOutputs && !changesInputs }
  /// Whether a plain LoRA adapter says the same: its factors are the pair.
  package static var foldsToLoRA: Bool { folds && !scalesOutputs }
  /// Numbers that a module of such a shape has.
  package static func count(_ module: ModuleShape) -> Int {
    parts.filter { $0.flag == nil }.reduce(0) { $0 + (elementCount(of: $1.shape(module)) ?? 0) }
  }
  /// Whether modules have two thin factors, and so a rank and a scale.
  package static var hasFactors: Bool { parts.contains(where: \.isFactor) }
  /// The part of this name.
  static func part(_ name: String) -> MethodPart? { parts.first { $0.name == name } }
  /// Parts that are no factors.
  static var extras: [MethodPart] { parts.filter { !$0.isFactor } }
}

/// Where the gradients of a pair's factors are summed up, to be handed to the numbers that the pair is made of.
package struct PairGradients {
  /// [rank, inputs]
  package let a: UnsafeMutablePointer<Float>
  /// [outputs, rank]
  package let b: UnsafeMutablePointer<Float>
  /// Of the A of what dropout leaves whole, as far as that is not in `a`; nil without dropout.
  package let undropped: UnsafeMutablePointer<Float>?
}

/// What follows a layer's product, a number an output.
package struct OutputChange {
  /// nil for 1.
  package var scale: FloatStore?
  /// nil for 0.
  package var bias: FloatStore?
  /// Whether the scale is for the layer's own bias too.
  package var scalesBias: Bool
  /// What else the way back needs.
  package var kept: [Float]

  package init(scale: FloatStore? = nil, bias: FloatStore? = nil, scalesBias: Bool = false, kept: [Float] = []) {
    (self.scale, self.bias, self.scalesBias, self.kept) = (scale, bias, scalesBias, kept)
  }
}

/// Where the gradients of a method's numbers go, by part. What has none is frozen.
package typealias PartGradients = [String: FloatStore]

/// The gradient of one layer's outputs.
package struct OutputGradient {
  /// [rows, count], rows `stride` floats apart.
  package let dy: UnsafeMutablePointer<Float>
  package let stride: Int
  package let rows: Int
  package let count: Int
  /// What s scaled, [rows, count]: z, or z + b if the method scales the bias; nil if nothing scaled it.
  package let z: UnsafePointer<Float>?
  /// What the method said on the way forward.
  package let change: OutputChange
  package let engine: Engine

  package init(
    _ dy: UnsafeMutablePointer<Float>, stride: Int, rows: Int, count: Int, z: UnsafePointer<Float>?, _ change: OutputChange,
    _ engine: Engine
  ) {
    (self.dy, self.stride, self.rows, self.count, self.z, self.change) = (dy, stride, rows, count, z, change)
    self.engine = engine
  }

  /// Σ over rows of dy∘z for each output.
  package func productSums() -> [Double] {
    guard let z else { return [Double](repeating: 0, count: count) }
    return NibbleAdapters.productSums(dy, stride: stride, z, stride: count, rows: rows, count: count, engine.team)
  }

  /// Adds scale · Σ over rows of dy to `sums`, [count].
  package func addSums(scaledBy scale: Float, to sums: FloatStore) {
    let own = FloatStore(count: count)
    own.values.update(repeating: 0)
    engine.addColumnSums(dy, stride: stride, rows: rows, count: count, to: own.start)
    LayerKernels.add(own.start, scaledBy: scale, count: count, to: sums.start)
  }

  /// dy = s∘dy.
  package func scale() {
    guard let scale = change.scale else { return }
    for row in 0..<rows { LayerKernels.multiply(dy + row * stride, by: scale.start, count: count) }
  }
}
