import NibbleCore
@testable import NibbleEvaluation
import Testing

@Suite("Figures and their intervals")
struct IntervalTests {
  /// scipy 1.17.1: stats.t.ppf.
  @Test("quantiles of Student's t", arguments: [
    (0.975, 1.0, 12.706204736174694), (0.975, 2, 4.302652729749462), (0.975, 4, 2.7764451051977934), (0.975, 9, 2.2621571628540997),
    (0.975, 100, 1.9839715185235556), (0.975, 1e6, 1.959966356814107), (0.025, 4, -2.7764451051977934), (0.75, 1, 1), (0.5, 3, 0),
    (0.9999, 2, 70.70007106487),
  ])
  func studentT(p: Double, freedom: Double, quantile: Double) {
    let error = StudentT.quantile(p, freedom: freedom) - quantile
    #expect(abs(error) < 1e-8 * max(1, abs(quantile)))
  }

  @Test("three seeds: mean, standard error, and a wide range")
  func seeds() throws {
    let interval = try #require(Interval(meanOf: [80, 82, 84]))
    let error = 2 / 3.0.squareRoot()
    #expect(interval.value == 82 && interval.source == .studentT)
    #expect(abs(interval.standardError - error) < 1e-12)
    #expect(abs(interval.high - 82 - 4.302652729749462 * error) < 1e-9)
    #expect(abs(interval.low + interval.high - 164) < 1e-9)
    #expect(Interval(meanOf: [7, 7])?.high == 7)
  }

