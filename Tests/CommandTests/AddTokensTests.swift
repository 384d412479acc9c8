import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Special tokens added to a vocabulary")
struct AddTokensTests {
  let folder = TemporaryFolder()

  /// A model of 256 tokens whose tokenizer knows so many words.
  func base(_ name: String, words: Int, model: String = "llama") throws -> String {
    try FileManager.default.copyItem(atPath: fixture("models/" + model), toPath: folder.file(name))
    let vocabulary = ["hello", "day", "[UNK]"] + (3..<words).map { "w\($0)" }
    let json: JSON = [
      "version": "1.0", "added_tokens": [], "normalizer": .null, "pre_tokenizer": ["type": "Whitespace"], "post_processor": .null, "decoder": .null,
      "model": ["type": "WordLevel", "vocab": .object(vocabulary.enumerated().map { ($1, JSON($0)) }), "unk_token": "[UNK]"],
    ]
    try folder.write(name + "/tokenizer.json", json.text())
    return folder.file(name)
  }

  func run(_ base: String, _ output: String, _ more: [String] = []) throws -> [String] {
    let row = #"{"messages": [{"role": "user", "content": "hello w5"}, {"role": "assistant", "content": "day w7"}]}"#
    let data = try folder.write("rows.jsonl", row)
    return [
      "finetune", "--base", base, "--data", data, "--valid", data, "-o", folder.file(output), "-q", "--json", "--max-steps", "4", "--batch-size", "1",
      "--learning-rate", "1e-2", "--template", "chatml",
    ] + more
  }

  @Test("rows are appended where the embedding has none left; the adapter runs, is resumed, and is merged", arguments: [(256, 258), (40, 256)], ["llama", "gpt2"])
  func added(_ size: (words: Int, rows: Int), _ model: String) throws {
    let base = try base("m", words: size.words, model: model)
    let refused = try Program.run(run(base, "out"))
    #expect(refused.code == 2 && refused.errors.contains("--add-tokens adds it"), "\(refused.errors)")
    let result = try Program.run(run(base, "out", ["--add-tokens", "--save-steps", "2"]))
    #expect(result.code == 0, "\(result.errors)")
    let loss = try #require(JSON.parse(result.output)["valid_loss"]?.double)
    let added = try JSON.parse(bytes(of: folder.file("out/added_tokens.json")))
    #expect(added == ["<|im_start|>": JSON(size.words), "<|im_end|>": JSON(size.words + 1)])
    let listed = try JSON.parse(Program.run(["inspect", folder.file("out"), "--json"]).output)
    // GPT-2's head shares the embedding's weight: only the rows of the two tokens are trained.
    let stored = model == "gpt2" ? "wte, 2 rows" : "[\(size.rows),"
    #expect(listed.text().contains(stored), "\(listed.text())")
    // Training and running agree, before and after merging.
    for words in [["--base", base, "--adapter", folder.file("out")], ["--base", folder.file("merged")]] {
      if words.count == 2 { #expect(try Program.run(["merge", base, folder.file("out"), "-o", folder.file("merged"), "-q"]).code == 0) }
      let judged = try Program.run(["evaluate", "--task", "lm", "--template", "chatml", "--data", folder.file("rows.jsonl"), "--json", "-q"] + words)
      #expect(judged.code == 0, "\(judged.errors)")
      #expect(abs(try #require(JSON.parse(judged.output)["loss"]?.double) - loss) < 1e-4 * loss, "\(words)")
    }
    let chat = try Program.run(["generate", base, "--adapter", folder.file("out"), "--chat", "--prompt", "hello w5", "--max-new-tokens", "3", "-q"])
    #expect(chat.code == 0, "\(chat.errors)")
    let weights = try bytes(of: folder.file("out/adapter_model.safetensors"))
    try FileManager.default.removeItem(atPath: folder.file("out/checkpoint-4"))
    let resumed = try Program.run(run(base, "out", ["--add-tokens", "--save-steps", "2", "--resume"]))
    #expect(resumed.code == 0, "\(resumed.errors)")
    #expect(try bytes(of: folder.file("out/adapter_model.safetensors")) == weights)
  }

  @Test("what cannot be added to is refused", arguments: [
    (["--method", "full"], "new adapter"), (["--template", "mine.jinja"], "by its name"), (["--base", "stories260K"], "there is none"), (["--base", "packed.nbl"], "is packed"),
  ])
  func refused(_ more: [String], _ saying: String) throws {
    let base = try base("m", words: 256)
    try folder.write("mine.jinja", "{{ messages[0].content }}")
    if more.contains("packed.nbl") {
      let packed = try Program.run(["quantize", base, "-o", folder.file("packed.nbl"), "--tensor", "embed_tokens=nf4", "-q"])
      #expect(packed.code == 0, "\(packed.errors)")
    }
    var words = try run(base, "out", ["--add-tokens"])
    let value = more[1] == "stories260K" ? fixture("stories260K") : more[1].contains(".") ? folder.file(more[1]) : more[1]
    if let at = words.firstIndex(of: more[0]) { words[at + 1] = value } else { words += [more[0], value] }
    let result = try Program.run(words)
    #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains(saying), "\(result.errors)")
    #expect(PathKind(folder.file("out")) == .nothing)
  }
}
