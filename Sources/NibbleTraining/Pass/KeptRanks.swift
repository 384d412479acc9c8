import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Ranks of factors that stay as they began: their gradients count for nothing, and what a step does to them is taken back.
final class KeptRanks: TrainingRule {
  private struct Part {
    let tensor: TrainedTensor
    /// Places of its numbers, and what they are.
    let places: [Range<Int>]
    let values: [Float]

    init(_ tensor: TrainedTensor, _ places: [Range<Int>]) {
      (self.tensor, self.places) = (tensor, places)
      values = places.flatMap { Array(tensor.values.values[$0]) }
    }
  }

  private let parts: [Part]

  init(_ modules: [TrainedModule]) {
    parts = modules.flatMap { module -> [Part] in
      guard module.kept > 0, let a = module.parts[LoRA.first], let b = module.parts[LoRA.second] else { return [] }
      let rank = a.shape[0], inputs = a.values.count / max(rank, 1), begin = rank - module.kept
      return [
        Part(a, [begin * inputs..<rank * inputs]), Part(b, (0..<b.shape[0]).map { $0 * rank + begin..<($0 + 1) * rank }),
      ]
    }
  }

  func addLoss() -> Double {
    for part in parts where !part.tensor.isFrozen {
      for range in part.places { for place in range { part.tensor.gradient.start[place] = 0 } }
    }
    return 0
  }

  func stepped(_ step: Int) {
    for part in parts {
      var at = 0
      for range in part.places {
        for place in range {
          part.tensor.values.start[place] = part.values[at]
          at += 1
        }
      }
    }
  }

  var state: [(name: String, values: FloatStore)] { [] }
  var members: [(String, JSON)] { [] }
  func stored(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float]) { (shape, values) }
}
