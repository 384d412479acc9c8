import NibbleCore

/// A prompt, and what its answer is judged by.
public struct AnswerItem: Sendable, Equatable {
  public var prompt: String
  public var references: [String]
  /// File and line.
  public var place: String

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
