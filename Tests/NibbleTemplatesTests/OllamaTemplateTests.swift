import NibbleCore
import TestSupport
import Testing

@testable import NibbleTemplates

@Suite("Chat templates as Ollama's")
struct OllamaTemplateTests {
  private func templates(_ text: String, bos: String = "<s>") throws -> ChatTemplates {
    ChatTemplates(try Template(text, name: "chat_template"), specialTokens: [("bos_token", .string(bos)), ("eos_token", .string("</s>"))])
  }

  private static let chatml =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    + "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

  @Test("ChatML with a message of the system of its own, whose first token is what messages begin with")
  func chatml() throws {
    let found = try #require(OllamaTemplate(templates(Self.chatml, bos: "<|im_start|>"), mark: nil))
    #expect(found.opening == "<|im_start|>system\nBe kind<|im_end|>\n" && found.answer == "<|im_start|>assistant\n")
    #expect(
      found.go
        == #"{{ if or (eq (len .Messages) 0) (ne (index .Messages 0).Role "system") }}{{ "<|im_start|>system\nBe kind<|im_end|>\n" }}{{ end }}"#
        + #"{{ range .Messages }}{{ if eq .Role "system" }}{{ "<|im_start|>system\n" }}{{ .Content }}{{ "<|im_end|>\n" }}"#
        + #"{{ else if eq .Role "user" }}{{ "<|im_start|>user\n" }}{{ .Content }}{{ "<|im_end|>\n" }}"#
        + #"{{ else if eq .Role "assistant" }}{{ "<|im_start|>assistant\n" }}{{ .Content }}{{ "<|im_end|>\n" }}{{ end }}{{ end }}"#
        + #"{{ "<|im_start|>assistant\n" }}"#)
    #expect(OllamaTemplate.modelfile(found).hasSuffix("\nPARAMETER stop \"<|im_end|>\"\n"))
  }

  @Test("the mark that the tokenizer puts first is left to Ollama")
  func mark() throws {
    let text =
      "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] | trim + '[end]' }}{% endfor %}"
      + "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    let found = try #require(OllamaTemplate(templates(text), mark: "<s>"))
    #expect(found.opening == "" && found.answer == "[assistant]" && !found.go.contains("<s>") && !found.go.contains("if or"))
    #expect(found.rendered([("user", "a"), ("assistant", "b"), ("user", "c")]) == "[user]a[end][assistant]b[end][user]c[end][assistant]")
  }

  @Test(
    "a template that does more is none of Ollama's",
    arguments: [
      // The message of the system goes into the first question.
      "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + (messages[0]['content'] if messages[0]['role'] == 'system' else '') + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
      // Numbered turns.
      "{% for m in messages %}{{ loop.index ~ m['role'] ~ ':' ~ m['content'] ~ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
      "{{ raise_exception('no') }}", "nothing of the messages",
    ])
  func more(_ text: String) throws { #expect(try OllamaTemplate(templates(text), mark: nil) == nil) }
}
