/// The optimizers there are.
package enum Optimizers {
  package static let all: [any OptimizerMethod.Type] = [
    AdamW.self, Adam.self, SGD.self, Lion.self, Adafactor.self, ScheduleFreeAdamW.self,
  ]

  /// The one with this name, of its own or of another tool.
  package static func named(_ name: String) -> (any OptimizerMethod.Type)? {
    all.first { $0.name == name || $0.otherNames.contains(name) }
  }
}
