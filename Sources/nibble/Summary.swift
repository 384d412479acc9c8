import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// The account of a job, for people and for programs.
enum Summary {
  /// What a verb adds to the account.
  struct Extra {
    var rows: [(String, String)] = []
    var members: [(key: String, value: JSON)] = []

    static func + (first: Extra, second: Extra) -> Extra {
      Extra(rows: first.rows + second.rows, members: first.members + second.members)
    }

    /// What running a merged model beside its parts showed.
    mutating func add(_ found: MergedModelCheck.Result) {
      rows.append(
        (
          "model check",
          "outputs for \(found.tokens) tokens differ by \(scientific(found.difference)); the likeliest token is the same at \(percent(found.agreement)) of the positions"
        ))
      members += [("model_difference", JSON(found.difference)), ("model_agreement", JSON(found.agreement))]
    }
  }

  /// What comparing a merge with its parts showed.
  static func comparison(_ result: MergeCheck.Result) -> Extra {
    let skipped = result.skipped == 0 ? "" : "; \(result.skipped) others not compared"
    let row =
      result.count == 0
      ? "nothing to compare\(skipped)"
      : "\(result.count) matrices on random inputs: at most \(scientific(result.difference)) off, in \(oneLine(result.name))\(skipped)"
    return Extra(
      rows: [("check", row)],
      members: [
        ("check_difference", JSON(result.difference)), ("check_tensor", JSON(result.name)), ("checked", JSON(result.count)),
        ("not_checked", JSON(result.skipped)),
      ])
  }

  static func printReport(
    _ report: StreamReport, _ job: StreamJob, json: Bool, verb: String, verbose: Bool, extra: Extra = Extra()
  ) throws {
    let use = ResourceUse.now
    if json {
      let document = extra.members.reduce(document(report, job, use, verb)) { $0.setting($1.key, to: $1.value) }
      return try StandardOutput.print(document)
    }
    try printText(report, job, use, verb: verb, verbose: verbose, extra)
  }

  static func percent(_ share: Double) -> String { "\(decimal(100 * share, share < 0.001 ? 4 : 2)) %" }

  /// A share of something to a tenth of a percent: what survives of a change.
  static func share(_ share: Double) -> String { "\(decimal(100 * share, 1)) %" }

  /// The same of a whole change: rounding noise can make it more than 100 %.
  static func survival(_ sums: ChangeSums) -> String { sums.survival >= 0.9995 ? "all" : share(sums.survival) }

  /// How large rounding noise is that a change is lost in.
  static func noise(_ sums: ChangeSums) -> String {
    "which is \(decimal(sums.noiseRatio, 1)) times as large" + (sums.innerNoise == nil ? "" : " on the inputs the adapter uses")
  }

  static func printRows(_ rows: [(String, String)]) throws {
    let width = rows.map(\.0.count).max() ?? 0
    for (label, value) in rows {
      try StandardOutput.print(label + String(repeating: " ", count: width - label.count + 2) + value)
    }
  }

  static func list(_ names: [String], limit: Int = 6) -> String {
    let shown = names.prefix(limit).map(oneLine).joined(separator: ", ")
    return names.count > limit ? "\(shown) and \(names.count - limit) more" : shown
  }

  static func scientific(_ value: Double) -> String {
    value == 0 ? "0" : value >= 0.001 ? decimal(value, 4) : "\(Float(value))"
  }

