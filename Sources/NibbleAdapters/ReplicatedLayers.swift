import NibbleCore
import NibbleFormats

extension AdapterConfig {
  /// What `layer_replication` says, as PEFT writes it: pairs of a first layer and the one behind the last.
  ///
  /// - Throws: `.badInput` for what is no list of such pairs
  static func layerRanges(_ json: JSON, place: String) throws -> [Range<Int>] {
    guard let ranges = Self.layerRanges(json) else {
      throw NibbleError.badInput(
        "\(path: place): \(key: "layer_replication") is \(quoted(json.text())), expected pairs of layers such as [[0, 4], [2, 6]]")
    }
    return ranges
  }

  /// The same; nil for what is no list of such pairs.
  package static func layerRanges(_ json: JSON) -> [Range<Int>]? {
    let most = 1 << 16
    guard let pairs = json.array else { return nil }
    var ranges: [Range<Int>] = []
    for pair in pairs {
      guard let ends = pair.array?.map(\.int), ends.count == 2, let first = ends[0], let end = ends[1], (0...most).contains(first),
        (0...most).contains(end)
      else { return nil }
      ranges.append(first..<max(first, end))
    }
    return ranges.reduce(0) { $0 + $1.count } <= most ? ranges : nil
  }
}

extension Checkpoint {
  /// This base with the layers in the order that the adapters' `layer_replication` gives them, some more than once.
  ///
  /// - Throws: `.usage` for adapters that order them differently
  package func replicatingLayers(for adapters: [AdapterFile], identity: () throws -> Digest128?) throws -> Checkpoint {
    guard let first = adapters.first else { return self }
    if let other = adapters.first(where: { $0.config.layerReplication != first.config.layerReplication }) {
      throw NibbleError.usage(
        "\(path: first.path) and \(path: other.path) are for different orders of layers: \(key: "layer_replication") is not the same")
    }
    let ranges = first.config.layerReplication
    return ranges.isEmpty ? self : try replicatingLayers(ranges, identity: identity(), for: first)
  }

  /// - Parameters:
  ///   - ranges: of layers, one after another in the new model
  ///   - identity: what the result claims to be
  ///   - adapter: that asks for it; nil for a new one
  /// - Throws: `.adapterMismatch`, `.usage` for a new adapter: for layers the base lacks, and for models with more lists of layers than one
  package func replicatingLayers(_ ranges: [Range<Int>], identity: Digest128?, for adapter: AdapterFile? = nil) throws -> Checkpoint {
    if layerReplication == ranges { return self }
    func fail(_ reason: MessageText) -> NibbleError {
      guard let adapter else { return NibbleError.usage("\(.layerReplication): \(reason)") }
      return NibbleError(.adapterMismatch, "\(path: adapter.path): \(key: "layer_replication"): \(reason)")
    }
    var layers: [Int: [(rest: String, tensor: StoredTensor)]] = [:]
    var lists: Set<String> = []
    var others: [StoredTensor] = []
    for tensor in tensors {
      guard let (list, number, rest) = Self.layer(of: tensor.name.text) else {
        others.append(tensor)
        continue
      }
      lists.insert(list)
      layers[number, default: []].append((rest, tensor))
    }
    guard let list = lists.first, lists.count == 1 else {
      throw fail("\(path: path) has \(lists.isEmpty ? "no list" : "more than one list") of layers by the names of its tensors")
    }
    let order = ranges.flatMap { Array($0) }
    guard let last = order.max(), !order.contains(where: { layers[$0] == nil }) else {
      throw fail("it names layer \(order.first { layers[$0] == nil } ?? 0), \(path: path) has \(layers.count)")
    }
    // A layer that is unlike others, such as the first of ModernBERT, which has no norm, stays at a place of its kind.
    let kinds = layers.mapValues { Set($0.map(\.rest)) }
    if Set(kinds.values).count > 1, let place = order.indices.first(where: { kinds[order[$0]] != kinds[min($0, layers.count - 1)] }) {
      throw fail("layer \(order[place]) of \(path: path) has other tensors than the layer at place \(place) must have")
    }
    let made = with(
      tensors: others
        + order.enumerated().flatMap { index, source in
          (layers[source] ?? []).map { rest, tensor in
            var copy = tensor
            copy.name = ByteName("\(list)\(index).\(rest)")
            return copy
          }
        }, ofLayers: ranges, identity: identity)
    guard let config else { return made }
    return made.with(config: config.replicatingLayers(order, of: max(layers.count, last + 1)))
  }

  /// The list that a layer's tensor is in, the layer's number, and what follows it: PEFT knows `layers`, `encoder.layer` and `h`.
  private static func layer(of name: String) -> (list: String, number: Int, rest: String)? {
    let parts = name.split(separator: ".")
    guard let at = parts.indices.dropFirst().first(where: { Int(parts[$0]) != nil && ["layers", "layer", "h"].contains(parts[$0 - 1]) }),
      at + 1 < parts.count, let number = Int(parts[at])
    else { return nil }
    return (parts[..<at].joined(separator: ".") + ".", number, parts[(at + 1)...].joined(separator: "."))
  }
}

extension AdapterFile {
  /// Throws unless the layers of `base` are those that the adapter was trained on.
  package func checkLayers(of base: Checkpoint) throws {
    guard config.layerReplication != base.layerReplication else { return }
    throw NibbleError(
      .adapterMismatch, "\(path: path): \(key: "layer_replication"): the layers of \(path: base.path), as it was opened, are not in that order")
  }
}

extension JSON {
  /// A configuration of a model whose layers are those of this one, in that order.
  fileprivate func replicatingLayers(_ order: [Int], of count: Int) -> JSON {
    var config = self
    let names = ["num_hidden_layers", "n_layer"].filter { config[$0] != nil }
    for name in names.isEmpty ? ["num_hidden_layers"] : names { config = config.setting(name, to: JSON(order.count)) }
    // Which layers have no positions is a question of their numbers, too.
    if ["llama4_text", "smollm3"].contains(config["model_type"]?.string), config["no_rope_layers"]?.array?.isEmpty ?? true {
      let interval = max(1, config["no_rope_layer_interval"]?.int ?? 4)
      config = config.setting("no_rope_layers", to: .array((0..<count).map { ($0 + 1) % interval == 0 ? 0 : 1 }))
    }
    for key in ["layer_types", "no_rope_layers"] {
      guard let kinds = config[key]?.array, kinds.count >= count else { continue }
      config = config.setting(key, to: .array(order.map { kinds[$0] }))
    }
    if config["layer_types"]?.array?.count == order.count { return config }
    if config["use_sliding_window"]?.bool == true {
      // Which layers have a window is a question of their numbers.
      let first = config["max_window_layers"]?.int ?? 28
      config = config.setting("layer_types", to: .array(order.map { $0 >= first ? "sliding_attention" : "full_attention" }))
    }
    return config
  }
}
