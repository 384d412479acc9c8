import NibbleCore

/// Options of the optimizers.
public struct OptimizerOptions: Sendable, Equatable {
  /// The peak rate of some tensors.
  public struct Rate: Sendable, Hashable {
    /// Looked for in a tensor's name, as adapter files have it.
    public var pattern: String
    public var rate: Double

    public init(_ pattern: String, _ rate: Double) { (self.pattern, self.rate) = (pattern, rate) }
  }

  public var choice = OptimizerChoice()
  /// The peak rate.
  public var learningRate = 2e-4
  /// The first pattern that is found in a tensor's name decides.
  public var rates: [Rate] = []
  /// LoRA+: multiplies the learning rate of the second factors.
  public var secondFactorRatio = 1.0
  public var beta1 = 0.9
  /// nil for what the optimizer has by itself.
  public var beta2: Double?
  public var epsilon = 1e-8
  public var weightDecay = 0.0
  /// What does not decay: `biases`, `norms`, or patterns looked for in tensors' names.
  public var noDecay: [String] = []
  /// Of SGD.
  public var momentum = 0.0
  /// The gradients are scaled down to this norm over all of them; 0 disables clipping.
  public var maximumNorm = 1.0

  /// AdamW as PyTorch has it by default.
  public init() {}

  /// β₂ as it is used.
  package var ownBeta2: Double { beta2 ?? choice.method.usualBeta2 }
}

/// An optimizer by its name, and how its states are kept: `adamw`, `adamw-8bit`, `lion-8bit-paged`.
public struct OptimizerChoice: Sendable, Hashable, CustomStringConvertible {
  /// The optimizer's own name.
  public let name: String
  /// Whether states of 4096 numbers and more are kept in 8 bits, in blocks of 256, as bitsandbytes keeps them.
  public let isEightBit: Bool
  /// Whether states lie in a file whose pages come and go. What is computed is the same.
  public var isPaged: Bool

  /// AdamW with float32 states in memory.
  public init() { (name, isEightBit, isPaged) = (AdamW.name, false, false) }

  /// Reads nibble's names, and those that transformers and axolotl have for the same: `adamw_bnb_8bit`, `paged_adamw_32bit`.
  ///
  /// - Returns: nil for a name of no optimizer
  /// - Throws: `.usage` for states that the optimizer does not have
  public init?(named text: String) throws {
    var words = text.lowercased().replacing("_", with: "-")
    func take(prefix: String) -> Bool {
      guard words.hasPrefix(prefix) else { return false }
      words.removeFirst(prefix.count)
      return true
    }
    func take(suffix: String) -> Bool {
      guard words.hasSuffix(suffix) else { return false }
      words.removeLast(suffix.count)
      return true
    }
    let isFirst = take(prefix: "paged-"), isLast = take(suffix: "-paged")
    let isEightBit = take(suffix: "-8bit")
    if !isEightBit { _ = take(suffix: "-32bit") }
    if isEightBit { _ = take(suffix: "-bnb") }
    guard let method = Optimizers.named(words) else { return nil }
    guard !isEightBit || method.hasEightBitStates else {
      throw NibbleError.usage("\(.optimizer, text): the states of \(method.name) are not kept in 8 bits; use \(method.name)")
    }
    (name, self.isEightBit, isPaged) = (method.name, isEightBit, isFirst || isLast)
  }

  /// The names there are, without those of other tools.
  public static var names: [String] {
    Optimizers.all.flatMap { method in [method.name] + (method.hasEightBitStates ? [method.name + "-8bit"] : []) }
  }

  /// Whether it has no schedule but the warm-up.
  public var isScheduleFree: Bool { method.isScheduleFree }

  /// What it takes besides rates and decay.
  public var settings: Set<Setting> { method.settings }

  package var method: any OptimizerMethod.Type { Optimizers.named(name) ?? AdamW.self }

  /// What is computed: the name without how states are paged.
  public var description: String { name + (isEightBit ? "-8bit" : "") }
}
