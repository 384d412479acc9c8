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

    /// What running a merged model beside its parts showed.
    mutating func add(_ found: MergedModelCheck.Result) {
      rows.append(
        (
          "model check",
          "outputs for \(found.tokens) tokens \(scientific(found.difference)) off, the same choice at \(percent(found.agreement)) of the positions"
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
      : "\(result.count) matrices on random inputs, at most \(scientific(result.difference)) off in \(oneLine(result.name))\(skipped)"
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
    if verbose { try printTensors(report) }
    var rows: [(String, String)] = [
      ("output", job.output.path),
      ("bytes", "\(byteText(report.bytesIn)) in, \(byteText(report.bytesOut)) out"),
      ("tensors", "\(report.packed.count) packed, \(report.keptCount) plain (\(byteText(report.keptBytes)))"),
    ]
    if let bits = report.bitsPerWeight {
      let packed = report.packedBitsPerWeight.map { "\(decimal($0, 3)) packed, " } ?? ""
      rows.append(("bits per weight", "\(packed)\(decimal(bits, 3)) whole output"))
    }
    for (index, part) in (report.compressed?.parts ?? []).enumerated() {
      rows.append(
        (
          index == 0 ? "compressed" : "",
          "\(part.name) \(byteText(part.bytes.plain)) → \(byteText(part.bytes.stored)), "
            + "\(decimal(100 * abs(part.bytes.saved), 1)) % \(part.bytes.saved < 0 ? "more" : "less")"
        ))
    }
    if let mean = report.meanError, let worst = report.worst {
      rows.append(
        ("relative error", "mean \(decimal(mean, 4)), worst \(decimal(worst.relativeError ?? 0, 4)) in \(oneLine(worst.name))"))
    }
    rows += changes(report, verbose: verbose) + extra.rows
    if let undo = report.undo, let path = job.changing.undo { rows.append(("undo", "\(path), \(byteText(undo.bytes))")) }
    if job.source.family == nil || verbose { rows += decisions(job) }
    if report.zeroBlocks > 0 { rows.append(("blocks of zeros", "\(report.zeroBlocks)")) }
    if report.nonfinite > 0 { rows.append(("NaN or infinite", "\(report.nonfinite) values")) }
    for cast in report.cast.prefix(verbose ? Int.max : 3) {
      rows.append(
        (
          "cast",
          "\(oneLine(cast.name)) \(cast.from.rawValue) → \(cast.to.rawValue), relative error \(scientific(cast.relativeError))"
        ))
    }
    if report.cast.count > 3, !verbose { rows.append(("", "and \(report.cast.count - 3) more tensors (-v lists them)")) }
    if !report.notCarried.isEmpty {
      rows.append(("not in the output", list(report.notCarried)))
    }
    if report.resumed.tensors > 0 {
      rows.append(
        ("resumed", "\(report.resumed.tensors) tensors (\(byteText(report.resumed.bytes))) were there from an earlier run"))
    }
    let rate = Double(report.bytesIn) / max(report.seconds, 1e-9) / 1e9
    rows += [
      (
        "time",
        "\(decimal(report.seconds, 2)) s, \(decimal(rate, 2)) GB/s, \(decimal(use.userSeconds + use.systemSeconds, 2)) s of CPU"
      ),
      ("peak memory", byteText(use.peakBytes)),
      ("identity", report.identity.description),
    ]
    try printRows(rows)
  }

  /// What became of an adapter.
  private static func changes(_ report: StreamReport, verbose: Bool) -> [(String, String)] {
    var rows: [(String, String)] = []
    let all = report.change
    if let worst = report.worstChanged {
      rows += [
        ("changed", "\(report.changed.count) tensors, by \(percent(all.relativeDelta)) of their weight"),
        (
          "survival",
          "\(decimal(all.survival, 4)) of the change, worst \(decimal(worst.sums.survival, 4)) in \(oneLine(worst.name))"
        ),
        (
          "added noise",
          "\(percent(all.relativeNoise)) of the weight"
            + (all.innerNoise.map { "; where the adapters read, \(percent($0)) of the change" } ?? "")
        ),
      ]
    }
    let shaped = report.changed.filter(\.isShaped).count
    if shaped > 0 { rows.append(("shaped", "\(shaped) tensors, so that the change survives (experimental)")) }
    if !report.replaced.isEmpty { rows.append(("replaced", list(report.replaced))) }
    for tensor in report.changed where verbose {
      rows.append(
        (
          "",
          "\(oneLine(tensor.name)): survival \(decimal(tensor.sums.survival, 4)), change \(percent(tensor.sums.relativeDelta)), noise "
            + percent(tensor.sums.relativeNoise)
            + (tensor.sums.innerNoise.map { ", \(percent($0)) of the change where the adapter reads" } ?? "")
        ))
    }
    return rows
  }

  static func percent(_ share: Double) -> String { "\(decimal(100 * share, share < 0.001 ? 4 : 2)) %" }

  /// What was packed and kept, and why; layers of one kind together.
  private static func decisions(_ job: StreamJob) -> [(String, String)] {
    var groups: [(label: String, reason: String, names: [String])] = []
    for decision in job.decisions {
      let label = decision.choice == .keep ? "kept" : decision.choice.name
      let name = layersTogether(decision.tensor.name.text)
      if let at = groups.firstIndex(where: { $0.label == label && $0.reason == decision.reason.rawValue }) {
        groups[at].names.append(name)
      } else {
        groups.append((label, decision.reason.rawValue, [name]))
      }
    }
    return groups.map { group in
      var counts: [(name: String, count: Int)] = []
      for name in group.names {
        if let at = counts.firstIndex(where: { $0.name == name }) { counts[at].count += 1 } else { counts.append((name, 1)) }
      }
      let names = counts.map { $0.count > 1 ? "\($0.name) ×\($0.count)" : $0.name }
      return (group.label, "\(group.names.count), \(group.reason): \(list(names, limit: 24))")
    }
  }

  /// "layers.*.mlp.up_proj.weight": numbers between dots are one.
  private static func layersTogether(_ name: String) -> String {
    name.split(separator: ".", omittingEmptySubsequences: false)
      .map { !$0.isEmpty && $0.utf8.allSatisfy { (0x30...0x39).contains($0) } ? "*" : $0 }.joined(separator: ".")
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

  private static func printTensors(_ report: StreamReport) throws {
    for tensor in report.packed {
      let error = tensor.relativeError.map { ", relative error \(decimal($0, 4))" } ?? ""
      let zeros = tensor.zeroBlocks > 0 ? ", \(tensor.zeroBlocks) blocks of zeros" : ""
      try StandardOutput.print("\(oneLine(tensor.name)): \(tensor.encoding.summary), \(tensor.weights) weights\(error)\(zeros)")
    }
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

  static func printPlan(_ job: StreamJob, json: Bool, verb: String, extra: Extra = Extra()) throws {
    let plan = job.prediction()
    let packed = job.items.filter { $0.target.encoding.isPacked }
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
    for item in job.items {
      let from = coding(item.source.encoding, item.source.dtype)
      let to = coding(item.target.encoding, item.target.dtype)
      try StandardOutput.print(
        "\(oneLine(item.source.name.text)) \(item.source.shape): " + (from == to ? "kept, \(from)" : "\(from) → \(to)"))
    }
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
