import NibbleCore

/// Messages, and what a template is given beside them.
public struct Conversation: Sendable, Equatable {
  /// Objects with a `role` and mostly a `content`.
  public var messages: [JSON]
  /// Schemas of tools, where there are any.
  public var tools: JSON?
  /// Texts to answer from, where there are any.
  public var documents: JSON?
  /// Other variables of the template, `date_string` or `enable_thinking` for instance.
  public var variables: [(key: String, value: JSON)] = []

  /// A conversation of these messages.
  public init(_ messages: [JSON] = [], tools: JSON? = nil, documents: JSON? = nil) {
    (self.messages, self.tools, self.documents) = (messages, tools, documents)
  }

  /// A list of messages, or an object with `messages`, `tools`, `documents` and other variables of the template.
  ///
  /// - Parameter place: where it comes from, for errors
  /// - Throws: `.badInput` for what is neither, and for messages that are no objects with a role
  public init(_ json: JSON, place: String) throws {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    self.init()
    if let list = json.array {
      messages = list
    } else {
      guard let members = json.members else { throw fail("neither a list of messages nor an object with 'messages'") }
      guard let list = json["messages"]?.array else { throw fail("'messages' is missing or no list") }
      messages = list
      for (key, value) in members {
        switch key {
        case "messages": break
        case "tools": tools = try Self.list(value, fail("'tools' is no list"))
        case "documents": documents = try Self.list(value, fail("'documents' is no list"))
        default: variables.append((key, value))
        }
      }
    }
    for (index, message) in messages.enumerated() {
      guard message.members != nil, message["role"]?.string != nil else {
        throw fail("message \(index + 1) is no object with a 'role'")
      }
    }
  }

  private static func list(_ value: JSON, _ error: NibbleError) throws -> JSON? {
    if value == .null { return nil }
    guard value.array != nil else { throw error }
    return value
  }

  public static func == (a: Conversation, b: Conversation) -> Bool {
    a.messages == b.messages && a.tools == b.tools && a.documents == b.documents && JSON.object(a.variables) == JSON.object(b.variables)
  }

  /// A message of `role`.
  public static func message(_ role: String, _ content: String) -> JSON { ["role": JSON(role), "content": JSON(content)] }

  /// Leaves out the oldest turns, one after another, until the conversation fits. A turn is a user's message and what follows up to the
  /// next one; messages before the first turn stay, and so does the last turn.
  ///
  /// - Returns: how many messages were left out
  public mutating func dropOldestTurns(until fits: (Conversation) throws -> Bool) rethrows -> Int {
    var dropped = 0
    while try !fits(self) {
      let turns = messages.indices.filter { messages[$0]["role"]?.string == "user" }
      guard turns.count > 1 else { return dropped }
      messages.removeSubrange(turns[0]..<turns[1])
      dropped += turns[1] - turns[0]
    }
    return dropped
  }

  /// The messages as transformers gives them to a template: what a model thought is there under each name templates read.
  var preparedMessages: [JSON] {
    messages.map { message in
      // Members without a value count as missing; templates print them as `None` otherwise.
      let message = JSON.object((message.members ?? []).filter { $0.value != .null })
      let thought = ["reasoning_content", "thinking", "reasoning"].lazy.compactMap { message[$0] }.first { $0 != .null }
      guard let thought else { return message }
      let members = (message.members ?? []).filter { message["thinking"] == nil || $0.key != "thinking" }
      let first: JSON = .object([(key: "thinking", value: message["thinking"] ?? thought)] + members)
      return first.setting("reasoning_content", to: thought)
    }
  }
}
