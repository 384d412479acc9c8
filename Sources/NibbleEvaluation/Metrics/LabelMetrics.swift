import NibbleCore

/// Predicted classes against true ones.
public struct LabelMetrics: Sendable, Equatable {
  /// Per class: true positives, false positives, false negatives.
  public private(set) var right: [Int]
  public private(set) var wrong: [Int]
  public private(set) var missed: [Int]
  /// Texts seen, and those whose predicted classes are exactly the true ones.
  public private(set) var count = 0
  public private(set) var exact = 0
  /// What precision, recall and F1 of a class count where they are shares of nothing: 0, as scikit-learn has it, or 1, as the scorer of
  /// SemEval-2021 task 6 has it (`zero_division`).
  public let undefined: Double
  /// confusion[true][predicted], for texts with one class each.
  private var confusion: [[Int]]
  /// What the texts were drawn from, where they are a sample.
  private var whole = Whole.none

  private indirect enum Whole: Sendable, Equatable { case none, metrics(LabelMetrics) }

  /// Nothing seen yet.
  public init(classes: Int, undefined: Double = 0) {
    right = Array(repeating: 0, count: classes)
    (wrong, missed) = (right, right)
    confusion = Array(repeating: right, count: classes)
    self.undefined = undefined
  }

  /// A text with one class.
  public mutating func add(predicted: Int, actual: Int) {
    add(predicted: Set([predicted]), actual: Set([actual]))
    confusion[actual][predicted] += 1
  }

  /// A text with any number of classes.
  public mutating func add(predicted: Set<Int>, actual: Set<Int>) {
    count += 1
    if predicted == actual { exact += 1 }
    for one in predicted { if actual.contains(one) { right[one] += 1 } else { wrong[one] += 1 } }
    for one in actual where !predicted.contains(one) { missed[one] += 1 }
  }

  /// A figure: its name in a report, its key in JSON, and how it is found.
  struct Figure: Sendable {
    let label: String, key: String
    let value: @Sendable (LabelMetrics) -> Double?
  }

  static let all = [
    Figure(label: "accuracy", key: "accuracy") { $0.accuracy },
    Figure(label: "F1 of class 1", key: "f1") { $0.right.count == 2 && $0.confusionMatrix != nil ? $0.f1(1) : nil },
    Figure(label: "F1, macro", key: "f1_macro") { $0.macroF1 },
    Figure(label: "F1, micro", key: "f1_micro") { $0.microF1 },
    Figure(label: "F1, weighted", key: "f1_weighted") { $0.weightedF1 },
    Figure(label: "precision, macro", key: "precision_macro") { $0.macroPrecision },
    Figure(label: "recall, macro", key: "recall_macro") { $0.macroRecall },
    Figure(label: "precision, micro", key: "precision_micro") { $0.microPrecision },
    Figure(label: "recall, micro", key: "recall_micro") { $0.microRecall },
    Figure(label: "Matthews", key: "matthews") { $0.matthews },
  ]

  /// Every figure, by the key it has in JSON.
  public var figures: [(label: String, key: String, value: Double)] {
    Self.all.compactMap { figure in figure.value(self).map { (figure.label, figure.key, $0) } }
  }

  /// The share of texts of which everything is right.
  public var accuracy: Double { count == 0 ? 0 : Double(exact) / Double(count) }

  /// Nil for a share of nothing.
  private static func share(_ a: Int, of b: Int) -> Double? { b == 0 ? nil : Double(a) / Double(b) }

  /// The share of predictions that are right, over all classes together.
  public var microPrecision: Double { Self.share(right.reduce(0, +), of: right.reduce(0, +) + wrong.reduce(0, +)) ?? undefined }
  /// The share of true classes that were predicted, over all classes together.
  public var microRecall: Double { Self.share(right.reduce(0, +), of: right.reduce(0, +) + missed.reduce(0, +)) ?? undefined }
  public var microF1: Double {
    let r = right.reduce(0, +)
    return Self.share(2 * r, of: 2 * r + wrong.reduce(0, +) + missed.reduce(0, +)) ?? undefined
  }

  private func precision(_ one: Int) -> Double? { Self.share(right[one], of: right[one] + wrong[one]) }
  private func recall(_ one: Int) -> Double? { Self.share(right[one], of: right[one] + missed[one]) }
  private func ownF1(_ one: Int) -> Double? { Self.share(2 * right[one], of: 2 * right[one] + wrong[one] + missed[one]) }

