import NibbleCore

/// The messages of a row, in whatever form a data set has them.
struct RowMessages {
  /// Objects with a `role` and mostly a `content`.
  var messages: [JSON]
  /// Answers among the first messages that are only read: those of a prompt.
  var read = 0

  /// Whether a row is a conversation: `messages`; ShareGPT's `conversations`; lists of messages as `prompt` and `completion`, as TRL has them.
  static func are(in row: JSON) -> Bool {
    row["messages"] != nil || row["conversations"] != nil || row["prompt"]?.array != nil || row["completion"]?.array != nil
  }

  /// - Throws: `.badInput` from `fail` for what is no list of messages
  init(_ row: JSON, _ fail: (MessageText) -> NibbleError) throws {
    if row["messages"] == nil, row["conversations"] == nil {
      let prompt = try Self.list(row, "prompt", fail)
      messages = try prompt + Self.list(row, "completion", fail)
      read = prompt.count { $0["role"]?.string == "assistant" }
      return
    }
    messages = try Self.list(row, row["messages"] != nil ? "messages" : "conversations", fail)
    // Some sets in ShareGPT's form have the system's message beside the list.
    if let system = row["system"]?.string, !system.isEmpty, row["conversations"] != nil, messages.first?["role"]?.string != "system" {
      messages.insert(["role": "system", "content": JSON(system)], at: 0)
    }
  }

  private static func list(_ row: JSON, _ key: String, _ fail: (MessageText) -> NibbleError) throws -> [JSON] {
    guard let list = row[key]?.array, !list.isEmpty else { throw fail("\(key: key) is missing or no list of messages") }
    return try list.map { try message($0, fail) }
  }

  /// ShareGPT's roles.
  private static let roles = [
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
  ]

  /// A message of ShareGPT's, `{"from", "value"}`, as one with `role` and `content`; others as they are.
  private static func message(_ message: JSON, _ fail: (MessageText) -> NibbleError) throws -> JSON {
    guard message["role"] == nil, let from = message["from"] else { return message }
    guard let name = from.string, let role = roles[name.lowercased()] else {
      throw fail("a message from \(from.string.map(quoted) ?? from.text()); known are \(roles.keys.sorted().joined(separator: ", "))")
    }
    guard let value = message["value"] ?? message["content"] else { throw fail("a message without a value") }
    let others = (message.members ?? []).filter { !["from", "value", "content"].contains($0.key) }
    return .object([("role", JSON(role)), ("content", value)] + others)
  }
}
