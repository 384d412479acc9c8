import NibbleCore

/// Which weights of a known architecture are linear layers: what transformers packs when it quantizes with bitsandbytes.
///
/// transformers replaces every `nn.Linear` and `Conv1D` except the output embedding, tied weights, and the module that
/// owns the model's last parameter, unless that parameter is a bias. So a head with a bias is packed, one without is not.
public struct ModelFamily: Sendable {
  /// The name people know it by.
  public let name: String
  let modelTypes: [String]
  let linear: Pattern
  /// Weights of GPT-2's `Conv1D`, which the file stores [in, out].
  let conv1D: Pattern?
  /// Linear heads that come with or without a bias.
  let heads: Pattern
  /// Output heads that may share the embedding's weight.
  package let tiedHeads: [String]

  private init(_ name: String, _ modelTypes: [String], linear: String, conv1D: String? = nil, heads: String, tiedHeads: [String])
    throws
  {
    self.name = name
    self.modelTypes = modelTypes
    self.linear = try Pattern(linear)
    self.conv1D = try conv1D.map { try Pattern($0) }
    self.heads = try Pattern(heads)
    self.tiedHeads = tiedHeads
  }

  /// Llama and what shares its module names; checked against transformers for each type listed.
  private static let llama = try? ModelFamily(
    "Llama", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite", "olmo2", "smollm3"],
    linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$"#,
    heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"])

  private static let gpt2 = try? ModelFamily(
    "GPT-2", ["gpt2"],
    linear: #"(?!)"#,
    conv1D: #"(^|\.)h\.\d+\.((attn|crossattention)\.(c_attn|q_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight$"#,
    heads: #"^(score|classifier|qa_outputs|multiple_choice_head\.summary)\.weight$"#, tiedHeads: ["lm_head"])

  private static let bert = try? ModelFamily(
    "BERT", ["bert", "roberta", "xlm-roberta", "camembert"],
    linear:
      #"(^|\.)layer\.\d+\.((attention|crossattention)\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)\.weight$"#
      + #"|(^|\.)pooler\.dense\.weight$|^cls\.predictions\.transform\.dense\.weight$|^lm_head\.dense\.weight$"#,
    heads: #"^(classifier(\.dense|\.out_proj)?|qa_outputs|cls\.seq_relationship)\.weight$"#,
    tiedHeads: ["cls.predictions.decoder", "lm_head.decoder"])

  /// Every family nibble knows.
  public static let all = [llama, gpt2, bert].compactMap { $0 }

  /// The family of a configuration's `model_type`.
  public static func named(_ modelType: String) -> ModelFamily? {
    all.first { $0.modelTypes.contains(modelType) }
  }

  /// Whether the weight `name` is a Conv1D's, stored [in, out].
  public func isConv1D(_ name: String) -> Bool { (try? conv1D?.isFound(in: name)) ?? false }

  /// Whether transformers packs the weight `name` of this family.
  ///
  /// - Parameter hasBias: whether the same module has a bias
  public func packs(_ name: String, hasBias: Bool) -> Bool {
    if isConv1D(name) || (try? linear.isFound(in: name)) == true { return true }
    return hasBias && (try? heads.isFound(in: name)) == true
  }
}

/// Weights that are embeddings or output heads by their name alone, for architectures nobody has told us about.
package enum NameGuess {
  private static let kept = try? Pattern(
    #"embed|(^|\.)(wte|wpe|shared|lm_head|output|embed_out|score|classifier|head|heads|qa_outputs)\.weight$|relative_attention_bias"#
  )

  static let tiedHeads = [
    "lm_head", "lm_head.decoder", "cls.predictions.decoder", "predictions.decoder", "vocab_projector", "proj_out",
    "embed_out", "decoder",
  ]

  package static func isEmbeddingOrHead(_ name: String) -> Bool {
    (try? kept?.isFound(in: name.lowercased())) ?? false
  }
}
