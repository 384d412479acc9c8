import NibbleCore
import NibbleFormats

/// llama.cpp's adapters: a GGUF file with `general.type` adapter, `adapter.type` lora, one `adapter.lora.alpha`, and for each module
/// `T.weight.lora_a` [rank, inputs] and `T.weight.lora_b` [outputs, rank], T the name llama.cpp has for the base's tensor. The scale is
/// alpha / rank, the rank each module's own.
struct GGUFLayout {
  private let names: LlamaCppNames
  private let base: Checkpoint

  /// - Throws: `.usage` for bases whose names llama.cpp has others for, that are not known here
  init(_ base: Checkpoint) throws {
    self.base = base
    guard let names = base.llamaCpp, names.takesAdapters else {
      let known = LlamaCppNames.all.filter(\.takesAdapters)
      throw NibbleError.usage(
        "\(path: base.path): llama.cpp's names are known for \(known.flatMap(\.modelTypes).sorted().joined(separator: ", ")), not for model_type \(base.modelType.map(quoted) ?? "none")"
      )
    }
    self.names = names
  }

  /// Where llama.cpp has the rows of `name`: entry i is the row that comes to place i; nil where all stay.
  ///
  /// - Parameter place: for messages
  private func order(_ name: String, rows: Int, of place: String) throws -> [Int]? {
    let form: LlamaCppForm
    do { form = try names.form(name + ".weight", base.networkConfig) } catch let error as NibbleError {
      throw NibbleError(error.kind, "\(path: base.path): \(error.text)")
    }
    guard case .interleaved(let heads) = form else { return nil }
    guard let order = LlamaCppForm.order(rows: rows, heads: heads) else {
      throw NibbleError(
        .adapterMismatch, "\(path: place): \(subject: name) has \(rows) outputs, \(base.path) \(heads) heads there")
    }
    return order
  }

  // MARK: - Writing

  /// - Throws: `.usage` naming what the format cannot say
  func writer(_ contents: AdapterContents) throws -> GgufWriter {
    if let module = contents.modules.first(where: { !$0.isPlain }) {
      throw NibbleError.usage(
        "\(subject: module.path) is adapted by \(module.method.name), which llama.cpp does not have; merge it instead")
    }
    let wanted = contents.commonScale * Double(contents.largestRank)
    let alpha = Float(wanted)
    guard alpha.isFinite, alpha != 0 else { throw NibbleError.usage("an alpha of \(wanted) is beyond what GGUF holds") }
    var tensors: [GgufWriter.Tensor] = []
    for module in contents.modules {
      let path = ModuleNames(allPaths, of: base).index(of: module.path).map { allPaths[$0] } ?? module.path
      guard let name = names.gguf(module: path) else { throw NibbleError.usage("llama.cpp has no adapters for \(quoted(module.path))") }
      if name == "output", base.tiedEmbedding != nil {
        throw NibbleError.usage(
          "\(subject: module.path): llama.cpp has one weight for the head and the embedding of \(base.path)")
      }
      guard module.isEmbedding == (name == "token_embd") else {
        throw NibbleError.usage(
          "\(subject: module.path): llama.cpp would take it for \(module.isEmbedding ? "a linear layer" : "an embedding")")
      }
      let rank = module.factors.rank
      let scaled = { module.scaled(to: Double(alpha) / Double(rank)).factors }
      let order = try order(name, rows: module.outputs, of: module.path)
      tensors.append(
        .init(name + ".weight.lora_a", module.isEmbedding ? [module.inputs, rank] : [rank, module.inputs]) {
          // Rows of the embedding's first factor are looked up.
          module.isEmbedding ? transposed(scaled().a, rows: rank, columns: module.inputs) : scaled().a
        })
      tensors.append(
        .init(name + ".weight.lora_b", [module.outputs, rank]) {
          let own = scaled().b
          return order.map { $0.flatMap { own[$0 * rank..<($0 + 1) * rank] } } ?? own
        })
    }
    var metadata: [(key: String, value: GgufValue)] = [
      ("general.architecture", .text(names.architecture)), ("general.type", .text("adapter")), ("general.file_type", .u32(0)),
      ("adapter.type", .text("lora")), ("adapter.lora.alpha", .f32(alpha)),
    ]
    if let binding = contents.binding { metadata.append((Self.bindingKey, .text(binding.text))) }
    return GgufWriter(metadata, tensors)
  }

