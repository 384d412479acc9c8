import NibbleCore
import NibbleModels

extension Trained {
  /// Gives tensors the peak rates and the decay that `options` asks for.
  ///
  /// - Throws: `.usage` for a pattern that decides nothing
  package func group(_ options: OptimizerOptions, on model: Model) throws {
    let tensors = tensors
    var open = tensors
    for rate in options.rates {
      let pattern = try Pattern(rate.pattern)
      let found = try open.filter { try pattern.isFound(in: $0.name) }
      guard !found.isEmpty else {
        throw NibbleError.usage(
          "\(.learningRatePattern, rate.pattern) decides nothing: no trained tensor has it that no pattern before it has")
      }
      for tensor in found { tensor.peakRate = rate.rate }
      open.removeAll { tensor in found.contains { $0 === tensor } }
    }
    let norms = Set(model.norms.flatMap { [$0.weight.id] + ($0.bias.map { [$0.id] } ?? []) })
    for word in options.noDecay {
      let left: [TrainedTensor]
      switch word {
      case "biases": left = vectors.filter { !norms.contains($0.key) }.map(\.value) + tensors.filter { $0.name.hasSuffix(".bias") }
      case "norms": left = vectors.filter { norms.contains($0.key) }.map(\.value)
      default:
        let pattern = try Pattern(word)
        left = try tensors.filter { try pattern.isFound(in: $0.name) }
        guard !left.isEmpty else {
          throw NibbleError.usage("\(.noDecay, word) matches none of the \(tensors.count) trained tensors, such as \(quoted(tensors.first?.name ?? ""))")
        }
      }
      for tensor in left { tensor.decays = false }
    }
  }
}
