import NibbleCore
import NibbleFormats
import NibbleQuant

/// The account of a job, for people: the verdict first, then what it rests on.
extension Summary {
  static func printText(
    _ report: StreamReport, _ job: StreamJob, _ use: ResourceUse, verb: String, verbose: Bool, _ extra: Extra
  ) throws {
    try StandardOutput.print(verdict(report, job, verb))
    if verbose { try printTensors(report) }
    var rows: [(String, String)] = [
      ("output", job.output.path), ("bytes", "\(byteText(report.bytesIn)) in, \(byteText(report.bytesOut)) out"),
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
    rows += changes(report, verbose: verbose) + extra.rows
    if let undo = report.undo, let path = job.changing.undo { rows.append(("undo", "\(path), \(byteText(undo.bytes))")) }
    if job.source.family == nil || verbose { rows += decisions(job) }
    if report.zeroBlocks > 0 { rows.append(("blocks of zeros", "\(report.zeroBlocks)")) }
    if report.nonfinite > 0 { rows.append(("NaN or infinite", "\(report.nonfinite) values" + (report.finiteLost > 0 ? " (\(report.nonfinite - report.finiteLost) in the source)" : ""))) }
    rows += casts(report, verbose: verbose)
    if !report.notCarried.isEmpty { rows.append(("not in the output", list(report.notCarried))) }
    if report.resumed.tensors > 0 {
      rows.append(("resumed", "\(report.resumed.tensors) tensors (\(byteText(report.resumed.bytes))) are from an earlier run"))
    }
    let rate = Double(report.bytesIn) / max(report.seconds, 1e-9) / 1e9
    rows.append(
      (
        "time",
        "\(decimal(report.seconds, 2)) s, \(decimal(rate, 2)) GB/s, \(decimal(use.userSeconds + use.systemSeconds, 2)) s of CPU"
      ))
    if verbose { rows += [("peak memory", byteText(use.peakBytes)), ("identity", report.identity.description)] }
    try printRows(rows)
  }

  /// What a reader wants to know, on one line.
  private static func verdict(_ report: StreamReport, _ job: StreamJob, _ verb: String) -> String {
    let done = [
      "quantize": "packed", "dequantize": "unpacked", "convert": "converted", "merge": "merged", "unmerge": "taken out",
    ][verb] ?? verb
    if verb == "unmerge", !report.changed.isEmpty {
      return "taken out: likely within \(percent(report.originalDistance)) of the original, in the weights that were changed"
    }
    if let worst = report.worstChanged {
      let sums = report.change
      if sums.isLostInNoise { return "\(done): the adapter's change is lost in rounding noise, \(noise(sums))" }
      return "\(done): \(survival(sums)) of the adapter's change survives, worst \(share(worst.sums.survival)) in " + oneLine(worst.name)
    }
    if let mean = report.meanError, let worst = report.worst {
      return "\(done): relative error of the packed weights \(decimal(mean, 4)) on average, worst \(decimal(worst.relativeError ?? 0, 4)) in "
        + oneLine(worst.name)
    }
    if verb == "quantize", !report.packed.isEmpty { return "nothing was packed: \(report.packed.count) tensors were packed already" }
    return switch verb {
    case "convert":
      if !report.cast.isEmpty {
        "converted: \(report.packed.count + report.keptCount) tensors, \(report.cast.count) of them in another type"
      } else if report.decoded > 0 {
        "converted: \(report.packed.count + report.keptCount) tensors, \(report.decoded) of them decoded from their codes"
      } else {
        "converted: every code and every value as it was"
      }
    case "dequantize": "unpacked: \(report.keptCount) tensors" + (report.cast.isEmpty ? "" : ", \(report.cast.count) of them in another type")
    default: "\(done): \(report.packed.count + report.keptCount) tensors"
    }
  }

  /// What a merge made of an adapter's change.
  private static func changes(_ report: StreamReport, verbose: Bool) -> [(String, String)] {
    var rows: [(String, String)] = []
    let all = report.change
    let ofOutputs = !report.changed.isEmpty && report.changed.allSatisfy(\.isOfOutputs)
    if !report.changed.isEmpty {
      rows += [
        (
          "change",
          "\(report.changed.count) tensors, by \(percent(all.relativeDelta)) of their \(ofOutputs ? "outputs on the text" : "weight")"
        ),
        (
          "rounding error",
          "\(percent(all.relativeNoise)) of the \(ofOutputs ? "outputs" : "weights")"
            + (all.innerNoise.map { "; on the inputs the adapter uses, \(percent($0)) of the change" } ?? "")
        ),
      ]
    }
    if all.isLostInNoise { rows.append(("survival", "\(share(all.survival)): a measure of the noise, not of the change")) }
    let moved = report.changed.filter(\.isMoved)
    if !moved.isEmpty {
      let worst = moved.max { $0.sums.noiseRatio < $1.sums.noiseRatio }
      rows.append(
        (
          "zeros moved",
          "\(moved.count) tensors: codes and scales are the base's; the type of the zeros takes at most "
            + "\(scientific(worst?.sums.noiseRatio ?? 0)) of the change" + (worst.map { " (\(oneLine($0.name)))" } ?? "")
        ))
    }
    let shaped = report.changed.filter(\.isShaped).count
    if shaped > 0 { rows.append(("shaped", "\(shaped) tensors: codes chosen so that the change survives")) }
    if !report.replaced.isEmpty { rows.append(("replaced", list(report.replaced))) }
    for tensor in Listing.natural(report.changed, \.name) where verbose {
      let inner = tensor.sums.innerNoise.map { ", \(percent($0)) of the change on the inputs the adapter uses" } ?? ""
      rows.append(
        (
          "",
          "\(oneLine(tensor.name)): survival \(share(tensor.sums.survival)), change \(percent(tensor.sums.relativeDelta)), "
            + "rounding error \(percent(tensor.sums.relativeNoise))\(inner)"
        ))
    }
    return rows
  }

  private static func casts(_ report: StreamReport, verbose: Bool) -> [(String, String)] {
    let groups = Listing.groups(report.cast, \.name) { "\($0.from.rawValue) → \($0.to.rawValue)" }
    var rows = groups.prefix(verbose ? Int.max : 3).map { group in
      (
        "cast",
        "\(Listing.name(group.map(\.name))) \(group[0].from.rawValue) → \(group[0].to.rawValue), relative error "
          + "\(group.count > 1 ? "at most " : "")\(scientific(group.map(\.relativeError).max() ?? 0))"
      )
    }
    if groups.count > 3, !verbose { rows.append(("", "and \(groups.dropFirst(3).reduce(0) { $0 + $1.count }) more tensors (-v lists them)")) }
    return rows
  }

  /// What was packed and kept, and why; layers of one kind together.
  private static func decisions(_ job: StreamJob) -> [(String, String)] {
    var groups: [(label: String, reason: String, names: [String])] = []
    for decision in job.decisions {
      let label = decision.choice == .keep ? "kept" : decision.choice.name
      let name = decision.tensor.name.text
      if let at = groups.firstIndex(where: { $0.label == label && $0.reason == decision.reason.rawValue }) {
        groups[at].names.append(name)
      } else {
        groups.append((label, decision.reason.rawValue, [name]))
      }
    }
    return groups.map { group in
      let names = Listing.groups(group.names, { $0 }).map(Listing.name)
      return (group.label, "\(group.names.count), \(group.reason): \(list(names, limit: 24))")
    }
  }

  private static func printTensors(_ report: StreamReport) throws {
    for tensor in Listing.natural(report.packed, \.name) {
      let error = tensor.relativeError.map { ", relative error \(decimal($0, 4))" } ?? ""
      let zeros = tensor.zeroBlocks > 0 ? ", \(tensor.zeroBlocks) blocks of zeros" : ""
      try StandardOutput.print("\(oneLine(tensor.name)): \(tensor.encoding.summary), \(tensor.weights) weights\(error)\(zeros)")
    }
  }
}
