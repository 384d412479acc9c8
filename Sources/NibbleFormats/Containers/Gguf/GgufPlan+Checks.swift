import NibbleCore
import NibbleQuant

/// What llama.cpp asks of a file as a whole.
extension GgufPlan {
  /// llama.cpp loads whole models only: every layer, and the embedding.
  func checkWhole(_ job: StreamJob, _ numbers: HuggingFaceNumbers, _ llamaCpp: LlamaCppNames) throws {
    let path = job.source.path
    guard names.values.contains("token_embd.weight") else {
      throw NibbleError.usage("\(path: path): there is no embedding; llama.cpp loads whole models only")
    }
    try check(vocabulary: try numbers.whole(["vocab_size"]) ?? 0, job)
    guard llamaCpp.stacks.isEmpty else { return try checkStacks(numbers, llamaCpp) }
    let count = Int(try numbers.needed(["num_hidden_layers", "n_layer", "n_layers"])), further = try numbers.furtherLayers(llamaCpp)
    let dense = try numbers.firstWithExperts() ?? 0
    var tensors: [Int: Int] = [:]
    for name in names.values where name.hasPrefix("blk.") {
      tensors[Int(name.dropFirst(4).prefix { $0 != "." }) ?? -1, default: 0] += 1
    }
    tensors[0]? += llamaCpp.firstLayerLacks.count { name in !names.values.contains("blk.0.\(name).weight") }
    // Layers of a kind have as many tensors; those behind the last may be missing.
    var most: [Bool: Int] = [:]
    let all = Set(names.values)
    func kind(_ layer: Int) -> Bool { llamaCpp.layersDiffer ? all.contains("blk.\(layer).ffn_gate_inp.weight") : layer >= dense }
    for (layer, own) in tensors where layer < count { most[kind(layer)] = max(own, most[kind(layer)] ?? 0) }
    let odd = (0..<min(count, 1 << 16)).first { tensors[$0] == nil || tensors[$0] != most[kind($0)] }
    guard count <= 1 << 16, odd == nil, tensors.keys.allSatisfy({ $0 < count + further }) else {
      throw NibbleError.usage(
        "\(path: path): its configuration says \(count) layers, "
          + (odd.map { "and tensors of layer \($0) are missing" } ?? "and there are tensors of \(tensors.count)") + "; llama.cpp loads whole models only")
    }
  }

  /// llama.cpp loads no embedding that has other rows than there are tokens.
  func check(vocabulary: Int, _ job: StreamJob) throws {
    guard let embedding = job.items.first(where: { names[$0.source.name] == "token_embd.weight" })?.source,
      embedding.logicalShape.first != vocabulary
    else { return }
    throw NibbleError.badInput(
      "\(path: job.source.path): \(tensor: embedding.name.text) has \(embedding.logicalShape.first ?? 0) rows, and there are \(vocabulary) tokens")
  }
}
