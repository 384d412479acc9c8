import NibbleCore

/// Questions about a text, as in SQuAD: judged by exact match and F1 as its scorer counts.
public struct QaTask: AnswerTask {
  public let format = "{context}\n\nQuestion: {question}\nAnswer:"
  public let search = AnswerSearch(maximumNew: 32)

  public init() {}

  /// SQuAD's own file, or rows with a `context`, a `question` and `answers`: texts, objects with a `text`, or an object whose `text` is a list.
  public func items(_ path: String, _ format: PromptFormat, limit: Int?) throws -> [AnswerItem] {
    try rows(path, limit: limit) { row, _, answers, place in
      AnswerItem(prompt: try format.prompt(row, place: place), references: answers, place: place)
    }
  }

  /// The same, for a model that marks the answer in the context.
  ///
  /// - Throws: `.badInput` naming file and line
  public func questions(_ path: String, limit: Int?) throws -> [SpanQuestion] {
    try rows(path, limit: limit) { row, question, answers, place in
      guard let context = row["context"]?.string else { throw NibbleError.badInput("\(path: place): a row without a text 'context'") }
      return SpanQuestion(question: question, context: context, references: answers, start: try Self.start(row, place), place: place)
    }
  }

  private func rows<Item>(_ path: String, limit: Int?, _ item: (JSON, _ question: String, _ answers: [String], _ place: String) throws -> Item) throws -> [Item] {
    var items: [Item] = []
    func add(_ row: JSON, _ place: String) throws {
      guard items.count < limit ?? .max else { return }
      guard let question = row["question"]?.string, let answers = Self.answers(row) else {
        throw NibbleError.badInput("\(path: place): a row without a text 'question' and 'answers'")
      }
      items.append(try item(row, question, answers, place))
    }
    try JSONLines.forEachRow(path) { row, place in
      guard let articles = row["data"]?.array else { return try add(row, place) }
      for (one, article) in articles.enumerated() {
        for (two, paragraph) in (article["paragraphs"]?.array ?? []).enumerated() {
          for question in paragraph["qas"]?.array ?? [] {
            let place = "\(place), article \(one + 1), paragraph \(two + 1)"
            try add(.object([("context", paragraph["context"] ?? .null)] + (question.members ?? [])), place)
          }
        }
      }
    }
    guard !items.isEmpty else { throw NibbleError.badInput("\(path: path): nothing in it is asked") }
    return items
  }

  /// Nothing for a question that has no answer.
  private static func answers(_ row: JSON) -> [String]? {
    if row["is_impossible"]?.bool == true { return [] }
    guard let given = row["answers"]?.array ?? row["answers"]?["text"]?.array ?? row["answer"].map({ [$0] }) else { return nil }
    let texts = given.map { $0.string ?? $0["text"]?.string }
    return texts.contains(nil) ? nil : texts.compactMap { $0 }
  }

  /// Where the first answer begins, if the row says it.
  private static func start(_ row: JSON, _ place: String) throws -> Int? {
    let given = row["answers"]?.array?.first?["answer_start"] ?? row["answers"]?["answer_start"]?.array?.first ?? row["answer_start"]
    guard let given, given != .null else { return nil }
    guard let start = given.int else {
      throw NibbleError.badInput("\(path: place): \(key: "answer_start") is \(quoted(given.text())), expected a whole number")
    }
    return start
  }

  public func figures(_ items: [AnswerItem], _ answers: [String]) throws -> [Figure] {
    let found = try QuestionAnswers(answers, answers: items.map(\.references))
    return [Figure("exact match", "exact_match", found.exactMatch), Figure("F1", "f1", found.f1)]
  }
}
