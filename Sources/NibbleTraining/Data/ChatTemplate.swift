import NibbleCore

/// Built-in chat templates.
public enum ChatTemplate: String, Sendable, CaseIterable {
  case llama3 = "llama-3"
  case chatml, mistral, zephyr

  /// What a model can tell apart from text only if each is one token. The others (`[INST]`, `<|user|>`) are text in the models that
  /// first had them.
  var marks: [String] {
    switch self {
    case .llama3: ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    case .chatml: ["<|im_start|>", "<|im_end|>"]
    case .mistral, .zephyr: ["</s>"]
    }
  }

  /// A part of a conversation's text.
  struct Piece: Equatable {
    var text: String
    /// Whether it is learned.
    var isAnswer: Bool
    /// Whether the tokenizer's own mark stands before it.
    var begins = false
  }

  /// The pieces, or why the template cannot render these messages. What stands between two answers is one piece: tokens go over its
  /// parts as they do when the model is asked, and end where its answer begins.
  func pieces(_ messages: [(role: String, content: String)]) -> Result<[Piece], Failure> {
    var pieces: [Piece] = []
    func add(_ text: String, _ isAnswer: Bool = false) {
      if let last = pieces.last, !last.isAnswer, !isAnswer {
        pieces[pieces.count - 1].text += text
      } else {
        pieces.append(Piece(text: text, isAnswer: isAnswer, begins: pieces.isEmpty && self == .mistral))
      }
    }
    var system = ""
    for (index, (role, content)) in messages.enumerated() {
      guard ["system", "user", "assistant"].contains(role) else { return .failure(Failure("a message of role \(quoted(role))")) }
      guard role != "system" || index == 0 else { return .failure(Failure("a system message that is not the first")) }
      let isAnswer = role == "assistant"
      switch self {
      case .llama3:
        if pieces.isEmpty { add("<|begin_of_text|>") }
        add("<|start_header_id|>\(role)<|end_header_id|>\n\n")
        add(content.trimmed + "<|eot_id|>", isAnswer)
      case .chatml:
        add("<|im_start|>\(role)\n")
        add(content + "<|im_end|>", isAnswer)
        add("\n")
      case .zephyr:
        add("<|\(role)|>\n")
        add(content + "</s>", isAnswer)
        add("\n")
      case .mistral:
        if role == "system" {
          system = content + "\n\n"
        } else if isAnswer {
          add(" " + content.trimmed + "</s>", true)
        } else {
          add("[INST] \(system)\(content) [/INST]")
          system = ""
        }
      }
    }
    guard pieces.contains(where: \.isAnswer) else {
      return .failure(Failure("the conversation has no message of the assistant"))
    }
    return .success(pieces)
  }

  struct Failure: Error {
    let reason: String
    init(_ reason: String) { self.reason = reason }
  }
}

extension Result where Failure == ChatTemplate.Failure {
  func get(orFail fail: (MessageText) -> NibbleError) throws -> Success {
    switch self {
    case .success(let value): return value
    case .failure(let failure): throw fail("\(failure.reason)")
    }
  }
}

extension String {
  fileprivate var trimmed: String {
    let blank: (UInt8) -> Bool = { $0 == 0x20 || (0x09...0x0D).contains($0) }
    let bytes = utf8
    guard let first = bytes.firstIndex(where: { !blank($0) }), let last = bytes.lastIndex(where: { !blank($0) }) else {
      return ""
    }
    return String(self[first...last])
  }
}
