import NibbleCore
import NibbleFormats

// transformers stacks the experts of a layer into parameters [experts, outputs, inputs], of which `gate_up_proj` has gate and up one below
// the other, and PEFT has factors of those (`target_parameters`): A [experts · rank, inputs], the rows of one expert after those of another,
// and B [outputs, rank · experts], where each rank has a column for every expert. The change of expert e is B_e · A_e: to files, which hold
// experts one by one, these are factors of each expert's matrices, and gate and up have the same A.

/// A stacked parameter of experts.
private enum Stacked: String, CaseIterable {
  case gateUp = "gate_up_proj"
  case down = "down_proj"

  /// The matrices of an expert that it holds.
  var matrices: [String] { self == .gateUp ? ["gate_proj", "up_proj"] : ["down_proj"] }

  /// Whether it holds an expert's matrix of that name: one of its own, or all of them in one.
  func holds(_ leaf: String) -> Bool { leaf == rawValue || matrices.contains(leaf) }
}

extension AdapterConfig {
  /// The stacked parameter that holds the matrix of an expert at `path`, if factors of that parameter are configured.
  func stackedParameter(of path: String) -> String? {
    let parts = path.split(separator: ".").map(String.init)
    guard parts.count > 3, parts[parts.count - 3] == "experts", Int(parts[parts.count - 2]) != nil,
      let stacked = Stacked.allCases.first(where: { $0.holds(parts[parts.count - 1]) })
    else { return nil }
    let full = (parts.dropLast(2) + [stacked.rawValue]).joined(separator: ".")
    return targetParameters.contains { full == $0 || full.hasSuffix("." + $0) } ? full : nil
  }

  /// Whether the last part of a `target_parameters` entry is a stacked parameter's name.
  static func isStacked(_ name: Substring) -> Bool { Stacked(rawValue: String(name)) != nil }
}

extension AdapterFile {
  /// The first module whose factors are those of stacked experts: gate and up have one factor between them, which is not trained here.
  package var stackedModule: String? { modules.first { config.stackedParameter(of: $0.path) != nil }?.path }

  /// The same for the experts of `base`: gate and up are one matrix where its files stack them, and biases of experts are by themselves.
  ///
  /// - Throws: `.adapterMismatch` for stacks of other experts
  package func fittingExperts(of base: Checkpoint) throws -> AdapterFile {
    try checkExperts(of: base)
    guard let leaves = base.family?.stackedExperts, !leaves.isEmpty else { return self }
    var file = self
    file.replacements = replacements.flatMap { name, tensor -> [(name: String, tensor: StoredTensor)] in
      var named = tensor
      named.name = ByteName(name)
      return named.experts(leaves)?.map { ($0.name.text, $0) } ?? [(name, tensor)]
    }
    let (gate, up) = (Stacked.gateUp.matrices[0], Stacked.gateUp.matrices[1])
    let ups = Dictionary(modules.filter { $0.isOfStack && $0.path.hasSuffix("." + up) }.map { ($0.path, $0) }) { first, _ in first }
    var (rest, fused): ([AdaptedModule], [(path: String, parts: [String: StoredTensor])]) = ([], [])
    for module in modules {
      guard module.isOfStack, module.path.hasSuffix("." + gate), leaves.contains(Stacked.gateUp.rawValue) else {
        if ups[module.path] == nil || !leaves.contains(Stacked.gateUp.rawValue) { rest.append(module) }
        continue
      }
      let expert = String(module.path.dropLast(gate.count))
      guard let a = module.parts[LoRA.first], let first = module.parts[LoRA.second], let second = ups[expert + up]?.parts[LoRA.second] else {
        throw mismatch(module.path, "lacks a factor")
      }
      // Rows of the one matrix as the stack has them.
      let values = try mapped.floats(first) + mapped.floats(second), path = expert + Stacked.gateUp.rawValue
      let b = Self.factor(path, LoRA.second, [first.shape[0] + second.shape[0], first.shape[1]], values)
      fused.append((path, [LoRA.first: a, LoRA.second: b]))
    }
    try file.hold(fused.compactMap { $0.parts[LoRA.second] })
    if base.family?.turnsExpertFactors == true {
      fused += rest.filter(\.isOfStack).map { ($0.path, $0.parts) }
      rest.removeAll { $0.isOfStack }
      fused = try fused.map { ($0.path, try file.turned($0.path, $0.parts)) }
      try file.hold(fused.flatMap(\.parts.values))
    }
    file.modules = try (rest + fused.map { try file.module($0.path, $0.parts, isEmbedding: false) }).sorted { ByteName($0.path) < ByteName($1.path) }
    return file
  }

  /// Factors of a matrix as those of the matrix turned: PEFT takes all stacks for [experts, outputs, inputs] where transformers does not tell it.
  private func turned(_ path: String, _ parts: [String: StoredTensor]) throws -> [String: StoredTensor] {
    guard let a = parts[LoRA.first], let b = parts[LoRA.second], a.shape.count == 2, b.shape.count == 2 else { throw mismatch(path, "lacks a factor") }
    func turn(_ tensor: StoredTensor, _ part: String) throws -> StoredTensor {
      let values = try mapped.floats(tensor), (rows, columns) = (tensor.shape[0], tensor.shape[1])
      return Self.factor(path, part, [columns, rows], (0..<values.count).map { values[$0 % rows * columns + $0 / rows] })
    }
    return [LoRA.first: try turn(b, LoRA.first), LoRA.second: try turn(a, LoRA.second)]
  }

