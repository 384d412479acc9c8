import NibbleCore
import NibbleFormats

/// What was made of a model for each program, and what was not, and why.
struct Passport {
  /// What was made for one program.
  struct Entry {
    let target: ShipTarget
    /// What its users type.
    let loads: String
    /// The verb that made it, as one would type it.
    var command: String
    /// Why there is nothing; nil where it was made.
    var refusal: String?
    /// Why it was not compared with the original, though there was a text.
    var notCompared: String?
    /// The exit code of the verb that refused, or failed to compare.
    var code: Int32 = 0
    /// Its account of itself.
    var report: JSON = .null
    /// What comparing with the original showed; null where there was no text.
    var comparison: JSON = .null
    var warnings: [String] = []
    /// Bytes of all its files.
    var bytes = 0

    /// What there is to know of it.
    var said: [String] { target.notes + warnings + (notCompared.map { ["not compared: " + $0] } ?? []) }
  }

  let model: String
  let adapters: [String]
  let data: String?
  var entries: [Entry]

  var json: JSON {
    [
      "tool": JSON("nibble " + nibbleVersion), "model": JSON(model), "adapters": JSON(adapters), "data": JSON(data),
      "source_identity": entries.first { $0.refusal == nil }?.report["source_identity"] ?? .null,
      "targets": .array(
        entries.map { entry in
          let kl = entry.comparison["compared_to"]
          return [
            "name": JSON(entry.target.name), "made": JSON.bool(entry.refusal == nil), "refusal": JSON(entry.refusal), "command": JSON(entry.command),
            "loads": JSON(entry.loads), "format": entry.report["format"] ?? .null, "bytes": JSON(entry.bytes),
            "bits_per_weight": entry.report["bits_per_weight"] ?? .null, "identity": entry.report["identity"] ?? .null,
            "kl_divergence": kl?["kl_divergence"] ?? .null, "kl_standard_error": kl?["kl_standard_error"] ?? .null,
            "top1_agreement": kl?["top1_agreement"] ?? .null, "tokens": entry.comparison["tokens"] ?? .null,
            "not_compared": JSON(entry.notCompared),
            "notes": JSON(entry.target.notes), "warnings": JSON(entry.warnings),
          ]
        }),
    ]
  }

  /// The same for people.
  var markdown: String {
    var text = "# \(oneLine(model))\(adapters.isEmpty ? "" : " with " + adapters.map(oneLine).joined(separator: ", "))\n\n"
    text += data.map { "KL divergence from the original, in nats a token, ± one standard error, on \(oneLine($0)).\n\n" }
      ?? "The divergence from the original was not measured: there was no --data.\n\n"
    text += "| for | load with | size | bits a weight | KL | same best token |\n|---|---|---|---|---|---|\n"
    for entry in entries where entry.refusal == nil {
      let kl = entry.comparison["compared_to"]
      let cells = [
        entry.target.name, "`\(entry.loads)`", byteText(entry.bytes), entry.report["bits_per_weight"]?.double.map { decimal($0, 2) } ?? "",
        kl?["kl_divergence"]?.double.map { "\(decimal($0, 4)) ± \(decimal(kl?["kl_standard_error"]?.double ?? .nan, 4))" } ?? "not measured",
        kl?["top1_agreement"]?.double.map { Summary.percent($0) } ?? "",
      ]
      text += "| " + cells.joined(separator: " | ") + " |\n"
    }
    let refused = entries.filter { $0.refusal != nil }
    if !refused.isEmpty {
      text += "\nNot made:\n\n" + refused.map { "- \($0.target.name): \(oneLine($0.refusal ?? ""))\n" }.joined()
    }
    let said = entries.filter { $0.refusal == nil }.flatMap { entry in entry.said.map { "- \(entry.target.name): \(oneLine($0))\n" } }
    if !said.isEmpty { text += "\nTo know:\n\n" + said.joined() }
    text += "\nMade with nibble \(nibbleVersion):\n\n" + entries.map { "    \($0.command)\n" }.joined()
    return text
  }
}
