import NibbleCore
import NibbleFormats

/// The model card of a merged model: what it was made of, how, and what survived.
struct MergeCard: Sendable {
  let commandLine: String?
  /// What the adapters call their base.
  let baseName: String?
  let adapters: [(identity: Digest128, weight: Double)]

  func text(_ report: StreamReport) -> String {
    var lines = ["---"]
    if let baseName, ModelOrigin.isPublished(baseName), PathKind(baseName) == .nothing { lines.append("base_model: \(JSON(baseName).text())") }
    lines += ["tags:", "- merge", "- nibble", "---", "", "# A merged model", ""]
    lines.append("Made by nibble \(nibbleVersion) from a base with the content identity `\(report.sourceIdentity)` and:")
    lines.append("")
    for adapter in adapters { lines.append("* the adapter `\(adapter.identity)` with weight \(adapter.weight)") }
    if let commandLine { lines += ["", "```", oneLine(commandLine), "```"] }
    if let worst = report.worstChanged {
      lines += [
        "",
        "\(report.changed.count) tensors were changed, by \(decimal(100 * report.change.relativeDelta, 2)) % of their weight; "
          + "\(decimal(report.change.survival, 4)) of the change survived rounding, \(decimal(worst.sums.survival, 4)) in the worst tensor, "
          + "`\(oneLine(worst.name))`.",
      ]
    }
    if !report.replaced.isEmpty { lines += ["", "\(report.replaced.count) tensors were replaced whole."] }
    return lines.joined(separator: "\n") + "\n"
  }
}
