import NibbleCore

/// A parameter that a model computes with and its file leaves out, because it has another parameter's values: an output head, mostly.
package struct TiedParameter: Sendable {
  package let name: ByteName
  /// The tensor that holds its values.
  package let source: StoredTensor
}

/// How parameters of an architecture are tied.
struct TiedWeights: Sendable {
  let pairs: [(parameter: String, source: String)]
  /// Whether they are tied where the configuration does not say.
  let isDefault: Bool
  /// Whether `tie_word_embeddings` decides, and nothing else: false for models that cannot be untied by setting it.
  let isFlagOnly: Bool
  /// Whether the parameter whose values the others have is the input embedding's.
  var isInput = true

  /// By what `architectures` calls a model: all that transformers has with ties, and its language models without.
  static let known: [String: TiedWeights] = {
    var known: [String: TiedWeights] = [:]
    var pairs: [(String, String)] = []
    var isHeading = false
    for line in TiedWeightsTable.text.split(separator: "\n") {
      let words = line.split(separator: " ").map(String.init)
      if words.count == 3, words[1] == "=" {
        pairs = isHeading ? pairs + [(words[0], words[2])] : [(words[0], words[2])]
        isHeading = true
      } else if words == ["-"] {
        pairs = []
      } else {
        isHeading = false
        for word in words {
          let name = word.prefix { !"+~!".contains($0) }
          known[String(name)] = TiedWeights(
            pairs: pairs, isDefault: word.contains("+"), isFlagOnly: !word.contains("!"), isInput: !word.contains("~"))
        }
      }
    }
    return known
  }()

  /// Whether an architecture that is not known has an output head, by its name.
  static func hasHead(_ architecture: String) -> Bool {
    ["CausalLM", "LMHead", "MaskedLM", "ConditionalGeneration"].contains { architecture.contains($0) }
  }
}

extension Checkpoint {
  private var architecture: String? { config?["architectures"]?.array?.first?.string }

  private var ties: TiedWeights? {
    if let part = family?.part {
      let isDefault = architecture.flatMap { TiedWeights.known[$0]?.isDefault } ?? false
      return TiedWeights(pairs: [(part.head + ".weight", part.path + "embed_tokens.weight")], isDefault: isDefault, isFlagOnly: true)
    }
    if let architecture, let known = TiedWeights.known[architecture] {
      guard architecture.hasSuffix("ForMaskedLM"), let config, let scorer = family?.embeddingScorer(config),
        let source = known.pairs.first(where: { $0.parameter.hasSuffix(".weight") })?.source
      else { return known }
      return TiedWeights(pairs: [(scorer, source)], isDefault: true, isFlagOnly: false)
    }
    // A configuration may lack the name, or have one of a program that derives from a family's.
    guard let family, let head = family.tiedHeads.first,
      architecture.map({ $0.contains("CausalLM") || $0.contains("LMHead") }) ?? true
    else { return nil }
    let found = tensors.filter { tensor in ["embed_tokens.weight", "wte.weight"].contains { tensor.name.text.hasSuffix($0) } }
    guard found.count == 1 else { return nil }
    return TiedWeights(
      pairs: [(head + ".weight", found[0].name.text)], isDefault: family.name == "GPT-2", isFlagOnly: true)
  }

  private func isTied(_ ties: TiedWeights) -> Bool {
    guard ties.isFlagOnly else { return true }
    let said = config?["tie_word_embeddings"]?.bool, part = family?.part
    guard let part, part.tying != .byWhole else { return said ?? ties.isDefault }
    if part.tying == .byEither, said == true { return true }
    // Where the text model does not say, its own default decides.
    guard let text = config?["text_config"] else { return said ?? false }
    return text["tie_word_embeddings"]?.bool ?? TextPart.tiedByDefault.contains(part.modelType(config))
  }

  /// Parameters that the file leaves out because they are tied to others.
  package var tiedParameters: [TiedParameter] {
    guard let ties, isTied(ties) else { return [] }
    return ties.pairs.compactMap { parameter, source in
      guard tensor(called: parameter) == nil, let held = own(source) else { return nil }
      return TiedParameter(name: ByteName(parameter), source: held)
    }
  }

  /// The name of an output head that the configuration ties to the embedding, whether or not the file has a weight for it.
  package var tiedHeadName: ByteName? {
    guard let ties, isTied(ties) else { return nil }
    return ties.pairs.map(\.parameter).first { $0.hasSuffix(".weight") }.map { ByteName($0) }
  }

  /// The tensor of that name, with or without the first part of it: a file may lack the model's prefix.
  private func own(_ name: String) -> StoredTensor? {
    tensor(called: name) ?? name.firstIndex(of: ".").flatMap { tensor(ByteName(String(name[name.index(after: $0)...]))) }
  }

  /// The output head that shares the embedding's weight, and that embedding; nil where the head has a weight of its own, or there is
  /// none.
  package var tiedHead: TiedParameter? { tiedParameters.first { $0.name.text.hasSuffix(".weight") } }

  /// The embedding whose weight the output head shares.
  package var tiedEmbedding: StoredTensor? { tiedHead?.source }

  /// Whether a configuration that says `tie_word_embeddings` is false makes tied parameters independent, and changes nothing else.
  package var canBeUntied: Bool { ties?.isFlagOnly ?? false }

  /// Whether what holds for the input embedding's tokens holds for all tied parameters: PEFT ties rows of tokens to no other's.
  package var tiesInputEmbedding: Bool { ties?.isInput ?? true }

  /// What `architectures` calls the model, if its configuration ties embeddings to a head and nibble does not know under which names.
  package var unknownTies: String? {
    guard let architecture, ties == nil, TiedWeights.hasHead(architecture), config?["tie_word_embeddings"]?.bool == true,
      !NameGuess.tiedHeads.contains(where: { tensor(ByteName($0 + ".weight")) != nil })
    else { return nil }
    return architecture
  }

  /// The same model with all tied parameters as tensors of their own, copies, and a configuration that says so.
  package func untied() -> Checkpoint {
    let tied = tiedParameters
    guard !tied.isEmpty, canBeUntied, var config else { return self }
    config = config.setting("tie_word_embeddings", to: .bool(false))
    if let text = config["text_config"], text["tie_word_embeddings"]?.bool == true || family?.part != nil {
      config = config.setting("text_config", to: text.setting("tie_word_embeddings", to: .bool(false)))
    }
    var untied = adding(
      tied.map { one in
        var copy = one.source
        copy.name = one.name
        return copy
      }
    ).with(config: config)
    untied.warnings.append(
      .init(
        .identity,
        "\(path: path): \(tied.map { quoted($0.name.text) }.joined(separator: ", ")) shared the values of "
          + "\(subject: tied[0].source.name.text)\(tied.count > 1 ? " and others" : ""); the adapter treats them apart, so the output "
          + "has each as a tensor and tie_word_embeddings is false"))
    return untied
  }
}
