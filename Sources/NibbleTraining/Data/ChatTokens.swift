import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTokenizers

/// A base to which the special tokens of a chat template are added, and what has to be trained and written because of them.
public struct ChatTokens {
  /// The base with a row for each token.
  package let base: Checkpoint
  /// The new tokens.
  public let tokens: [(token: String, id: Int)]
  /// The tokenizer's files, to be written beside the adapter.
  public let files: [String: [UInt8]]

  /// A base to which nothing is added.
  package init(none base: Checkpoint) { (self.base, tokens, files) = (base, [], [:]) }

  /// Trains the rows of the new tokens. PEFT has rows of a head only where that shares the embedding's weight; otherwise both are trained
  /// whole.
  package func train(in options: inout AdapterOptions, of model: Model) {
    options.keepsTied = true
    guard model.tied == nil, case .language(let head) = model.head, let table = model.tokenEmbedding else {
      let isWhole = options.modulesToSave.contains { name in model.tokenEmbedding.map { ModuleChoice.is($0.name, name) } ?? true }
      if !isWhole { options.trainRows(tokens.map(\.id)) }
      return
    }
    options.modulesToSave += [table.name, head.name].filter { !options.modulesToSave.contains($0) }
  }

  /// - Throws: `.usage` for a tokenizer without tokenizer.json, and packed embeddings
  package init(adding template: ChatTemplate, to base: Checkpoint, threads: Int) throws {
    let own = try base.contents(ofSmallFiles: Tokenizer.fileNames)
    let (changed, tokens) = try Tokenizer.adding(template.marks, to: own, place: base.path)
    self.tokens = tokens
    guard !tokens.isEmpty else {
      (self.base, files) = (base, [:])
      return
    }
    // What transformers reads the tokenizer from, whole.
    let kept = try base.contents(ofSmallFiles: ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
    var files = kept.merging(changed) { $1 }
    if let source = template.source { files["chat_template.jinja"] = Array(source.utf8) }
    self.files = files
    let count = (tokens.map(\.id).max() ?? 0) + 1
    // Many embeddings have more rows than the tokenizer has tokens.
    let rows = base.vocabularyRows ?? 0
    let grown = count > rows ? try base.resizingVocabulary(to: count, identity: base.claimedIdentity ?? base.hash(threads: threads)) : base
    self.base = grown.withFiles(files.map { Checkpoint.SmallFile(name: $0.key, section: StoredSection(.file, bytes: $0.value)) })
  }
}

extension ChatTemplate {
  /// The template in Jinja, where `generate --chat` and transformers can use it as it is.
  var source: String? {
    switch self {
    case .chatml:
      #"{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"#
        + #"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"#
    case .llama3:
      #"{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"#
        + #"{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"#
        + #"{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"#
    case .mistral, .zephyr: nil
    }
  }
}
