import NibbleCore
import NibbleQuant

/// Which of ggml's types each tensor of a model becomes.
struct GgufTypes {
  /// One tensor, and what it may become.
  struct Tensor {
    /// Hugging Face's names: one, or those of all experts that lie in it.
    let names: [ByteName]
    /// llama.cpp's.
    let gguf: String
    /// As it will be, rows first.
    let shape: [Int]
    /// The type of its elements now.
    let dtype: DType
    /// The blocks it is stored as now, where it comes from a GGUF file.
    let blocks: GGMLType?

    var name: ByteName { names[0] }
  }

  private(set) var types: [GGMLType]
  /// llama.cpp's number for what most tensors are.
  let fileType: Int
  /// Tensors whose rows are no whole blocks of what was wanted.
  private(set) var fallbacks: [(tensor: Tensor, wanted: GGMLType, type: GGMLType)] = []

  /// - Throws: `.usage` for names nobody has, rules that match nothing, and types that cannot hold a tensor
  init(_ tensors: [Tensor], _ options: GgufOptions, in model: GgufMix.Model, place: String) throws {
    let shapes = tensors.map { (name: $0.gguf, shape: $0.shape) }
    // What is f32 in every file.
    let isFixed = (GgufMix(name: "f16")?.types(of: shapes, in: model) ?? []).map { $0.type == .f32 }
    func stored(_ index: Int) -> GGMLType { isFixed[index] ? .f32 : tensors[index].blocks ?? GGMLType(tensors[index].dtype) ?? .f32 }
    let first = tensors.indices.first { tensors[$0].shape.count >= 2 }
    var name = options.type?.lowercased()
    if name == GgufOptions.auto { name = first.map { tensors[$0].dtype == .bf16 ? "bf16" : "f16" } ?? "f16" }
    switch name {
    case nil:
      types = tensors.indices.map(stored)
      fileType = GgufMix.all.first { mix in mix.base == first.map(stored) }?.fileType ?? 0
    case "mxfp4":
      types = tensors.indices.map { isFixed[$0] ? .f32 : GgufMix.fitting(.mxfp4, tensors[$0].shape.last ?? 0) }
      fileType = GgufMix(name: "mxfp4_moe")?.fileType ?? 0
    case let name?:
      guard let mix = GgufMix(name: name) else {
        throw NibbleError.usage("\(.ggufType, name) is none of \(GgufOptions.typeNames.joined(separator: ", "))")
      }
      let choices = mix.types(of: shapes, in: model)
      types = choices.map(\.type)
      fileType = mix.fileType
      for (index, choice) in choices.enumerated() where choice.type != choice.wanted {
        fallbacks.append((tensors[index], choice.wanted, choice.type))
      }
    }
    try apply(options.rules, tensors, stored, place)
  }

  private mutating func apply(_ rules: [GgufRule], _ tensors: [Tensor], _ stored: (Int) -> GGMLType, _ place: String) throws {
    var matched = [Bool](repeating: false, count: rules.count)
    for (index, tensor) in tensors.enumerated() {
      var isDecided = false
      for (number, rule) in rules.enumerated() where !isDecided || !matched[number] {
        guard try rule.matches(tensor, place) else { continue }
        matched[number] = true
        guard !isDecided else { continue }
        isDecided = true
        let type = rule.type ?? stored(index)
        if let reason = tensor.refusal(type) {
          throw NibbleError.usage("\(path: place): \(tensor: tensor.name.text) cannot become \(type.name): \(reason)")
        }
        types[index] = type
        fallbacks.removeAll { $0.tensor.gguf == tensor.gguf }
      }
    }
    if let unused = matched.firstIndex(of: false) {
      throw NibbleError.usage("\(path: place): rule \(subject: rules[unused].text) matches none of the \(tensors.count) tensors")
    }
  }
}

extension GgufRule {
  /// - Throws: `.usage` for a rule about some of the experts that lie in one tensor
  fileprivate func matches(_ tensor: GgufTypes.Tensor, _ place: String) throws -> Bool {
    if try pattern.isFound(in: tensor.gguf) { return true }
    let found = try tensor.names.count { try pattern.isFound(in: $0.text) }
    guard found == 0 || found == tensor.names.count else {
      throw NibbleError.usage(
        "\(path: place): rule \(subject: text) is about \(found) of the \(tensor.names.count) experts in \(quoted(tensor.gguf)), which have one type")
    }
    return found > 0
  }
}

extension GgufTypes.Tensor {
  /// Why llama.cpp would not load it as this type; nil if it would.
  fileprivate func refusal(_ type: GGMLType) -> String? {
    guard type != .f32 else { return nil }
    if shape.count < 2 || gguf.hasSuffix("_norm.weight") || !gguf.hasSuffix(".weight") { return "llama.cpp has norms, biases and vectors in f32" }
    return type.dtype == nil ? GGMLBlocks(type).refusal(.f32, shape) : nil
  }
}