  private static func document(_ report: StreamReport, _ job: StreamJob, _ use: ResourceUse, _ verb: String) -> JSON {
    [
      "verb": JSON(verb), "output": JSON(job.output.path), "format": JSON(job.output.format.rawValue),
      "bytes_in": JSON(report.bytesIn), "bytes_out": JSON(report.bytesOut), "weights": JSON(report.weights),
      "packed_tensors": JSON(report.packed.count), "packed_weights": JSON(report.packedWeights),
      "plain_tensors": JSON(report.keptCount), "plain_bytes": JSON(report.keptBytes),
      "bits_per_weight_packed": report.packedBitsPerWeight.map { JSON($0) } ?? .null,
      "bits_per_weight": report.bitsPerWeight.map { JSON($0) } ?? .null,
      "relative_error_mean": report.meanError.map { JSON($0) } ?? .null,
      "relative_error_worst": report.worst?.relativeError.map { JSON($0) } ?? .null,
      "relative_error_worst_tensor": JSON(report.worst?.name),
      "compression": report.compressed.map { compressed in
        .object(
          [("method", "zstd"), ("level", JSON(job.output.compression.level))]
            + compressed.parts.map { part in
              (
                part.name.replacing(" ", with: "_"),
                ["plain_bytes": JSON(part.bytes.plain), "stored_bytes": JSON(part.bytes.stored)]
              )
            })
      } ?? .null,
      "zero_blocks": JSON(report.zeroBlocks), "nonfinite": JSON(report.nonfinite),
      "nonfinite_in_source": JSON(report.nonfinite - report.finiteLost), "vanished_groups": JSON(report.underflow.vanished),
      "subnormal_groups": JSON(report.underflow.subnormal),
      "tensors": .array(
        report.packed.map { tensor in
          [
            "name": JSON(tensor.name), "codec": JSON(tensor.encoding.name),
            "block_size": tensor.encoding.parameter("block_size") ?? .null,
            "double_quant": tensor.encoding.parameter("double_quant") ?? false,
            "weights": JSON(tensor.weights), "bytes": JSON(tensor.bytes),
            "relative_error": tensor.relativeError.map { JSON($0) } ?? .null, "zero_blocks": JSON(tensor.zeroBlocks),
          ]
        }),
      "cast": .array(
        report.cast.map {
          [
            "name": JSON($0.name), "from": JSON($0.from.rawValue), "to": JSON($0.to.rawValue),
            "relative_error": JSON($0.relativeError),
          ]
        }),
      "decisions": .array(
        job.decisions.map {
          ["name": JSON($0.tensor.name.text), "choice": JSON($0.choice.name), "reason": JSON($0.reason.rawValue)]
        }),
      "survival": report.changed.isEmpty ? .null : JSON(report.change.survival),
      "survival_worst": report.worstChanged.map { JSON($0.sums.survival) } ?? .null,
      "lost_in_noise": .bool(report.change.isLostInNoise),
      "relative_delta": report.changed.isEmpty ? .null : JSON(report.change.relativeDelta),
      "relative_noise": report.changed.isEmpty ? .null : JSON(report.change.relativeNoise),
      "inner_noise": report.change.innerNoise.map { JSON($0) } ?? .null,
      "survival_worst_tensor": JSON(report.worstChanged?.name),
      "changed": .array(
        report.changed.map {
          [
            "name": JSON($0.name), "survival": JSON($0.sums.survival), "relative_delta": JSON($0.sums.relativeDelta),
            "relative_noise": JSON($0.sums.relativeNoise), "inner_noise": $0.sums.innerNoise.map { JSON($0) } ?? .null,
            "dead": JSON.bool($0.sums.isDead),
            "stored": JSON(coding($0.target.encoding, $0.target.dtype)), "shaped": JSON.bool($0.isShaped),
            "of_outputs": JSON.bool($0.isOfOutputs),
            "moved": JSON.bool($0.isMoved),
          ]
        }),
      "replaced": JSON(report.replaced), "undo": JSON(job.changing.undo), "undo_bytes": report.undo.map { JSON($0.bytes) } ?? .null,
      "resumed_tensors": JSON(report.resumed.tensors), "resumed_bytes": JSON(report.resumed.bytes),
      "not_carried": JSON(report.notCarried), "warnings": JSON(report.warnings),
      "seconds": JSON(report.seconds), "cpu_seconds": JSON(use.userSeconds + use.systemSeconds),
      "gigabytes_per_second": JSON(Double(report.bytesIn) / max(report.seconds, 1e-9) / 1e9),
      "peak_memory": JSON(use.peakBytes), "threads": JSON(job.threads),
      "kernels": JSON(KernelVariant.current.rawValue),
      "identity": JSON(report.identity.description), "source_identity": JSON(report.sourceIdentity.description),
    ]
  }

  static func printPlan(_ job: StreamJob, json: Bool, verb: String, verbose: Bool, extra: Extra = Extra()) throws {
    let plan = job.prediction()
    let packed = job.items.lazy.filter { $0.target.encoding.isPacked }
    let weights = job.items.reduce(0) { $0 + $1.target.shape.reduce(1, *) }
    let packedWeights = packed.reduce(0) { $0 + $1.target.shape.reduce(1, *) }
    let packedBytes = packed.reduce(0) { total, item in
      total + item.target.encoding.storedBytes(item.target.dtype, item.target.shape)
    }
    let bits = weights == 0 ? 0 : Double(plan.outputBytes) * 8 / Double(weights)
    let packedBits = packedWeights == 0 ? 0 : Double(packedBytes) * 8 / Double(packedWeights)
    if json {
      let document: JSON = [
        "verb": JSON(verb), "format": JSON(job.output.format.rawValue), "bytes_in": JSON(job.source.storedBytes),
        "bytes_out": JSON(plan.outputBytes), "bytes_out_exact": JSON.bool(plan.isExact), "weights": JSON(weights),
        "packed_tensors": JSON(packed.count), "packed_weights": JSON(packedWeights),
        "bits_per_weight": JSON(bits), "bits_per_weight_packed": packedWeights == 0 ? .null : JSON(packedBits),
        "peak_memory": JSON(plan.peakMemory), "threads": JSON(plan.threads), "warnings": JSON(job.warnings),
        "tensors": .array(
          job.items.map {
            [
              "name": JSON($0.source.name.text), "from": JSON(coding($0.source.encoding, $0.source.dtype)),
              "to": JSON(coding($0.target.encoding, $0.target.dtype)), "shape": JSON($0.target.shape),
            ]
          }),
      ]
      return try StandardOutput.print(extra.members.reduce(document) { $0.setting($1.key, to: $1.value) })
    }
    let entries = job.items.map { item in
      let from = coding(item.source.encoding, item.source.dtype), to = coding(item.target.encoding, item.target.dtype)
      return Listing.Entry(
        name: item.source.name.text, text: "\(item.source.shape): " + (from == to ? "kept, \(from)" : "\(from) → \(to)"))
    }
    try Listing.print(entries, whole: verbose)
    try printRows([
      (
        "bytes",
        "\(byteText(job.source.storedBytes)) in, \(plan.isExact ? "" : "at most ")\(plan.outputBytes) (\(byteText(plan.outputBytes))) out"
      ),
      ("bits per weight", (packedWeights == 0 ? "" : "\(decimal(packedBits, 3)) packed, ") + "\(decimal(bits, 3)) whole output"),
      ("peak memory", "about \(byteText(plan.peakMemory)) with \(plan.threads) threads"),
    ] + extra.rows)
  }

  static func coding(_ encoding: WeightEncoding, _ dtype: DType) -> String {
    encoding.isPlain ? dtype.rawValue : "\(encoding.summary) (\(dtype.rawValue))"
  }
}
