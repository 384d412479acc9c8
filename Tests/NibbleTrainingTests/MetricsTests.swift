import NibbleEvaluation
import Testing

@Suite("Classes judged")
struct MetricsTests {
  /// The figures are scikit-learn's for these answers.
  @Test("accuracy, F1, precision, recall and Matthews are scikit-learn's")
  func oneLabel() {
    let so = [0, 0, 1, 1, 2, 2, 2, 0, 1, 2], said = [0, 1, 1, 1, 2, 0, 2, 0, 2, 2]
    var metrics = LabelMetrics(classes: 3)
    for (a, b) in zip(said, so) { metrics.add(predicted: a, actual: b) }
    func near(_ x: Double?, _ y: Double) -> Bool { abs((x ?? -9) - y) < 1e-9 }
    #expect(near(metrics.accuracy, 0.7))
    #expect(near(metrics.macroF1, (2.0 / 3 + 2.0 / 3 + 0.75) / 3))
    #expect(near(metrics.microF1, 0.7))
    #expect(near(metrics.macroPrecision, (2.0 / 3 + 2.0 / 3 + 0.75) / 3))
    #expect(near(metrics.macroRecall, (2.0 / 3 + 2.0 / 3 + 0.75) / 3))
    // (7 · 10 − (3·3 + 3·3 + 4·4)) / √((100 − 34)(100 − 34))
    #expect(near(metrics.matthews, (70.0 - 34) / 66))
  }

  @Test("of texts with several classes, every class counts")
  func manyLabels() {
    var metrics = LabelMetrics(classes: 3)
    metrics.add(predicted: [0, 1], actual: [0])
    metrics.add(predicted: [], actual: [2])
    metrics.add(predicted: [1], actual: [1])
    #expect(metrics.matthews == nil)
    #expect(abs(metrics.accuracy - 1.0 / 3) < 1e-12)
    #expect(abs(metrics.microF1 - 4.0 / 6) < 1e-12)
    #expect(abs(metrics.macroF1 - (1 + 2.0 / 3 + 0) / 3) < 1e-12)
    #expect(metrics.microPrecision == 2.0 / 3 && metrics.microRecall == 2.0 / 3)
  }
}