  private static func factor(_ module: String, _ part: String, _ shape: [Int], _ values: [Float]) -> StoredTensor {
    StoredTensor(
      ByteName("\(prefix)\(module).\(part).weight"), .f32, shape, sections: [StoredSection(.data, bytes: values.withUnsafeBytes { [UInt8]($0) })])
  }

  /// Throws unless its stacks are of as many experts as the layers of `base` have.
  func checkExperts(of base: Checkpoint) throws {
    let own = modules.compactMap { module -> Int? in
      guard config.stackedParameter(of: module.path) != nil else { return nil }
      let parts = module.path.split(separator: ".")
      return parts.count > 1 ? Int(parts[parts.count - 2]).flatMap { $0 < Self.mostExperts ? $0 : nil } : nil
    }.max().map { $0 + 1 }
    guard let own, let config = base.networkConfig,
      let count = (config["num_local_experts"] ?? config["num_experts"] ?? config["n_routed_experts"])?.int, own != count else { return }
    throw NibbleError(.adapterMismatch, "\(path: path) has factors of \(own) stacked experts, the layers of \(path: base.path) have \(count)")
  }

  /// Experts of a layer, more than any model has: each takes memory beside its numbers.
  private static let mostExperts = 1 << 12
  /// What PEFT calls the inner one of two modules that adapt parameters of one module.
  private static let inner = ".base_layer"

  /// Replaces factors of stacked experts by those of each expert's matrices.
  ///
  /// - Throws: `.adapterMismatch` for shapes that do not belong together
  mutating func unstack(_ parts: inout [ByteName: [String: StoredTensor]]) throws {
    guard config.targetParameters.contains(where: { $0.split(separator: ".").last.map(AdapterConfig.isStacked) ?? false }) else { return }
    let all = parts
    for name in all.keys.sorted() {
      guard let stacked = stacked(name.text, all) else { continue }
      guard let found = parts.removeValue(forKey: name), found.count == 2, let a = found[LoRA.first], let b = found[LoRA.second] else {
        throw mismatch(name.text, "lacks a factor, or has more than two")
      }
      let path = name.text.hasSuffix(Self.inner) ? String(name.text.dropLast(Self.inner.count)) : name.text
      try unstack(stacked, path, a, b, &parts)
    }
  }

  /// The parameter whose factors lie at `path`. Of two, gate and up are wrapped first.
  private func stacked(_ path: String, _ parts: [ByteName: [String: StoredTensor]]) -> Stacked? {
    guard !path.hasSuffix(".experts" + Self.inner) else { return .gateUp }
    guard path.hasSuffix(".experts") else { return nil }
    if parts[ByteName(path + Self.inner)] != nil { return .down }
    return Stacked.allCases.first { config.parameter($0.rawValue, isOf: path) }
  }

  private mutating func unstack(
    _ stacked: Stacked, _ path: String, _ a: StoredTensor, _ b: StoredTensor, _ parts: inout [ByteName: [String: StoredTensor]]
  ) throws {
    let rank = try config.rank(ofParameter: path + "." + stacked.rawValue)
    guard a.shape.count == 2, b.shape.count == 2, b.shape[1] == a.shape[0], rank > 0, a.shape[0] > 0, a.shape[0] % rank == 0,
      a.shape[0] / rank <= Self.mostExperts
    else { throw mismatch(path, "has factors of shapes \(a.shape) and \(b.shape), which are none of stacked experts with rank \(rank)") }
    let (count, inputs, rows, matrices) = (a.shape[0] / rank, a.shape[1], b.shape[0], stacked.matrices.count)
    try checkFinite(a)
    try checkFinite(b)
    let first = try mapped.floats(a), second = try mapped.floats(b)
    var made: [StoredTensor] = []
    for expert in 0..<count {
      let own = Array(first[expert * rank * inputs..<(expert + 1) * rank * inputs])
      for (number, leaf) in stacked.matrices.enumerated() {
        let module = "\(path).\(expert).\(leaf)"
        var columns: [Float] = []
        let outputs = number * rows / matrices..<(number + 1) * rows / matrices
        columns.reserveCapacity(outputs.count * rank)
        for row in outputs {
          for place in 0..<rank { columns.append(second[(row * rank + place) * count + expert]) }
        }
        let pair = [
          LoRA.first: Self.factor(module, "lora_A", [rank, inputs], own), LoRA.second: Self.factor(module, "lora_B", [outputs.count, rank], columns),
        ]
        guard parts.updateValue(pair, forKey: ByteName(module)) == nil else {
          throw mismatch(module, "is adapted by itself and in a stack")
        }
        made += pair.values
      }
    }
    try hold(made)
  }
}
