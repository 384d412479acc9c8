import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("chat templates on the command line")
struct ChatCommandTests {
  let folder = TemporaryFolder()
  static let template = """
    {%- for m in messages %}{% if m.role == 'system' %}[{{ m.content }}] {% elif m.role == 'user' %}Q: {{ m.content }} {% else %}\
    A: {{ m.content }} {% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}A:{% endif %}
    """

  /// The story model with a chat template.
  func model(_ template: String = template) throws -> String {
    let path = folder.file("model")
    try FileManager.default.copyItem(atPath: fixture("stories260K"), toPath: path)
    try folder.write("model/chat_template.jinja", template)
    return path
  }

  func json(_ words: [String]) throws -> JSON {
    let result = try Program.run(words + ["--json"])
    #expect(result.code == 0, "\(result.errors)")
    return try JSON.parse(result.output)
  }

  func expectOneLine(_ result: Program.Result, _ code: Int32, mentioning words: [String]) {
    #expect(result.signal == nil && result.code == code, "\(result.errors)")
    #expect(result.errorLines.count == 1 && result.errors.hasPrefix("nibble: error: "), "\(result.errors)")
    for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
  }

  @Test("a template by itself is rendered as Jinja would, with or without trimmed blocks")
  func render() throws {
    let template = try folder.write("t.jinja", "  {% if x %}\n{{ x }}\n  {% endif %}\n")
    let context = try folder.write("c.json", #"{"x": [1.0, "é"]}"#)
    let words = ["tokenize", "--render", template, "--context", context]
    #expect(try Program.run(words).output == "  \n[1.0, 'é']\n  ")
    #expect(try Program.run(words + ["--trim-blocks", "--lstrip-blocks"]).output == "[1.0, 'é']\n")
    let marked = try folder.write("g.jinja", "a{% generation %}b{% endgeneration %}")
    #expect(try json(["tokenize", "--render", marked]) == ["text": "ab", "generated": [[1, 2]]])
    let broken = try folder.write("b.jinja", "\n{{ x | nope }}")
    expectOneLine(try Program.run(["tokenize", "--render", broken]), 3, mentioning: ["b.jinja:2", "nope"])
    let raising = try folder.write("r.jinja", "{{ raise_exception('no roles') }}")
    expectOneLine(try Program.run(["tokenize", "--render", raising]), 3, mentioning: ["r.jinja:1", "no roles"])
  }

  @Test("a conversation through the model's template")
  func messages() throws {
    let model = try model()
    let file = try folder.write("m.json", #"{"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f"}]}"#)
    let words = ["tokenize", "--tokenizer", model, "--messages", file]
    #expect(try Program.run(words).output == "Q: hi [{\"name\": \"f\"}]\n")
    #expect(try Program.run(words + ["--add-generation-prompt"]).output == "Q: hi [{\"name\": \"f\"}]A:\n")
    let found = try json(words)
    let plain = try json(["tokenize", "--tokenizer", model, "--no-special", "Q: hi [{\"name\": \"f\"}]"])
    #expect(found["ids"] == plain["ids"] && found["text"] == #"Q: hi [{"name": "f"}]"#)
    expectOneLine(
      try Program.run(["tokenize", "--tokenizer", fixture("stories260K"), "--messages", file]), 3, mentioning: ["no chat template"])
  }

  @Test("generate --chat, --messages, and rows of messages are one conversation, from a folder and from a block file")
  func generate() throws {
    let model = try model()
    let conversation = #"[{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Who is Lily?"}]"#
    let file = try folder.write("m.json", conversation)
    let rows = try folder.write("rows.jsonl", #"{"messages": \#(conversation), "use": null}"#)
    let limit = ["--max-new-tokens", "12"]
    let expected = try json(["generate", "--base", model, "--messages", file] + limit)
    let ids = try json(["tokenize", "--tokenizer", model, "--messages", file, "--add-generation-prompt"])
    #expect(expected["prompt_tokens"] == ids["count"])
    let chat = ["generate", "--base", model, "--chat", "--system", "Be kind", "--prompt", "Who is Lily?"] + limit
    #expect(try json(chat)["ids"] == expected["ids"])
    #expect(try json(["generate", "--base", model, "--prompts", rows] + limit)["results"]?.array?.first?["ids"] == expected["ids"])
    #expect(try Program.run(["quantize", model, "-o", folder.file("m.nbl"), "--keep", "."]).code == 0)
    #expect(try json(["generate", "--base", folder.file("m.nbl"), "--messages", file] + limit)["ids"] == expected["ids"])
  }

  @Test("a conversation keeps what was said, begins anew, and leaves out what does not fit")
  func conversation() throws {
    let model = try model(
      "{{ 'A big red dog sat. ' if messages | length > 2 else 'Once upon a time' }}{% for m in messages %}{{ m.content }} {% endfor %}")
    func talk(_ lines: String, _ more: [String] = []) throws -> Program.Result {
      let input = Pipe()
      try input.fileHandleForWriting.write(contentsOf: Data(lines.utf8))
      try input.fileHandleForWriting.close()
      return try Program.run(["generate", "--base", model, "--interactive", "--max-new-tokens", "8"] + more, standardInput: input)
    }
    let twice = try talk("One day\nOne day\n/reset\nOne day\n").output.split(separator: "\n", omittingEmptySubsequences: false)
    #expect(twice.count == 4 && twice[0] == twice[2] && twice[0] != twice[1], "\(twice)")
    let long = String(repeating: "One day a boy ran. ", count: 40)
    let result = try talk("\(long)\n\(long)\n")
    #expect(result.code == 0 && result.errors.contains("its oldest 2 messages are left out"), "\(result.errors)")
  }

  @Test("lines from a pipe: blank ones are skipped, a command that is none is named, and the first failure is the exit code")
  func piped() throws {
    func talk(_ base: String, _ lines: String) throws -> Program.Result {
      let input = Pipe()
      try input.fileHandleForWriting.write(contentsOf: Data(lines.utf8))
      try input.fileHandleForWriting.close()
      return try Program.run(["generate", "--base", base, "--interactive", "--max-new-tokens", "2"], standardInput: input)
    }
    let blank = try talk(stories, "\n  \nOne\n\n")
    #expect(blank.code == 0 && blank.output.split(separator: "\n", omittingEmptySubsequences: false).count == 2, "\(blank.output)")
    let bogus = try talk(stories, "/bogus\nOne\n")
    expectOneLine(bogus, 2, mentioning: ["unknown command /bogus; commands: /adapter, /help, /exit"])
    #expect(!bogus.output.isEmpty)
    let raising = try talk(model("{{ raise_exception('no') if 'bad' in messages[-1].content else 'One' }}"), "bad\nfine\n/bogus\n")
    #expect(raising.code == 3 && raising.errorLines.count == 2 && !raising.output.isEmpty, "\(raising.errors)")
    #expect(raising.errors.contains("/reset, /system, /adapter, /help, /exit"))
    #expect(try talk(stories, "/help\n/exit\n").code == 0)
  }

  @Test("a template that is missing, broken or out of place is refused", arguments: [
    (["--chat", "--prompt", "a"], 3, "no chat template"), (["--system", "s", "--prompt", "a"], 2, "--system"),
    (["--messages", "/nowhere"], 3, "no chat template"), (["--messages", "x", "--prompt", "a"], 2, "--messages"),
  ])
  func refused(_ words: [String], _ code: Int32, _ mention: String) throws {
    expectOneLine(try Program.run(["generate", "--base", fixture("stories260K")] + words), code, mentioning: [mention])
  }

  @Test("a broken template matters only to what needs it")
  func broken() throws {
    let model = try model("{% if %}")
    #expect(try Program.run(["generate", "--base", model, "--prompt", "One", "--max-new-tokens", "1"]).code == 0)
    expectOneLine(try Program.run(["generate", "--base", model, "--chat", "--prompt", "One"]), 3, mentioning: ["chat_template.jinja:1"])
    let texts = try folder.write("t.jsonl", #"{"text": "One day"}"#), talks = try folder.write("m.jsonl", #"{"messages": []}"#)
    func show(_ data: String, _ more: String...) throws -> Program.Result {
      try Program.run(["finetune", "--base", model, "--data", data, "-o", folder.file("out"), "--show-batch"] + more)
    }
    #expect(try show(texts).code == 0)
    expectOneLine(try show(talks), 3, mentioning: ["chat_template.jinja:1"])
    expectOneLine(try show(talks, "--template", "nope"), 2, mentioning: ["'nope'", "chatml"])
  }
}
