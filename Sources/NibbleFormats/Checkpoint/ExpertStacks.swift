import NibbleCore

// Some files stack the experts of a layer: `mlp.experts.down_proj` is [experts, inputs, outputs], `…_bias` [experts, outputs]. Everywhere else
// experts are layers with names of their own, `mlp.experts.0.down_proj.weight` and `.bias`: such files are taken apart when they are opened,
// and put together again when they are written.

/// The place of an expert's parameter in a stack.
struct ExpertPlace: Hashable, Sendable {
  /// The layer's experts: `model.layers.0.mlp.experts`.
  let block: String
  /// The parameter as files have it.
  let stack: String
  let expert: Int

  /// Experts of a layer, more than any model has: each takes memory beside its numbers.
  static let most = 1 << 12

  /// - Parameters:
  ///   - name: of an expert's weight or bias
  ///   - leaves: parameters that are stacked
  init?(_ name: String, _ leaves: [String]) {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count > 4, parts[parts.count - 4] == "experts", let number = Int(parts[parts.count - 3]), (0..<Self.most).contains(number),
      String(number) == parts[parts.count - 3], leaves.contains(String(parts[parts.count - 2])), ["weight", "bias"].contains(parts[parts.count - 1])
    else { return nil }
    block = parts.dropLast(3).joined(separator: ".")
    stack = block + "." + parts[parts.count - 2] + (parts[parts.count - 1] == "bias" ? "_bias" : "")
    expert = number
  }

  /// What an expert's part of a stack is called.
  static func name(_ block: String, _ leaf: String, isBias: Bool, _ expert: Int) -> ByteName {
    ByteName("\(block).\(expert).\(leaf).\(isBias ? "bias" : "weight")")
  }
}

// MARK: - Reading

extension Checkpoint {
  /// Takes the experts apart that files of the family stack.
  ///
  /// - Throws: `.badInput` for parameters that are there by themselves, too
  mutating func unstackExperts() throws {
    guard let leaves = family?.stackedExperts, !leaves.isEmpty else { return }
    var (rest, made): ([StoredTensor], [StoredTensor]) = ([], [])
    for tensor in tensors {
      if let own = tensor.experts(leaves) { made += own } else { rest.append(tensor) }
    }
    let names = Set(rest.map(\.name))
    if let twice = made.first(where: { names.contains($0.name) }) {
      throw NibbleError.badInput("\(twice.place): the same parameter is there in a stack, too")
    }
    tensors = rest + made
  }
}

extension StoredTensor {
  /// The parts of a stack; nil for other tensors.
  package func experts(_ leaves: [String]) -> [StoredTensor]? {
    let parts = name.text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count > 1, parts[parts.count - 2] == "experts", !isPacked, sections.count == 1, let section = sections.first,
      section.compression == .none, section.order == nil, case .file(let file, let offset) = section.source, let last = parts.last
    else { return nil }
    let isBias = last.hasSuffix("_bias"), leaf = String(isBias ? last.dropLast("_bias".count) : last)
    guard leaves.contains(leaf), shape.count == (isBias ? 2 : 3), let count = shape.first, (1...ExpertPlace.most).contains(count), self.count > 0
    else { return nil }
    let block = parts.dropLast().joined(separator: "."), bytes = section.plainLength / count
    return (0..<count).map { expert in
      StoredTensor(
        ExpertPlace.name(block, leaf, isBias: isBias, expert), dtype, Array(shape.dropFirst()),
        sections: [StoredSection(.data, in: file, at: offset + expert * bytes, count: bytes)])
    }
  }
}

// MARK: - Writing

/// What of a job's output is stacked again: parameters that every expert of a layer has, plain and of one shape.
struct ExpertStacks: Sendable {
  private var parts: [ByteName: SafetensorsLayout.Stack] = [:]

  init(_ targets: [TensorTarget], _ family: ModelFamily?) {
    guard let leaves = family?.stackedExperts, !leaves.isEmpty else { return }
    var members: [String: [(place: ExpertPlace, target: TensorTarget)]] = [:]
    for target in targets {
      guard let place = ExpertPlace(target.name.text, leaves) else { continue }
      members[place.stack, default: []].append((place, target))
    }
    for (stack, all) in members {
      guard Set(all.map(\.place.expert)) == Set(0..<all.count), let first = all.first?.target,
        all.allSatisfy({ $0.target.encoding.isPlain && !$0.target.isTransposed && $0.target.dtype == first.dtype && $0.target.shape == first.shape })
      else { continue }
      for (place, target) in all { parts[target.name] = .init(block: place.block, name: ByteName(stack), index: place.expert, count: all.count) }
    }
  }

  /// The entries of a tensor, marked where they are part of a stack.
  func marked(_ entries: [SafetensorsLayout.Entry], _ name: ByteName) -> [SafetensorsLayout.Entry] {
    guard let stack = parts[name], entries.count == 1 else { return entries }
    var entry = entries[0]
    entry.stack = stack
    return [entry]
  }
}

extension StreamJob {
  /// The same with experts in the order of their numbers: the parts of a stack are written one after another.
  func withExpertsInOrder() -> StreamJob {
    guard let leaves = source.family?.stackedExperts, !leaves.isEmpty else { return self }
    func key(_ item: Item) -> (ByteName, Int, ByteName) {
      guard let place = ExpertPlace(item.target.name.text, leaves) else { return (item.target.name, 0, item.target.name) }
      return (ByteName(place.block + "."), place.expert, item.target.name)
    }
    var job = self
    let keyed = items.map { (key($0), $0) }
    job.items = keyed.sorted { $0.0 < $1.0 }.map(\.1)
    return job
  }
}
