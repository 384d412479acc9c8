import NibbleCompute
import NibbleCore
import NibbleModels
import TestSupport
import Testing

@testable import NibbleEvaluation

@Suite("Questions with choices")
struct ChoicesTests {
  @Test("questions that begin alike are together, and leave each other a token of its own")
  func groups() {
    let beginning = Array(100..<140), other = Array(200..<230)
    let questions = [beginning + [1, 2], other + [3], beginning + [1, 3], beginning + [4], [7], beginning, []]
    let groups = SharedBeginnings.groups(questions)
    #expect(groups.flatMap(\.members).sorted() == Array(questions.indices))
    let whole = groups.first { $0.members.contains(0) }
    #expect(whole?.members.sorted() == [0, 2, 3, 5] && whole?.shared == 39)
    #expect(groups.first { $0.members.contains(1) }?.shared == 0)
  }

  @Test("scores are those of each text alone, however much is shared", arguments: [UInt64(1), 2, 3, 4])
  func scores(seed: UInt64) throws {
    let model = try model("stories260K")
    var generator = Generator(seed)
    func ids(_ count: Int) -> [Int] { (0..<count).map { _ in Int.random(in: 3..<512, using: &generator) } }
    let beginnings = [ids(seed == 4 ? 505 : 30), ids(20), []]
    let questions = (0..<7).map { number -> [Continuation] in
      let context = beginnings[number % 3] + ids(Int.random(in: 1...9, using: &generator)), isGap = number % 4 == 3
      return (0..<3).map { _ in
        Continuation(
          context: isGap ? context + ids(2) : context, scored: ids(Int.random(in: 1...4, using: &generator)), contextLength: 512)
      }
    }
    var found: [Int: [Continuation.Score]] = [:]
    try ContinuationScores(model, adapters: []).run(questions) { found[$0] = $1 }
    #expect(found.count == questions.count)
    let network = try model.tokens(for: "a test")
    for (number, question) in questions.enumerated() {
      for (choice, one) in question.enumerated() {
        let batch = Batch.tokens([TokenRun(one.read)])
        let hidden = try network.hidden(batch, tape: nil)
        let rows = Array(one.read.count - one.scored.count..<one.read.count)
        let logits = try network.logits(hidden, rows: rows, of: batch)
        var (sum, isGreedy) = (0.0, true)
        for (index, id) in one.scored.enumerated() {
          let own = logits + index * network.vocabulary
          sum += Double(own[id]) - LayerKernels.logSumExp(own, count: network.vocabulary)
          isGreedy = isGreedy && LayerKernels.argmax(own, count: network.vocabulary).index == id
        }
        let score = try #require(found[number]?[choice])
        #expect(abs(score.logProbability - sum) < 1e-3 && score.isGreedy == isGreedy, "\(number).\(choice)")
      }
    }
  }

  @Test("white space at the end of a context belongs to what follows; too long a context loses its beginning")
  func cut() throws {
    let encode = { (text: String) in [1] + text.unicodeScalars.map { Int($0.value) } }
    let one = Continuation("ab  ", "cd", empty: 1, contextLength: 100, encode: encode)
    #expect(one.read == [1, 97, 98, 32, 32, 99] && one.scored == [32, 32, 99, 100])
    let short = Continuation("abcdef", "gh", empty: 1, contextLength: 4, encode: encode)
    #expect(short.read == [100, 101, 102, 103] && short.scored == [103, 104] && short.firstScored == 2)
    let empty = Continuation("", "cd", empty: 1, contextLength: 100, encode: encode)
    #expect(empty.read == [1, 99] && empty.scored == [99, 100])
  }

