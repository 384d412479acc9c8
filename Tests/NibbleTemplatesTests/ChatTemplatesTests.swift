import NibbleCore
import NibbleTemplates
import Testing

@Suite("chat templates: a model's files")
struct ChatTemplatesTests {
  func templates(_ files: [String: String]) throws -> ChatTemplates? {
    try ChatTemplates(files: files.mapValues { Array($0.utf8) }, place: "model")
  }

  let hello = Conversation([Conversation.message("user", "hi")])

  @Test("chat_template.jinja comes before tokenizer_config.json, and special tokens are given to it")
  func order() throws {
    let config = #"{"chat_template": "old", "bos_token": "<s>", "eos_token": {"content": "</s>"}}"#
    let found = try templates(["tokenizer_config.json": config, "chat_template.jinja": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ tools }}"])
    #expect(try found?.render(hello, addsPrompt: false).text == "<s>hi</s>None")
    #expect(try templates(["tokenizer_config.json": config])?.render(hello, addsPrompt: false).text == "old")
    #expect(try templates(["tokenizer_config.json": "{}"]) == nil)
    #expect(try templates(["chat_template.json": #"{"chat_template": "p"}"#])?.names == ["default"])
  }

  @Test("of several templates, tool_use is for tools and default for the rest")
  func named() throws {
    let list = #"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | length }}"}]}"#
    let found = try #require(try templates(["tokenizer_config.json": list]))
    #expect(try found.render(hello, addsPrompt: true).text == "plain")
    #expect(try found.render(Conversation(hello.messages, tools: [["type": "function"]]), addsPrompt: true).text == "1")
    let folder = try #require(try templates(["chat_template.jinja": "a", "additional_chat_templates/rag.jinja": "b"]))
    #expect(folder.names == ["rag", "default"])
    #expect(try folder.template(for: hello, named: "rag").render([]).text == "b")
    let error = #expect(throws: NibbleError.self) { try folder.template(for: hello, named: "x") }
    #expect(error?.kind == .usage)
  }

  @Test("broken templates and conversations are refused by place")
  func broken() throws {
    let template = #expect(throws: NibbleError.self) { try templates(["chat_template.jinja": "\n{% if %}"]) }
    #expect(template?.message.hasPrefix("model/chat_template.jinja:2: ") == true)
    for text in ["3", "{}", #"[{"content": "a"}]"#, #"{"messages": [], "tools": 3}"#, "[1]"] {
      let error = #expect(throws: NibbleError.self) { try Conversation(JSON.parse(text), place: "file") }
      #expect(error?.kind == .badInput && error?.message.hasPrefix("file: ") == true)
    }
  }

  @Test("messages are given as transformers gives them: without nulls, thoughts under each name")
  func messages() throws {
    let row = try JSON.parse(#"[{"role": "assistant", "content": null, "reasoning": "hm"}]"#)
    let found = try templates(["chat_template.jinja": "{{ messages[0] | tojson }}"])
    let text = try found?.render(Conversation(row, place: "x"), addsPrompt: false).text
    #expect(text == #"{"thinking": "hm", "role": "assistant", "reasoning": "hm", "reasoning_content": "hm"}"#)
  }

  @Test(
    "a template that writes parts of messages only is given texts as parts; others are given what there is",
    arguments: [
      ("{% for m in messages %}{{ m.role }}:{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %};{% endfor %}", "user:hi;"),
      ("{% for m in messages %}{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}{% endfor %}", "hi"),
      ("{% for m in messages %}{% if m.content is string %}s {{ m.content }}{% else %}{{ m.content[0].type }}{% endif %}{% endfor %}", "s hi"),
      ("{{ messages[0].content }}{# of no type #}", "hi"),
    ])
  func parts(template: String, text: String) throws {
    #expect(try templates(["chat_template.jinja": template])?.render(hello, addsPrompt: false).text == text)
    let own = ChatTemplates(try Template(template, name: "t"), specialTokens: [])
    #expect(try own.render(hello, addsPrompt: false).text == text)
  }

  @Test("the oldest turns make room, the system message and the last turn stay")
  func turns() {
    var conversation = Conversation(
      [("system", "s"), ("user", "1"), ("assistant", "a"), ("user", "2"), ("tool", "t"), ("assistant", "b"), ("user", "3")].map(Conversation.message))
    #expect(conversation.dropOldestTurns { $0.messages.count <= 5 } == 2)
    #expect(conversation.messages.compactMap { $0["content"]?.string } == ["s", "2", "t", "b", "3"])
    #expect(conversation.dropOldestTurns { _ in false } == 3)
    #expect(conversation.messages.compactMap { $0["content"]?.string } == ["s", "3"])
  }
}
