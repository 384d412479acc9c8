import NibbleCore

/// A chat template of Jinja as one of Ollama's, in Go's language, where it puts nothing but a beginning and an end around each message, and
/// perhaps a message of the system where there is none.
///
/// The pieces are read off what the template makes of short conversations, and others are compared before it is believed.
public struct OllamaTemplate: Sendable {
  /// What stands before and behind messages, by role.
  let around: [(role: String, before: String, after: String)]
  /// What begins a conversation without a message of the system.
  let opening: String
  /// What begins an answer.
  let answer: String

  private static let roles = ["system", "user", "assistant"]

  /// - Parameter mark: what the tokenizer itself puts before a text, and so does Ollama; nil for nothing. A template that begins with it does not
  ///   write it a second time.
  /// - Returns: nil where the template is more than that
  public init?(_ templates: ChatTemplates, mark: String?) {
    func text(_ messages: [(String, String)], answering: Bool = false) -> String? {
      let conversation = Conversation(messages.map { Conversation.message($0.0, $0.1) })
      guard let text = try? templates.render(conversation, addsPrompt: answering, now: 0).text else { return nil }
      guard let mark, !mark.isEmpty, text.hasPrefix(mark) else { return text }
      return String(text.dropFirst(mark.count))
    }
    let (s, u, a) = ("nibbleſystem", "nibbleſuser", "nibbleſanswer")
    guard let both = text([("system", s), ("user", u)]), let more = text([("system", s), ("user", u), ("assistant", a)]),
      let asked = text([("system", s), ("user", u)], answering: true), let twice = text([("system", s), ("user", u), ("assistant", a), ("user", u)]),
      let bare = text([("user", u)]), more.hasPrefix(both), asked.hasPrefix(both), twice.hasPrefix(more)
    else { return nil }
    let (turn, reply) = (String(twice.dropFirst(more.count)), String(more.dropFirst(both.count)))
    guard let user = Self.split(turn, u), let assistant = Self.split(reply, a), both.hasSuffix(turn),
      let system = Self.split(String(both.dropLast(turn.count)), s), bare.hasSuffix(turn)
    else { return nil }
    opening = String(bare.dropLast(turn.count))
    answer = String(asked.dropFirst(both.count))
    around = [("system", system.0, system.1), ("user", user.0, user.1), ("assistant", assistant.0, assistant.1)]
    let probes: [[(String, String)]] = [
      [("user", "Hi")], [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Two\nlines")],
      [("user", "One"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")],
    ]
    for probe in probes { guard let wanted = text(probe, answering: true), wanted == rendered(probe) else { return nil } }
  }

  private static func split(_ text: String, _ mark: String) -> (String, String)? {
    guard let range = text.firstRange(of: mark) else { return nil }
    let (before, after) = (String(text[..<range.lowerBound]), String(text[range.upperBound...]))
    return after.firstRange(of: mark) == nil ? (before, after) : nil
  }

  /// What it makes of a conversation whose answer is to come.
  func rendered(_ messages: [(String, String)]) -> String {
    var text = messages.first?.0 == "system" ? "" : opening
    for (role, content) in messages { if let one = around.first(where: { $0.role == role }) { text += one.before + content + one.after } }
    return text + answer
  }

  /// In Go's language. Texts are strings of it: no white space of ours is part of the output.
  var go: String {
    var parts: [String] = []
    if !opening.isEmpty { parts.append(#"{{ if or (eq (len .Messages) 0) (ne (index .Messages 0).Role "system") }}"# + Self.text(opening) + "{{ end }}") }
    parts.append("{{ range .Messages }}")
    for (place, one) in around.enumerated() {
      parts.append("{{ \(place == 0 ? "if" : "else if") eq .Role \"\(one.role)\" }}" + Self.text(one.before) + "{{ .Content }}" + Self.text(one.after))
    }
    parts.append("{{ end }}{{ end }}" + Self.text(answer))
    return parts.joined()
  }

  private static func text(_ text: String) -> String {
    guard !text.isEmpty else { return "" }
    var quoted = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\n": quoted += "\\n"
      case "\t": quoted += "\\t"
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return "{{ \"\(quoted)\" }}"
  }

  /// The mark that ends an answer; empty where there is none.
  private var stop: String { String((around.last?.after ?? "").prefix { $0 != "\n" }) }

  /// A Modelfile beside `model.gguf`.
  public static func modelfile(_ template: OllamaTemplate?) -> String {
    guard let template else { return "FROM ./model.gguf\n" }
    let stop = template.stop
    return "FROM ./model.gguf\nTEMPLATE \"\"\"\(template.go)\"\"\"\n" + (stop.isEmpty || stop.contains("\"") ? "" : "PARAMETER stop \"\(stop)\"\n")
  }
}
