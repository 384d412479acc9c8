import NibbleCore

/// A prompt, and what its answer is judged by.
public struct AnswerItem: Sendable, Equatable {
  /// A prompt with its answer, that is shown before another.
  public struct Solved: Sendable, Equatable {
    public var prompt: String
    public var answer: String

    public init(prompt: String, answer: String) { (self.prompt, self.answer) = (prompt, answer) }
  }

  public var prompt: String
  public var references: [String]
  /// What is shown before it.
  public var examples: [Solved] = []
  /// File and line.
  public var place: String

  /// The prompt with what is shown before it: a space between prompt and answer where neither has one, and an empty line behind each.
  public var text: String {
    examples.map { one in
      let isApart = one.answer.isEmpty || one.prompt.last?.isWhitespace != false || one.answer.first?.isWhitespace == true
      return one.prompt + (isApart ? "" : " ") + one.answer + "\n\n"
    }.joined() + prompt
  }

  public init(prompt: String, references: [String], place: String) { (self.prompt, self.references, self.place) = (prompt, references, place) }
}

/// A task whose answers a model writes.
public protocol AnswerTask: Sendable {
  /// How rows become prompts where nothing else is said.
  var format: String { get }
  /// How answers are searched for where nothing else is said.
  var search: AnswerSearch { get }
  /// What a file asks, at most `limit` prompts of it.
  ///
  /// - Throws: `.badInput` naming file and line
  func items(_ path: String, _ format: PromptFormat, limit: Int?) throws -> [AnswerItem]
  /// The right answer as an example shows it; nil where there is none to show.
  func shown(_ item: AnswerItem) -> String?
  /// Figures of the answers to all items.
  ///
  /// - Throws: `.badInput` for no items
  func figures(_ items: [AnswerItem], _ answers: [String]) throws -> [Figure]
}

/// How an answer is searched for.
public struct AnswerSearch: Sendable, Equatable {
  public var maximumNew: Int
  /// 1 for the likeliest token each time.
  public var beams = 1
  public var lengthPenalty = 1.0
  /// Runs of so many tokens do not come twice; 0 for no such rule.
  public var noRepeatNgram = 0
  /// An answer ends before one of these.
  public var stops = ["\n"]

  public init(maximumNew: Int, beams: Int = 1, lengthPenalty: Double = 1, noRepeatNgram: Int = 0) {
    (self.maximumNew, self.beams, self.lengthPenalty, self.noRepeatNgram) = (maximumNew, beams, lengthPenalty, noRepeatNgram)
  }
}

extension AnswerTask {
  public func shown(_ item: AnswerItem) -> String? { item.references.first }

  /// The items, each with the first solved ones of a file before it, other than itself.
  ///
  /// - Throws: `.badInput` naming file and line, and for a file with too few
  public func showing(_ shots: Int, of path: String, _ format: PromptFormat, before items: [AnswerItem]) throws -> [AnswerItem] {
    let solved = try self.items(path, format, limit: nil).compactMap { item in
      shown(item).map { AnswerItem.Solved(prompt: item.prompt, answer: $0) }
    }
    return try items.map { item in
      var item = item
      item.examples = Array(solved.lazy.filter { $0.prompt != item.prompt }.prefix(shots))
      guard item.examples.count == shots else {
        throw NibbleError.badInput("\(path: path): \(item.examples.count) solved rows, other than the one that is asked, where \(shots) are to be shown")
      }
      return item
    }
  }

  /// Rows one by one, until there are enough.
  func rows(_ path: String, limit: Int?, _ item: (JSON, String) throws -> AnswerItem?) throws -> [AnswerItem] {
    var items: [AnswerItem] = []
    try JSONLines.forEachRow(path) { row, place in
      if items.count < limit ?? .max, let one = try item(row, place) { items.append(one) }
    }
    guard !items.isEmpty else { throw NibbleError.badInput("\(path: path): nothing in it is asked") }
    return items
  }
}
