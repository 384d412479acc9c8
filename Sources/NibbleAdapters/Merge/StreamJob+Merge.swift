import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// How to merge adapters into a base.
public struct MergeOptions: Sendable {
  /// An adapter and how much of it.
  public struct Weighted: Sendable {
    public let adapter: AdapterFile
    public let weight: Double

    public init(_ adapter: AdapterFile, weight: Double = 1) {
      self.adapter = adapter
      self.weight = weight
    }
  }

  /// What several adapters become together.
  public enum Method: String, Sendable, CaseIterable {
    /// The exact sum of the weighted deltas.
    case sum
    /// The same, by the name PEFT has for it.
    case cat
    /// PEFT's combination of factors, for those who must reproduce it: not the sum of the deltas.
    case linear
  }

  /// What is merged.
  public var adapters: [Weighted]
  /// How they are put together.
  public var method = Method.sum
  /// For every float tensor of a plain output; nil for the type each one had.
  public var dtype: DType?
  /// How tensors of a plain base are packed, where the output is.
  public var packing = QuantizeOptions()
  /// What is written into a folder's model card as the way it was made.
  public var commandLine: String?
  /// The least share of its change a tensor may keep. Where it is nil, 0.5 for packed tensors, and others are only warned about.
  public var minimumSurvival: Double?

  /// The sum of `adapters`, in the base's own types.
  public init(_ adapters: [Weighted]) { self.adapters = adapters }
}

extension StreamJob {
  /// A job that writes `base` with adapters merged into it.
  ///
  /// - Parameter check: compares the output with the base and its adapters before it becomes visible
  /// - Throws: `.adapterMismatch` for adapters that do not fit, `.quality` for factors that are not finite, `.usage`, `.badInput`
  public static func merge(
    _ base: Checkpoint, _ options: MergeOptions, to output: OutputSpec, check: MergeCheck? = nil
  ) throws -> StreamJob {
    let base = try untiedIfNeeded(base, options)
    var job = try unmerged(base, options, to: output)
    var merges = MergePlan(base)
    for one in options.adapters { try merges.add(one) }
    if options.method == .linear { try job.warnings += merges.combineLinearly() }
    for (index, replacement) in merges.replacements {
      job.items[index].replacement = replacement.tensor
      job.items[index].target.becomesNew()
    }
    for (index, vector) in merges.vectors { job.items[index].change = { VectorChange(values: vector) } }
    for (index, merging) in merges.matrices {
      job.items[index].target.becomesNew()
      let item = job.items[index]
      guard item.target.dtype != .f64 else {
        throw NibbleError.usage("tensor \(quoted(item.source.name.text)) is F64, which is not merged into; give --dtype")
      }
      job.items[index].change = { try merging.change(item) }
    }
    job.otherInputs = options.adapters.flatMap { $0.adapter.mapped.checkpoint.files }
    if let check {
      let plan = merges
      job.beforePublishing = { path in
        try check.run(base, plan, written: path)
        return []
      }
    }
    let minimum = options.minimumSurvival
    job.minimumSurvival = { $0.encoding == .plain ? minimum : minimum ?? 0.5 }
    let adapters = try options.adapters.map { one -> JSON in
      [
        "identity": JSON(try one.adapter.identity().description), "weight": JSON(one.weight),
        "method": JSON(options.method.rawValue),
      ]
    }
    let card = MergeCard(
      commandLine: options.commandLine, baseName: options.adapters.first?.adapter.config.baseName,
      adapters: try options.adapters.map { ($0.adapter.config.baseName, try $0.adapter.identity(), $0.weight) })
    job.card = { card.text($0) }
    let settings: JSON = options.packing.provenance
    let isPacking = base.packed.isEmpty && output.format != .safetensors
    job.provenance = { identity in
      var record: JSON = [
        "tool": JSON("nibble " + nibbleVersion), "verb": "merge", "source": JSON(identity.description),
        "adapters": .array(adapters),
      ]
      if isPacking { record = record.setting("options", to: settings) }
      return record
    }
    return job
  }

