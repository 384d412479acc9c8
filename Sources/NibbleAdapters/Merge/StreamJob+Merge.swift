import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

extension StreamJob {
  /// A job that writes `base` with adapters merged into it.
  ///
  /// - Parameter check: compares the output with the base and its adapters before it becomes visible
  /// - Throws: `.adapterMismatch` for adapters that do not fit, `.quality` for factors that are not finite, `.usage`, `.badInput`
  public static func merge(
    _ given: Checkpoint, _ options: MergeOptions, to output: OutputSpec, check: MergeCheck? = nil
  ) throws -> StreamJob {
    if let least = options.minimumSurvival, !(0...1).contains(least) {
      throw NibbleError.usage("\(.minSurvival, least) is not a share from 0 to 1")
    }
    var options = options
    let base: Checkpoint
    (base, options.adapters) = try given.fitted(to: options.adapters)
    var job = try unmerged(base, options, to: output)
    job.origin = nil
    var merges = MergePlan(base)
    for one in options.adapters {
      try base.checkHead(one.adapter)
      try merges.add(one)
      job.warnings += try one.adapter.warnings + one.adapter.targetWarnings(base)
    }
    if !options.method.isSum { try job.warnings += merges.combine(options) }
    for (index, replacement) in merges.replacements {
      job.items[index].replacement = replacement.tensor
      job.items[index].target.becomesNew()
      if replacement.tensor.shape != base.tensors[index].logicalShape { job.items[index].target.shape = replacement.tensor.shape }
    }
    try merges.checkTogether()
    for (index, rows) in merges.tokenRows {
      job.items[index].target.becomesNew()
      job.items[index].change = { rows }
    }
    for (index, vector) in merges.vectors { job.items[index].change = { vector } }
    for (index, merging) in merges.matrices.sorted(by: { $0.key < $1.key }) {
      job.items[index].target.becomesNew()
      let item = job.items[index]
      guard item.target.dtype != .f64 else {
        throw NibbleError.usage("\(tensor: item.source.name.text) is F64, which is not merged into; give \(.dtype)")
      }
      let rows = merges.tokenRows[index]
      if rows == nil { try merging.checkMoves(item) }
      job.items[index].change = {
        guard var rows else { return try merging.change(item) }
        rows.factors = try merging.change(item)
        return rows
      }
    }
    // Mapped, and once more as the factors in hand.
    job.changing.memory = options.adapters.reduce(0) { $0 + $1.adapter.mapped.checkpoint.storedBytes * 5 / 4 }
    job.otherInputs += options.adapters.flatMap { $0.adapter.mapped.checkpoint.files }
    if let check {
      let plan = merges
      job.beforePublishing = { path in
        try check.run(base, plan, written: path, as: output.path)
        return []
      }
    }
    let minimum = options.minimumSurvival
    job.changing.minimumSurvival = { $0.encoding.isPlain ? minimum : minimum ?? 0.5 }
    let adapters = try options.adapters.map { (identity: try $0.adapter.identity(), weight: $0.weight) }
    let card = MergeCard(
      commandLine: options.commandLine, baseName: options.adapters.first?.adapter.config.baseName, adapters: adapters)
    job.card = { card.text($0) }
    let parts = adapters.map { one -> JSON in
      ["identity": JSON(one.identity.description), "weight": JSON(one.weight), "method": JSON(options.method.rawValue)]
    }
    job.changing.ingredients = .array(
      options.adapters.map { .array([$0.adapter.config.json, JSON($0.weight)]) }
        + adapters.map { JSON($0.identity.description) }
        + [JSON(options.method.rawValue), options.svdRank.map { JSON($0) } ?? .null])
    let settings: JSON = options.packing.provenance
    let isPacking = !base.keepsCodes(in: output.format) && output.format.holdsCodes && !output.format.choosesTypes
    let encoder = base.packed.contains { $0.encoding.kind.hasOffsets } ? job.offsets.text : job.encoder.rawValue
    job.provenance = { identity in
      var record: JSON = [
        "tool": JSON("nibble " + nibbleVersion), "verb": "merge", "source": JSON(identity.description),
        "adapters": .array(parts),
      ]
      if isPacking {
        record = record.setting("options", to: settings)
      } else if encoder != StreamJob.Encoder.absmax.rawValue {
        record = record.setting("options", to: ["encoder": JSON(encoder)])
      }
      return record
    }
    return job
  }

