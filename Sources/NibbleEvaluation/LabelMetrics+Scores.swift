import NibbleModels

extension LabelMetrics {
  /// A text as a model scores its classes.
  ///
  /// - Parameter targets: its one class, or a number a class
  package mutating func add(scores: ArraySlice<Float>, targets: [Double], _ problem: ClassificationHead.Problem) {
    let predicted = scores.enumerated()
    switch problem {
    case .oneLabel: add(predicted: predicted.max { $0.element < $1.element }?.offset ?? 0, actual: Int(targets[0]))
    case .manyLabels:
      add(
        predicted: Set(predicted.filter { $0.element > 0 }.map(\.offset)), actual: Set(targets.indices.filter { targets[$0] > 0.5 }))
    case .regression: break
    }
  }
}
