import NibbleCompute

/// Every method. Another is one more file and its name here.
package enum AdapterMethods {
  /// The first that claims a module's numbers has them.
  static let all: [any LinearMethod.Type] = [DoRA.self, LoRA.self]

  /// The method that a module's numbers are of; nil for numbers of none.
  package static func method(_ numbers: MethodNumbers) -> (any LinearMethod)? {
    for method in all { if let found = method.init(numbers) { return found } }
    return nil
  }
}

/// What an adapter has for one linear layer.
package struct MethodNumbers {
  package var pair: LowRankPair?
  /// By the names that adapter files have for them.
  package var parts: [String: FloatStore]
  /// The layer's weight, where none of the numbers changes any more; what follows from them is found once then.
  package var weight: Matrix?
  package var engine: Engine

  package init(_ pair: LowRankPair?, parts: [String: FloatStore] = [:], weight: Matrix? = nil, _ engine: Engine) {
    (self.pair, self.parts, self.weight, self.engine) = (pair, parts, weight, engine)
  }
}