  /// A job that takes adapters out of a merged model again. What rounding took stays gone: `StreamReport.originalDistance` tells how
  /// much that can be.
  ///
  /// - Throws: `.usage` for packed models, methods that scale outputs, and parameters trained whole, which cannot be taken out
  public static func unmerge(_ merged: Checkpoint, _ adapters: [MergeOptions.Weighted], to output: OutputSpec) throws -> StreamJob
  {
    if let packed = merged.packed.first {
      throw NibbleError.usage(
        "\(path: merged.path): \(tensor: packed.name.text) is packed: what its codes were before is not to be had from them")
    }
    for one in adapters {
      if !one.adapter.config.method.isSum {
        throw NibbleError.usage(
          "\(path: one.adapter.path) is a \(one.adapter.config.method.name) adapter, which cannot be taken out")
      }
      if !one.adapter.config.layerReplication.isEmpty {
        throw NibbleError.usage("\(path: one.adapter.path) was merged into layers that are repeated; they are not taken out again")
      }
      if let rows = one.adapter.tokenRows.first {
        throw NibbleError.usage(
          "\(path: one.adapter.path) replaced rows of \(subject: rows.path); what they were is not in the merged model")
      }
      if let first = one.adapter.replacements.first {
        throw NibbleError.usage(
          "\(path: one.adapter.path) replaced \(subject: first.name) whole; what it was is not in the merged model")
      }
    }
    let options = MergeOptions(adapters.map { .init($0.adapter, weight: -$0.weight) })
    var job = try merge(merged, options, to: output)
    job.card = nil
    let record = job.provenance
    job.provenance = { record($0)?.setting("verb", to: "unmerge") }
    return job
  }

  /// The same output without any adapter.
  static func unmerged(_ base: Checkpoint, _ options: MergeOptions, to output: OutputSpec) throws -> StreamJob {
    if output.format.choosesTypes {
      guard options.dtype == nil else { throw NibbleError.usage("\(.dtype) is for plain safetensors; \(output.format.rawValue) has \(.ggufType)") }
      var job = try convert(base, to: output)
      guard job.items.count == base.tensors.count, !job.items.contains(where: { $0.whole != nil }) else {
        throw NibbleError.usage(
          "\(path: base.path): \(output.format.rawValue) files hold some of its parameters in parts that adapters do not change one by one; merge into safetensors, and convert those")
      }
      (job.provenance, job.refusesNonfinite) = ({ _ in nil }, true)
      return job
    }
    if !output.format.holdsCodes {
      var job = try dequantize(base, dtype: options.dtype, to: output)
      job.warnings = base.warnings
      return job
    }
    guard options.dtype == nil else {
      throw NibbleError.usage("\(.dtype) is for plain safetensors; \(output.format.rawValue) keeps the types tensors have")
    }
    let keepsCodes = base.keepsCodes(in: output.format)
    var job = keepsCodes ? try convert(base, to: output) : try quantize(base, options.packing, to: output)
    job.rules = options.packing.bnbRules
    if keepsCodes {
      job.encoder = options.packing.encoder ?? base.encoder
      job.offsets = base.offsets ?? job.offsets
      try job.take(offsets: options.packing.offsets)
      if let asked = options.packing.encoder, asked != .absmax, !base.packed.contains(where: \.encoding.kind.searchesScales) {
        job.warnings.append(unusedEncoder(asked.rawValue))
      }
    }
    job.refusesNonfinite = true
    return job
  }
}

extension AdapterFile {
  /// The content identity of its tensors.
  public func identity() throws -> Digest128 { try mapped.checkpoint.verify(threads: 1).identity }
}