  static let rows: [(json: String, style: String, context: String, continuation: String, answer: Int)] = [
    (#"{"subject":"a_b","question":" q ","choices":["x","y"],"answer":"B"}"#, "mmlu", "q\nA. x\nB. y\nAnswer:", " B", 1),
    (#"{"question":"q","choices":{"text":["x","y","z"],"label":["1","2","3"]},"answerKey":"3"}"#, "arc", "Question: q\nAnswer:", " z", 2),
    (#"{"question":"q","choices":["x","y"],"answer":1}"#, "arc", "Question: q\nAnswer:", " y", 1),
    (#"{"question_stem":"q","choices":{"text":["x","y"],"label":["A","B"]},"answerKey":"A"}"#, "openbookqa", "q", " x", 0),
    (#"{"goal":"g","sol1":"x","sol2":"y","label":1}"#, "piqa", "Question: g\nAnswer:", " y", 1),
    (#"{"sentence":"the _ is it.","option1":"x","option2":"y","answer":"2"}"#, "winogrande", "the y", " is it.", 1),
    (#"{"passage":"p","question":"q","label":1}"#, "boolq", "p\nQuestion: q?\nAnswer:", " yes", 1),
    (#"{"passage":"p","question":"q","answer":false}"#, "boolq", "p\nQuestion: q?\nAnswer:", " no", 0),
    (#"{"context":"c","question":"q","answerA":"x","answerB":"y","answerC":"z","label":"3"}"#, "siqa", "Q: c q\nA:", " z", 2),
    (#"{"activity_label":"L","ctx_a":"A [title] b","ctx_b":"hE","endings":[" x [step]  y.","z"],"label":"0"}"#, "hellaswag", "L: A. b He", " x  y.", 0),
    (#"{"prompt":"p","choices":["x","y"],"answer":0}"#, "plain", "p", " x", 0),
  ]

  @Test("rows of each data set become its questions", arguments: rows)
  func styles(row: (json: String, style: String, context: String, continuation: String, answer: Int)) throws {
    let json = try JSON.parse(Array(row.json.utf8))
    let style = try ChoiceStyle.of(json, place: "p")
    let question = try style.question(json, place: "p")
    #expect(style.name == row.style && question.answer == row.answer)
    #expect(question.contexts[row.answer] == row.context && question.continuations[row.answer] == row.continuation)
  }

  @Test(
    "rows that ask nothing are refused with their place",
    arguments: [
      #"[1]"#, #"{"a":1}"#, #"{"question":"q","choices":["x"],"answer":0}"#, #"{"question":"q","choices":["x","y"]}"#,
      #"{"question":"q","choices":["x","y"],"answer":2}"#, #"{"question":"q","choices":["x","y"],"answer":"C"}"#,
      #"{"question":"q","choices":["x",3],"answer":0}"#, #"{"question":1,"choices":["x","y"],"answer":0}"#, #"{"sentence":"no gap","choices":["x","y"],"answer":0}"#,
      #"{"question":"q","choices":["x","y"],"answer":-1}"#, #"{"question":"q","choices":["x","y"],"answer":1e99}"#,
    ])
  func refused(json: String) throws {
    let json = try JSON.parse(Array(json.utf8))
    let error = #expect(throws: NibbleError.self) { try ChoiceStyle.of(json, place: "f.jsonl:3").question(json, place: "f.jsonl:3") }
    #expect(error?.kind == .badInput && error?.message.contains("f.jsonl:3") == true, "\(error?.message ?? "")")
  }

  @Test("accuracy by length divides by characters and bytes; subjects count alike")
  func figures() throws {
    func question(_ choices: [String], _ answer: Int, _ subject: String) -> ChoiceQuestion {
      ChoiceQuestion(context: "c", continuations: choices, choices: choices, answer: answer, subject: subject, place: "p")
    }
    func answer(_ values: Double...) -> ChoiceAnswers.Answer { .init(values.map { .init(logProbability: $0) }) }
    let questions = [question(["ab", "abcd"], 1, "s"), question(["é", "abc"], 0, "t"), question(["a", "b"], 0, "t"), question(["a", "b"], 1, "t")]
    let found = ChoiceAnswers(questions, [answer(-2, -3), answer(-1.6, -3.3), answer(-1, -1), answer(-1, -2)])
    let figures = Dictionary(uniqueKeysWithValues: try found.figures().map { ($0.key, $0.score.value) })
    #expect(figures["acc"] == 0.5 && figures["acc_norm"] == 0.5 && figures["acc_bytes"] == 0.75)
    #expect(abs((figures["acc_subjects"] ?? 0) - 1 / 3) < 1e-12)
    #expect(throws: NibbleError.self) { try ChoiceAnswers([], []).figures() }
    // Behind a gap there is one text: dividing its scores by the lengths of what fills the gap would mean nothing.
    var gap = question(["ab", "abcd"], 1, "s")
    gap.continuations = [" is it.", " is it."]
    #expect(try ChoiceAnswers([gap], [answer(-2, -3)]).figures().map(\.key) == ["acc"])
  }
}
