import NibbleCore

extension Checkpoint {
  /// The embedding whose weight the output head shares; nil where the head has one of its own, or there is none.
  package var tiedEmbedding: StoredTensor? {
    guard let family, let head = family.tiedHeads.first, tensor(ByteName(head + ".weight")) == nil,
      family.ties(config)
    else { return nil }
    if case .array(let names)? = config?["architectures"], let name = names.first?.string,
      !name.contains("CausalLM"), !name.contains("LMHead")
    {
      return nil
    }
    let found = tensors.filter { tensor in ["embed_tokens.weight", "wte.weight"].contains { tensor.name.text.hasSuffix($0) } }
    return found.count == 1 ? found[0] : nil
  }

  /// The same model with a head of its own: a copy of the embedding, and a configuration that says so.
  package func untied() -> Checkpoint {
    guard let embedding = tiedEmbedding, let head = family?.tiedHeads.first, let config else { return self }
    var weight = embedding
    weight.name = ByteName(head + ".weight")
    var untied = adding([weight]).with(config: config.setting("tie_word_embeddings", to: .bool(false)))
    untied.warnings.append(
      "\(path): the output head shared the embedding's weight; the adapter treats them apart, so the output has both and "
        + "tie_word_embeddings is false")
    return untied
  }

  /// The same with tensors that are not its own, and do not count for its identity.
  package func adding(_ more: [StoredTensor]) -> Checkpoint {
    var all = self
    all.tensors += more
    all.added.formUnion(more.map(\.name))
    all.sortTensors()
    return all
  }

  /// The same with other names for its tensors.
  package func renamed(_ name: (ByteName) -> ByteName) -> Checkpoint {
    var other = self
    for index in other.tensors.indices { other.tensors[index].name = name(tensors[index].name) }
    other.sortTensors()
    return other
  }

  /// The same with another configuration.
  package func with(config: JSON) -> Checkpoint {
    var other = self
    other.config = config
    other.smallFiles = smallFiles.map {
      $0.name == "config.json" ? SmallFile(name: $0.name, section: StoredSection(.file, bytes: config.fileBytes)) : $0
    }
    return other
  }
}
