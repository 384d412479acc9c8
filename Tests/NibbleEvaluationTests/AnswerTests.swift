import NibbleCore
@testable import NibbleEvaluation
import Testing

@Suite("Answers and labels")
struct AnswerTests {
  /// As SQuAD's official script (v2.0) scores them.
  @Test("exact match and F1 of answers", arguments: [
    ("The Old Mill!", ["old mill"], 1, 1),
    ("the, a. AN", [""], 1, 1),
    ("", [], 1, 1),
    ("something", [], 0, 0),
    ("", ["something"], 0, 0),
    ("in 1990", ["1990", "the year 1990"], 0, 2.0 / 3),
    ("red red wine", ["red wine", "wine"], 0, 0.8),
    ("well-known", ["wellknown"], 1, 1),
    ("a_the b", ["athe b"], 1, 1),
    ("“the” end", ["“” END"], 0, 0.4),
    ("x", ["the", "x y"], 0, 2.0 / 3),
  ] as [(String, [String], Double, Double)])
  func squad(prediction: String, answers: [String], exact: Double, f1: Double) throws {
    let score = try QuestionAnswers([prediction], answers: [answers])
    #expect(score.exactMatch.value == exact)
    #expect(abs(score.f1.value - f1) < 1e-12)
  }

  @Test("no questions, and answers to other ones, are refused")
  func noAnswers() {
    #expect(throws: NibbleError.self) { try QuestionAnswers([], answers: []) }
    #expect(throws: NibbleError.self) { try QuestionAnswers(["a"], answers: []) }
  }

  private static let techniques = [
    "Smears", "Doubt", "Confusion", "Obfuscation, Intentional vagueness, Confusion", "Black-and-white Fallacy/Dictatorship",
    "Misrepresentation of Someone's Position (Straw Man)", "Loaded Language",
  ]

  @Test("labels with commas in them are read whole", arguments: [
    ("Smears, Doubt", [0, 1], []),
    (" Doubt,Doubt ,  Smears\n", [0, 1], []),
    ("Obfuscation, Intentional vagueness, Confusion, Smears", [0, 3], []),
    ("Obfuscation,Intentional  vagueness, Confusion", [3], []),
    ("Confusion, Obfuscation, Confusion", [2], ["Obfuscation"]),
    ("Smears\nLoaded Language", [0, 6], []),
    ("smears, Smearsy, Smears Doubt", [], ["smears", "Smearsy", "Smears Doubt"]),
    ("Black-and-white Fallacy/Dictatorship,, Misrepresentation of Someone's Position (Straw Man),", [4, 5], []),
    ("", [], []),
    (" , ,\n", [], []),
  ] as [(String, Set<Int>, [String])])
  func lists(text: String, labels: Set<Int>, unknown: [String]) throws {
    let read = try LabelList(Self.techniques).read(text)
    #expect(read.labels == labels)
    #expect(read.unknown == unknown)
  }

  @Test("a list without labels, with an empty one or with one twice is refused")
  func badLists() {
    for labels in [[], ["a", " "], ["a b", "c", "a  b"]] { #expect(throws: NibbleError.self) { try LabelList(labels) } }
  }

  /// scikit-learn 1.9.1's f1_score with zero_division 0 and 1; the scorer of SemEval-2021 task 6 has 1.
  @Test("a class that is neither predicted nor true counts what is asked for", arguments: [0.0, 1])
  func absentClass(undefined: Double) throws {
    let scores = try LabelScores([[0], [0, 1], []], actual: [[0], [0, 2], []], classes: 4, undefined: undefined)
    let found = Dictionary(uniqueKeysWithValues: scores.scores.map { ($0.key, $0.score.value) })
    // F1 of 1, 0, 0 and the class that is absent.
    #expect(found["f1_macro"] == (1 + undefined) / 4)
    #expect(found["f1_micro"] == 4.0 / 6)
    #expect(abs((found["accuracy"] ?? 0) - 2.0 / 3) < 1e-12)
    #expect(found["matthews"] == nil && scores.metrics.confusionMatrix == nil)
    // Nothing predicted and nothing true is right where a share of nothing is 1.
    #expect(try LabelScores([[], []], actual: [[], []], classes: 2, undefined: undefined).metrics.microF1 == undefined)
  }

  @Test("a class that drawing again happens to miss is left out of the mean, not counted as right")
  func rareClass() throws {
    // Everything is wrong, and class 1 is in one text of thirty: about a third of the samples lack it.
    let actual = (0..<30).map { $0 == 7 ? Set([1]) : [0] }
    let scores = try LabelScores(Array(repeating: [], count: 30), actual: actual, classes: 2, undefined: 1)
    let macro = try #require(scores.scores.first { $0.key == "f1_macro" }?.score)
    #expect(macro.value == 0)
    #expect(macro.interval(Resampling(samples: 100))?.high == 0)
  }

  /// Guesses of two equally likely classes: half are right, whatever the weights, and nothing correlates.
  @Test("guessing gives what chance gives")
  func chance() throws {
    let random = CountedRandom(seed: 3)
    let predicted = (0..<4000).map { Int(random.bits(UInt64($0)) % 2) }
    let actual = (0..<4000).map { Int(random.bits(UInt64(9000 + $0)) % 2) }
    let scores = try LabelScores(predicted, actual: actual, classes: 2)
    for (_, key, score) in scores.scores {
      let interval = try #require(score.interval(Resampling(samples: 40)))
      let chance = key == "matthews" ? 0 : 0.5
      #expect(abs(score.value - chance) < 4 * interval.standardError, "\(key)")
    }
  }

  @Test("the confusion matrix has true classes in rows")
  func confusion() throws {
    let scores = try LabelScores([0, 1, 1, 2], actual: [0, 0, 1, 1], classes: 3)
    #expect(scores.metrics.confusionMatrix == [[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    #expect(scores.metrics.confusionTable(["no", "perhaps"]) == [
      "true \\ predicted  no  perhaps  2", "no                 1        1  0", "perhaps            0        1  1", "2                  0        0  0",
    ])
    var counted = LabelMetrics(classes: 3)
    for (predicted, actual) in [(0, 0), (1, 0), (1, 1), (2, 1)] { counted.add(predicted: predicted, actual: actual) }
    #expect(scores.metrics == counted)
  }

  @Test("classes that are not there, none, and other texts' are refused")
  func badClasses() {
    #expect(throws: NibbleError.self) { try LabelScores([3], actual: [0], classes: 3) }
    #expect(throws: NibbleError.self) { try LabelScores([0], actual: [-1], classes: 3) }
    #expect(throws: NibbleError.self) { try LabelScores([Int](), actual: [], classes: 3) }
    #expect(throws: NibbleError.self) { try LabelScores([0], actual: [0, 1], classes: 3) }
  }
}
