import NibbleCore

/// What containers, quantizing and merging have to know of a family of models, whether nibble runs it or not. A family is a file here,
/// and another in `NibbleModels/Families` if it runs; `all` lists them.
///
/// transformers replaces every `nn.Linear` and `Conv1D` when it quantizes with bitsandbytes, except the output embedding, tied
/// weights, and the module that owns the model's last parameter, unless that parameter is a bias. So a head with a bias is packed,
/// one without is not.
public struct ModelFamily: Sendable {
  /// The name people know it by.
  public let name: String
  /// `model_type`s that nibble runs, and those that it only packs, converts and merges.
  private(set) var runs: [String]
  private(set) var packsOnly: [String]
  /// Weights of linear layers.
  let linear: Pattern
  /// Weights of GPT-2's `Conv1D`, which the file stores [in, out].
  var conv1D: Pattern?
  /// Weights of convolutions, [outputs, channels, height, width], that are packed. No other program loads them so.
  var convolution: Pattern?
  /// Linear heads that come with or without a bias.
  let heads: Pattern
  /// Output heads that may share the embedding's weight.
  package private(set) var tiedHeads: [String]
  /// What names in checkpoints of the bare model leave out, by `model_type`.
  private var ownPrefix: @Sendable (String) -> String
  /// What some heads call the model instead.
  package var otherPrefixes: [String] = []
  /// Parts of modules' paths that files spell otherwise: transformers renames the modules of some families when it loads a file.
  package var respelled: [(module: String, file: String)] = []
  /// Whether its models take images.
  package var takesImages = false
  /// Whether transformers puts bitsandbytes' layers in the place of its linear layers: it does so for `nn.Linear` itself, for no class
  /// derived from it.
  package var isInBitsAndBytes = true
  /// Weights of layers that it leaves as they are all the same.
  var beyondBitsAndBytes: Pattern?
  /// Parameters of experts that files hold stacked, [experts, inputs, outputs], with biases [experts, outputs] of the name and `_bias`.
  package var stackedExperts: [String] = []
  /// Whether transformers takes such stacks apart where layers are packed with bitsandbytes: it loads no folder of packed layers that has them.
  package var partsPackedExperts = false
  /// Whether PEFT takes those, which are stored [experts, inputs, outputs], for [experts, outputs, inputs]: the factors it has of them are those of
  /// the matrices turned.
  package var turnsExpertFactors = false
  /// Whether PEFT puts factors of each expert together into those of the parameters that transformers stacks experts into.
  package var joinsExperts = true
  /// What stands for the weight of a head that multiplies with the embedding's own, of configurations whose masked models have such a head: no file
  /// holds it, and no setting takes the two apart.
  package var embeddingScorer: @Sendable (JSON) -> String? = { _ in nil }
  /// Where the models are the text model of one that takes pictures as well.
  package private(set) var part: TextPart?
  /// What llama.cpp calls its tensors: entries for different `model_type`s.
  package var llamaCpp: [LlamaCppNames] = []

  package init(
    _ name: String, runs: [String], packsOnly: [String] = [], linear: String, heads: String, tiedHeads: [String],
    prefix: @escaping @Sendable (String) -> String
  ) throws {
    (self.name, self.runs, self.packsOnly) = (name, runs, packsOnly)
    (self.linear, self.heads) = (try Pattern(linear), try Pattern(heads))
    (self.tiedHeads, ownPrefix) = (tiedHeads, prefix)
  }

  /// Every family nibble knows. Another is one more file and its name here.
  public static var all: [ModelFamily] { known + added }

  /// Those of nibble.
  package static let known = [llama, mixtral, qwen2Moe, deepseek, gptOss, llama4, fused, plain, gptNeoX, falcon, gpt2, bert, distilBert, electra, albert, mpNet, modernBert, deberta, t5, resNet, vit].compactMap { $0 }

  /// For tests of the seam: families that exist for the length of a call.
  @TaskLocal package static var added: [ModelFamily] = []

  /// The family of a configuration's `model_type`.
  public static func named(_ modelType: String) -> ModelFamily? {
    all.first { $0.modelTypes.contains(modelType) }
  }

  package var modelTypes: [String] { runs + packsOnly }

  /// Whether nibble runs models of this `model_type`, one of the family's.
  package func runs(_ modelType: String) -> Bool { runs.contains(modelType) }

  /// The same family where its model is the text part of another.
  ///
  /// - Parameters:
  ///   - runs: whether nibble runs the text model
  ///   - modelType: of the whole
  func within(_ part: TextPart, runs: Bool, _ modelType: String) -> ModelFamily {
    var whole = self
    whole.part = part
    (whole.runs, whole.packsOnly) = runs ? ([modelType], []) : ([], [modelType])
    whole.tiedHeads = [part.head]
    let first = part.path.prefix { $0 != "." } + "."
    whole.ownPrefix = { _ in String(first) }
    whole.otherPrefixes = [part.path, "model.", "language_model."]
    whole.llamaCpp = []
    return whole
  }

  /// Whether its rules are made for the weight `name`: not for other parts of a model that takes pictures as well.
  package func judges(_ name: String) -> Bool { part.map { !$0.isOther(name) } ?? true }

  /// What checkpoints of the bare model leave out of names.
  package func prefix(_ modelType: String) -> String { ownPrefix(modelType) }

  /// Every name the model may have in those of its modules.
  package func prefixes(_ modelType: String) -> [String] { [ownPrefix(modelType)] + otherPrefixes }

  /// A path as files spell it.
  package func inFiles(_ path: String) -> String {
    Self.spelled(part?.inFiles(path) ?? path, respelled.map { ($0.module, $0.file) })
  }

  /// A path as modules are called.
  package func inModules(_ path: String) -> String {
    Self.spelled(part?.inModules(path) ?? path, respelled.map { ($0.file, $0.module) })
  }

  private static func spelled(_ path: String, _ pairs: [(from: String, to: String)]) -> String {
    guard !pairs.isEmpty else { return path }
    return String(pairs.reduce("." + path + ".") { $0.replacing("." + $1.from + ".", with: "." + $1.to + ".") }.dropFirst().dropLast())
  }

  /// Whether the weight `name` is a Conv1D's, stored [in, out].
  public func isConv1D(_ name: String) -> Bool { (try? conv1D?.isFound(in: name)) ?? false }

  /// Whether the weight `name` is a convolution's that is packed.
  package func packsConvolution(_ name: String) -> Bool { (try? convolution?.isFound(in: name)) ?? false }

  /// Whether transformers loads the weight `name` as it is only, where it loads others of the family packed.
  func isBeyondBitsAndBytes(_ name: String) -> Bool { (try? beyondBitsAndBytes?.isFound(in: name)) == true }

  /// Whether transformers packs the weight `name` of this family, or would if it were a layer to it.
  ///
  /// - Parameter hasBias: whether the same module has a bias
  public func packs(_ name: String, hasBias: Bool) -> Bool {
    guard judges(name) else { return !NameGuess.isEmbeddingOrHead(name) }
    if isConv1D(name) || (try? linear.isFound(in: name)) == true { return true }
    return hasBias && (try? heads.isFound(in: name)) == true
  }
}

/// Weights that are embeddings or output heads by their names, for unknown architectures.
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
