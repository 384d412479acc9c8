import Glibc
import NibbleModels

/// Predicted classes against true ones.
public struct LabelMetrics: Sendable, Equatable {
  /// Per class: true positives, false positives, false negatives.
  public private(set) var right: [Int]
  public private(set) var wrong: [Int]
  public private(set) var missed: [Int]
  /// Texts seen, and those whose predicted classes are exactly the true ones.
  public private(set) var count = 0
  public private(set) var exact = 0
  /// confusion[predicted][true], for texts with one class each.
  private var confusion: [[Int]]

  /// Nothing seen yet.
  public init(classes: Int) {
    right = Array(repeating: 0, count: classes)
    (wrong, missed) = (right, right)
    confusion = Array(repeating: right, count: classes)
  }

  /// A text with one class.
  public mutating func add(predicted: Int, actual: Int) {
    add(predicted: Set([predicted]), actual: Set([actual]))
    confusion[predicted][actual] += 1
  }

  /// A text with any number of classes.
  public mutating func add(predicted: Set<Int>, actual: Set<Int>) {
    count += 1
    if predicted == actual { exact += 1 }
    for one in predicted { if actual.contains(one) { right[one] += 1 } else { wrong[one] += 1 } }
    for one in actual where !predicted.contains(one) { missed[one] += 1 }
  }

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

  /// Every figure, by the key it has in JSON.
  public var figures: [(label: String, key: String, value: Double)] {
    var all = [
      ("accuracy", "accuracy", accuracy), ("F1, macro", "f1_macro", macroF1), ("F1, micro", "f1_micro", microF1),
      ("precision, macro", "precision_macro", macroPrecision), ("recall, macro", "recall_macro", macroRecall),
      ("precision, micro", "precision_micro", microPrecision), ("recall, micro", "recall_micro", microRecall),
    ]
    if let matthews { all.append(("Matthews", "matthews", matthews)) }
    return all
  }

  /// The share of texts of which everything is right.
  public var accuracy: Double { count == 0 ? 0 : Double(exact) / Double(count) }

  private static func share(_ a: Int, of b: Int) -> Double { b == 0 ? 0 : Double(a) / Double(b) }

  /// The share of predictions that are right, over all classes together.
  public var microPrecision: Double { Self.share(right.reduce(0, +), of: right.reduce(0, +) + wrong.reduce(0, +)) }
  /// The share of true classes that were predicted, over all classes together.
  public var microRecall: Double { Self.share(right.reduce(0, +), of: right.reduce(0, +) + missed.reduce(0, +)) }
  public var microF1: Double {
    let r = right.reduce(0, +)
    return Self.share(2 * r, of: 2 * r + wrong.reduce(0, +) + missed.reduce(0, +))
  }

  private func mean(_ value: (Int) -> Double) -> Double {
    right.isEmpty ? 0 : right.indices.reduce(0) { $0 + value($1) } / Double(right.count)
  }

  /// The means over the classes; a class that was neither predicted nor true counts 0, as scikit-learn has it.
  public var macroPrecision: Double { mean { Self.share(right[$0], of: right[$0] + wrong[$0]) } }
  public var macroRecall: Double { mean { Self.share(right[$0], of: right[$0] + missed[$0]) } }
  public var macroF1: Double { mean { Self.share(2 * right[$0], of: 2 * right[$0] + wrong[$0] + missed[$0]) } }

  /// Matthews' correlation, of any number of classes (Gorodkin, 2004); nil for texts with several classes each.
  public var matthews: Double? {
    let total = confusion.reduce(0) { $0 + $1.reduce(0, +) }
    guard total == count, count > 0 else { return nil }
    let classes = confusion.indices
    let predicted = classes.map { Double(confusion[$0].reduce(0, +)) }
    let actual = classes.map { own in Double(classes.reduce(0) { $0 + confusion[$1][own] }) }
    let n = Double(total), correct = Double(exact)
    func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }
    let root = ((n * n - dot(predicted, predicted)) * (n * n - dot(actual, actual))).squareRoot()
    return root == 0 ? 0 : (correct * n - dot(predicted, actual)) / root
  }
}