  /// A job that takes adapters out of a merged model again. What rounding took stays gone: `StreamReport.originalDistance` tells how
  /// much that can be.
  ///
  /// - Throws: `.usage` for packed models, DoRA and parameters trained whole, which cannot be taken out
  public static func unmerge(_ merged: Checkpoint, _ adapters: [MergeOptions.Weighted], to output: OutputSpec) throws -> StreamJob
  {
    if let packed = merged.packed.first {
      throw NibbleError.usage(
        "\(merged.path): tensor \(quoted(packed.name.text)) is packed: what its codes were before is not to be had from them")
    }
    for one in adapters {
      if one.adapter.config.isDoRA { throw NibbleError.usage("\(one.adapter.path) is a DoRA adapter, which cannot be taken out") }
      if let first = one.adapter.replacements.first {
        throw NibbleError.usage(
          "\(one.adapter.path) replaced \(quoted(first.name)) whole; what it was is not in the merged model")
      }
    }
    let options = MergeOptions(adapters.map { .init($0.adapter, weight: -$0.weight) })
    var job = try merge(merged, options, to: output)
    job.card = nil
    let record = job.provenance
    job.provenance = { record($0)?.setting("verb", to: "unmerge") }
    return job
  }

  /// An adapter of the embedding alone, or of the head alone, leaves the other as it was.
  private static func untiedIfNeeded(_ base: Checkpoint, _ options: MergeOptions) throws -> Checkpoint {
    guard let embedding = base.tiedEmbedding else { return base }
    let name = ModuleNames([String(embedding.name.text.dropLast(".weight".count))])
    let isApart = options.adapters.contains { one in
      one.adapter.modules.contains { $0.path == "lm_head" || name.index(of: $0.path) != nil }
        || one.adapter.replacements.contains { $0.name == "lm_head.weight" }
    }
    return isApart ? base.untied() : base
  }

  /// The same output without any adapter.
  private static func unmerged(_ base: Checkpoint, _ options: MergeOptions, to output: OutputSpec) throws -> StreamJob {
    if output.format == .safetensors {
      var job = try dequantize(base, dtype: options.dtype, to: output)
      job.warnings = base.warnings
      return job
    }
    guard options.dtype == nil else {
      throw NibbleError.usage("--dtype is for plain safetensors; \(output.format.rawValue) keeps the types tensors have")
    }
    var job = base.packed.isEmpty ? try quantize(base, options.packing, to: output) : try convert(base, to: output)
    job.rules = options.packing.bnbRules
    job.refusesNonfinite = true
    return job
  }
}

/// Which tensors of a base get what from which adapter.
struct MergePlan: @unchecked Sendable {
  private let base: Checkpoint
  private let modules: ModuleNames
  private let moduleTensors: [Int]
  private let parameters: ModuleNames
  /// By the index of the base's tensor.
  var matrices: [Int: Merging] = [:]
  var vectors: [Int: FloatStore] = [:]
  var replacements: [Int: (tensor: StoredTensor, file: AdapterFile)] = [:]

  init(_ base: Checkpoint) {
    self.base = base
    let ending = ".weight"
    moduleTensors = base.tensors.indices.filter {
      base.tensors[$0].name.text.hasSuffix(ending) && base.tensors[$0].shape.count >= 2
    }
    modules = ModuleNames(moduleTensors.map { [base] in String(base.tensors[$0].name.text.dropLast(ending.count)) })
    parameters = ModuleNames(base.tensors.map(\.name.text))
  }

  /// Lets factors be combined as PEFT's `linear` does.
  ///
  /// - Returns: a warning that tells how far that is from the sum of the deltas
  mutating func combineLinearly() throws -> [String] {
    var worst = (name: "", error: 0.0)
    for (index, merging) in matrices.sorted(by: { $0.key < $1.key }) {
      guard let first = merging.parts.first else { continue }
      let name = base.tensors[index].name.text
      guard merging.parts.allSatisfy({ $0.module.rank == first.module.rank }) else {
        throw NibbleError.usage(
          "--method linear: the adapters of \(quoted(name)) have ranks \(merging.parts.map(\.module.rank)); they must be equal")
      }
      if let other = merging.parts.first(where: {
        $0.module.magnitude != nil || $0.file.config.isRankStabilized || $0.module.bias != nil
      }) {
        throw NibbleError.usage(
          "--method linear: \(other.file.path) uses DoRA, rsLoRA or lora_bias, which PEFT's combination is not made for")
      }
      matrices[index]?.isLinear = true
      let error = try matrices[index]?.linearError() ?? 0
      if error > worst.error { worst = (name, error) }
    }
    guard worst.error > 1e-6 else { return [] }
    return [
      "PEFT's linear combination is not the sum of the deltas: it is up to \(decimal(100 * worst.error, 1)) % of the sum away, in \(quoted(worst.name))"
    ]
  }