  @Test("one number, none, and what is no number have no interval", arguments: [[], [1], [1, .nan], [1, .infinity]] as [[Double]])
  func noInterval(values: [Double]) { #expect(Interval(meanOf: values) == nil) }

  private func texts(_ count: Int, right: (Int) -> Bool) throws -> ReferencedTexts {
    let words = ["the", "pub", "is", "near", "a", "river", "and", "cheap", "it", "serves", "fish"]
    let random = CountedRandom(seed: 1)
    let references = (0..<count).map { text in
      (0..<8).map { words[Int(random.bits(UInt64(8 * text + $0)) % UInt64(words.count))] }.joined(separator: " ")
    }
    let predictions = references.indices.map { right($0) ? references[$0] : "a pub and " + references[$0] }
    return try ReferencedTexts(predictions, references: references.map { [$0] })
  }

  @Test("the bootstrap says the same for the same seed, and the range holds the figure")
  func bootstrap() throws {
    let score = BLEU().score(try texts(40) { $0 % 2 == 0 })
    let interval = try #require(score.interval(Resampling(samples: 200, seed: 5)))
    #expect(interval == score.interval(Resampling(samples: 200, seed: 5)))
    #expect(interval != score.interval(Resampling(samples: 200, seed: 6)))
    #expect(interval.source == .bootstrap && interval.value == score.value)
    #expect(interval.low < score.value && score.value < interval.high && interval.standardError > 0)
  }

  @Test("of a mean, the bootstrap's standard error is about the mean's own")
  func bootstrapOfMean() throws {
    let random = CountedRandom(seed: 2)
    let values = (0..<300).map { random.normal(UInt64($0)) }
    let direct = try #require(CorpusScore(meanOf: values).interval())
    let score = CorpusScore(items: values, count: values.count) { times in
      zip(values, times).reduce(0) { $0 + $1.0 * Double($1.1) } / 300
    }
    let drawn = try #require(score.interval(Resampling(samples: 600)))
    #expect(abs(drawn.standardError / direct.standardError - 1) < 0.15)
    let tolerance = 0.3 * direct.standardError
    #expect(abs(drawn.low - direct.low) < tolerance && abs(drawn.high - direct.high) < tolerance)
  }

  @Test("two models on the same texts: the difference is surer than either figure")
  func paired() throws {
    let better = BLEU().score(try texts(60) { $0 % 3 != 0 }), worse = BLEU().score(try texts(60) { $0 % 3 == 1 })
    let resampling = Resampling(samples: 200)
    let difference = try #require(try better.difference(from: worse, resampling))
    #expect(abs(difference.value - (better.value - worse.value)) < 1e-12 && difference.excludesZero && difference.low > 0)
    #expect(try #require(try worse.difference(from: better, resampling)).high < 0)
    let same = try #require(try better.difference(from: better, resampling))
    #expect(same.value == 0 && same.standardError == 0 && !same.excludesZero)
  }

  @Test("means are compared item by item")
  func pairedMeans() throws {
    let a = CorpusScore(meanOf: [1, 1, 0, 1]), b = CorpusScore(meanOf: [0, 1, 0, 1])
    let difference = try #require(try a.difference(from: b))
    #expect(difference.value == 0.25 && difference.standardError == 0.25 && difference.source == .studentT)
    #expect(throws: NibbleError.self) { try a.difference(from: CorpusScore(meanOf: [1])) }
    #expect(try CorpusScore(meanOf: [1]).difference(from: CorpusScore(meanOf: [0])) == nil)
  }

  @Test("a figure that most samples lack has no interval")
  func undefined() throws {
    let correlation = try Correlation([1, 1, 1, 2], actual: [1, 2, 3, 4])
    #expect(correlation.pearson.interval(Resampling(samples: 100)) != nil)
    #expect(CorpusScore(meanOf: []).value.isNaN && CorpusScore(meanOf: []).interval() == nil)
    let rare = CorpusScore(items: nil, count: 30) { times in times.allSatisfy { $0 == 1 } ? 1 : .nan }
    #expect(rare.value == 1 && rare.interval(Resampling(samples: 50)) == nil)
  }

  /// scipy 1.17.1: stats.pearsonr, stats.spearmanr.
  @Test("correlations are scipy's, equal numbers sharing a rank")
  func correlation() throws {
    let found = try Correlation([2, 1, 3, 3, 5, 4.5, 0], actual: [1, 1, 2, 4, 4, 5, 1])
    #expect(abs(found.pearson.value - 0.8601899757781619) < 1e-12)
    #expect(abs(found.spearman.value - 0.8779838352573822) < 1e-12)
    #expect(try Correlation([1, 1, 1], actual: [1, 2, 3]).pearson.value.isNaN)
    #expect(try Correlation([0.1, 0.1, 0.1], actual: [1, 2, 3]).spearman.value.isNaN)
    #expect(try Correlation([1e300, -1e300, 0], actual: [1e-300, -1e-300, 0]).pearson.value == 1)
    #expect(throws: NibbleError.self) { try Correlation([1, .nan], actual: [1, 2]) }
    #expect(throws: NibbleError.self) { try Correlation([], actual: []) }
    #expect(throws: NibbleError.self) { try Correlation([1], actual: [1, 2]) }
  }

  @Test("the calibration error weighs each bin's gap by its predictions")
  func calibration() throws {
    let found = try CalibrationError([0.95, 0.9, 0.92, 0.55, 0.2, 0], isRight: [true, true, false, true, false, false], bins: 10)
    // Bins (0.9, 1]: 2 of mean 0.935, half right; (0.8, 0.9]: 1; (0.5, 0.6]: 1; (0.1, 0.2]: 1; [0, 0.1]: 1.
    let gaps = 2 * 0.435 + 0.1 + 0.45 + 0.2
    #expect(abs(found.score.value - gaps / 6) < 1e-12)
    #expect(found.bins.map(\.count) == [1, 1, 0, 0, 0, 1, 0, 0, 1, 2])
    #expect(abs(found.bins[9].confidence - 0.935) < 1e-12 && found.bins[9].accuracy == 0.5)
    for confidence in [-0.1, 1.1, .nan] { #expect(throws: NibbleError.self) { try CalibrationError([confidence], isRight: [true]) } }
    #expect(throws: NibbleError.self) { try CalibrationError([], isRight: []) }
  }
}
