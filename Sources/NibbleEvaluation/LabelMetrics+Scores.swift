import NibbleModels

extension LabelMetrics {
  /// A text as a model scores its classes.
  ///
  /// - Parameter targets: its one class, or a number a class
  package mutating func add(scores: [Float], targets: [Double], _ problem: ClassificationHead.Problem) {
    switch problem {
    case .oneLabel: add(predicted: Self.best(scores), actual: Int(targets[0]))
    case .manyLabels: add(predicted: Self.positive(scores), actual: Set(targets.indices.filter { targets[$0] > 0.5 }))
    case .regression: break
    }
  }

  /// The class with the greatest score; of equals the last.
  package static func best(_ scores: [Float]) -> Int { scores.indices.max { scores[$0] < scores[$1] } ?? 0 }

  /// Classes that are more likely than not.
  static func positive(_ scores: [Float]) -> Set<Int> { Set(scores.indices.filter { scores[$0] > 0 }) }
}