  /// A class' F1: 2 x right / (2 x right + wrong + missed).
  public func f1(_ one: Int) -> Double { ownF1(one) ?? undefined }

  /// A class that a sample happens to lack is left out: it is neither right nor wrong there.
  private func mean(_ value: (LabelMetrics, Int) -> Double?) -> Double {
    var (sum, count) = (0.0, 0)
    for one in right.indices {
      let own = value(self, one)
      if own == nil, case .metrics(let whole) = whole, value(whole, one) != nil { continue }
      sum += own ?? undefined
      count += 1
    }
    return count == 0 ? 0 : sum / Double(count)
  }

  /// The means over the classes, each counting the same.
  public var macroPrecision: Double { mean { $0.precision($1) } }
  public var macroRecall: Double { mean { $0.recall($1) } }
  public var macroF1: Double { mean { $0.ownF1($1) } }

  /// The mean over the classes, each counting as often as it is true; all the same where none is ever true.
  public var weightedF1: Double {
    let truths = right.indices.map { right[$0] + missed[$0] }
    let all = truths.reduce(0, +)
    return all == 0 ? macroF1 : right.indices.reduce(0) { $0 + Double(truths[$1]) * f1($1) } / Double(all)
  }

  /// How often each class was predicted (columns) for each true one (rows); nil for texts with several classes each.
  public var confusionMatrix: [[Int]]? {
    confusion.reduce(0) { $0 + $1.reduce(0, +) } == count ? confusion : nil
  }

  /// The confusion matrix as lines of a table, numbers under one another; nil for texts with several classes each.
  ///
  /// - Parameter names: of the classes; those beyond have their numbers
  public func confusionTable(_ names: [String] = []) -> [String]? {
    guard let confusion = confusionMatrix else { return nil }
    let names = confusion.indices.map { names.indices.contains($0) ? oneLine(names[$0]) : "\($0)" }
    let rows = [["true \\ predicted"] + names] + confusion.indices.map { [names[$0]] + confusion[$0].map { "\($0)" } }
    let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      zip(row, widths).enumerated().map { column, cell in
        let space = String(repeating: " ", count: cell.1 - cell.0.count)
        return column == 0 ? cell.0 + space : space + cell.0
      }.joined(separator: "  ")
    }
  }

  /// Matthews' correlation, of any number of classes (Gorodkin, 2004); nil for texts with several classes each. 0 where all texts are
  /// predicted to be, or are, of one class.
  public var matthews: Double? {
    guard count > 0, let confusion = confusionMatrix else { return nil }
    let classes = confusion.indices
    let actual = classes.map { Double(confusion[$0].reduce(0, +)) }
    let predicted = classes.map { own in Double(classes.reduce(0) { $0 + confusion[$1][own] }) }
    let n = Double(count), correct = Double(exact)
    func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }
    let root = ((n * n - dot(predicted, predicted)) * (n * n - dot(actual, actual))).squareRoot()
    return root == 0 ? 0 : (correct * n - dot(predicted, actual)) / root
  }
}

extension LabelMetrics {
  /// Numbers that texts of so many classes are summed in: those of each class, exact ones, all, and the confusion matrix.
  static func width(_ classes: Int) -> Int { 3 * classes + 2 + classes * classes }

  /// The columns in which a text counts 1.
  ///
  /// - Parameter single: the true and the predicted class of a text that has one
  static func columns(_ predicted: Set<Int>, _ actual: Set<Int>, single: (actual: Int, predicted: Int)?, classes: Int) -> [Int] {
    var columns = [3 * classes + 1]
    for one in predicted { columns.append(actual.contains(one) ? one : classes + one) }
    for one in actual where !predicted.contains(one) { columns.append(2 * classes + one) }
    if predicted == actual { columns.append(3 * classes) }
    if let single { columns.append(3 * classes + 2 + single.actual * classes + single.predicted) }
    return columns
  }

  /// From sums over texts.
  ///
  /// - Parameter whole: what the texts were drawn from, if they are a sample
  init(classes: Int, undefined: Double, sums: [Double], whole: LabelMetrics? = nil) {
    self.init(classes: classes, undefined: undefined)
    for one in 0..<classes {
      (right[one], wrong[one], missed[one]) = (Int(sums[one]), Int(sums[classes + one]), Int(sums[2 * classes + one]))
      for other in 0..<classes { confusion[one][other] = Int(sums[3 * classes + 2 + one * classes + other]) }
    }
    (exact, count) = (Int(sums[3 * classes]), Int(sums[3 * classes + 1]))
    if let whole { self.whole = .metrics(whole) }
  }
}