  mutating func add(_ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    try file.checkEverythingMatches(modules, parameters, of: base.path)
    for (name, tensor) in file.replacements { try replace(name, tensor, one) }
    for module in file.modules {
      guard let found = modules.index(of: module.path) else { continue }
      let index = moduleTensors[found]
      try add(module, to: index, one)
      if let bias = module.bias { try add(bias, of: module, one) }
    }
  }

  private mutating func add(_ module: AdapterFile.AdaptedModule, to index: Int, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    let tensor = base.tensors[index]
    let (inputs, outputs) = (module.inputs, module.outputs)
    let isConv1D = base.family.map { $0.isConv1D(tensor.name.text) } ?? (file.config.json["fan_in_fan_out"]?.bool ?? false)
    let isInputsFirst = module.isEmbedding || (isConv1D && !module.isConvolution)
    let shape = tensor.logicalShape
    if module.isConvolution, shape.count == 4, shape[0] == outputs, shape[2...] == module.a.shape[2...],
      shape[1] < module.a.shape[1]
    {
      throw file.mismatch(
        module.path,
        "is a grouped convolution: its factors see all \(module.a.shape[1]) channels and their sum with \(shape) is none")
    }
    guard
      shape == (module.isConvolution ? [outputs] + module.a.shape[1...] : isInputsFirst ? [inputs, outputs] : [outputs, inputs])
    else {
      throw file.mismatch(
        module.path, "has factors of shapes \(module.a.shape) and \(module.b.shape), the base's weight has the shape \(shape)")
    }
    guard tensor.dtype.isFloat else {
      throw file.mismatch(module.path, "is of \(tensor.dtype.rawValue), which is not merged into")
    }
    for part in [module.a, module.b, module.magnitude, module.bias].compactMap({ $0 }) { try file.checkFinite(part) }
    if let magnitude = module.magnitude, magnitude.count != outputs {
      throw file.mismatch(module.path, "has magnitudes of shape \(magnitude.shape)")
    }
    matrices[index, default: Merging()].isInputsFirst = isInputsFirst
    matrices[index]?.parts.append(.init(file: file, module: module, weight: one.weight))
  }

  private mutating func add(_ bias: StoredTensor, of module: AdapterFile.AdaptedModule, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    guard let index = parameters.index(of: module.path + ".bias") else {
      throw file.mismatch(module.path, "has a bias for its second factor, and the base has none to merge it into")
    }
    guard base.tensors[index].shape == bias.shape else { throw file.mismatch(module.path, "has a bias of shape \(bias.shape)") }
    let sum = vectors[index] ?? FloatStore([Float](repeating: 0, count: bias.count))
    for (at, value) in try file.mapped.floats(bias).enumerated() {
      sum.start[at] += Float(one.weight * module.scale * Double(value))
    }
    vectors[index] = sum
  }

  private mutating func replace(_ name: String, _ tensor: StoredTensor, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    guard let index = parameters.index(of: name) else { return }
    let own = base.tensors[index]
    guard tensor.shape == own.logicalShape else {
      throw NibbleError(
        .adapterMismatch,
        "\(file.path): tensor \(quoted(tensor.name.text)) has shape \(tensor.shape), the base's \(own.logicalShape)")
    }
    try file.checkFinite(tensor)
    guard one.weight == 1 else {
      throw NibbleError.usage("\(file.path) replaces \(quoted(own.name.text)) whole and can only be merged with weight 1")
    }
    if let other = replacements[index] {
      throw NibbleError.usage("\(other.file.path) and \(file.path) both replace \(quoted(own.name.text)); merge one of them")
    }
    replacements[index] = (tensor, file)
  }
}

extension AdapterFile {
  /// The content identity of its tensors.
  public func identity() throws -> Digest128 { try mapped.checkpoint.verify(threads: 1).identity }
}