  private static let bindingKey = "nibble.adapter"

  private var allPaths: [String] {
    base.modulePaths.map { names.fullPath($0) } + (base.tiedEmbedding == nil ? [] : ["lm_head"])
  }

  // MARK: - Reading

  /// - Throws: `.badInput` for what is malformed or unknown, naming it
  func contents(_ path: String) throws -> AdapterContents {
    let file = try GgufFile(path)
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: path): \(reason)") }
    guard file.text("general.type") == "adapter" else {
      throw fail(
        "\(key: "general.type") is \(quoted(file.text("general.type") ?? "none")): a model, where an adapter was expected")
    }
    guard file.text("adapter.type") == "lora" else {
      throw fail("\(key: "adapter.type") = \(quoted(file.text("adapter.type") ?? "none")) is not read; lora is")
    }
    guard file.text("general.architecture") == names.architecture else {
      throw NibbleError(
        .adapterMismatch,
        "\(path: path): for a base of the architecture \(quoted(file.text("general.architecture") ?? "none")), \(base.path) is of \(quoted(names.architecture))"
      )
    }
    if let odd = file.metadata.keys.sorted().first(where: {
      $0.hasPrefix("adapter.") && !["adapter.type", "adapter.lora.alpha"].contains($0)
    }) {
      throw fail("\(subject: odd) is not implemented")
    }
    let key = "adapter.lora.alpha"
    guard let alpha = file.metadata[key] == nil ? 0 : file.number(key), alpha.isFinite else {
      throw fail("\(key: key) is no finite number")
    }
    var contents = AdapterContents()
    let tensors = Dictionary(file.tensors.map { (ByteName($0.name), $0) }) { first, _ in first }
    var used = 0
    for a in file.tensors where a.name.hasSuffix(".weight.lora_a") {
      let name = String(a.name.dropLast(".weight.lora_a".count))
      guard let module = names.huggingFace(module: name).map({ names.part?.whole($0) ?? $0 }) else {
        throw fail("\(tensor: a.name) is for no module of a \(names.architecture) model")
      }
      guard let b = tensors[ByteName(name + ".weight.lora_b")] else { throw fail("\(tensor: a.name) has no lora_b") }
      let isEmbedding = name == "token_embd"
      guard a.shape.count == 2, b.shape.count == 2, a.shape[isEmbedding ? 1 : 0] == b.shape[1] else {
        throw fail("\(module: name) has factors of shapes \(a.shape) and \(b.shape)")
      }
      let (inputs, rank, outputs) = (a.shape[isEmbedding ? 0 : 1], b.shape[1], b.shape[0])
      let (first, second) = (try file.floats(a), try file.floats(b))
      guard first.allSatisfy(\.isFinite), second.allSatisfy(\.isFinite) else {
        throw NibbleError.quality("\(path: path): the factors of \(subject: name) hold NaN or infinite values")
      }
      var rows = second
      if let order = try order(name, rows: outputs, of: path) {
        for (row, old) in order.enumerated() {
          rows.replaceSubrange(old * rank..<(old + 1) * rank, with: second[row * rank..<(row + 1) * rank])
        }
      }
      contents.modules.append(
        FactoredModule(
          path: module, method: LoRA.self, ModuleShape(isEmbedding ? .embedding : .linear, input: [inputs], outputs: outputs),
          factors: LowRankFactors(
            a: isEmbedding ? transposed(first, rows: inputs, columns: rank) : first, b: rows, rank: rank,
            // Without an alpha llama.cpp scales with nothing.
            scale: alpha == 0 ? 1 : alpha / Double(rank))))
      used += 2
    }
    guard used == file.tensors.count else {
      let odd = file.tensors.first { !$0.name.hasSuffix(".weight.lora_a") && tensors[ByteName($0.name.dropLast(1) + "a")] == nil }
      throw fail("\(tensor: odd?.name ?? "") is no factor of an adapter")
    }
    guard used > 0 else { throw fail("it holds no tensors") }
    contents.modules.sort { ByteName($0.path) < ByteName($1.path) }
    contents.taskType = "CAUSAL_LM"
    contents.baseName = base.path
    contents.binding = try file.text(Self.bindingKey).map { try AdapterBinding(text: $0, place: path) }
    return contents
  }
}
