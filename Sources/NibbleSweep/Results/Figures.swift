import NibbleCore

/// The numbers of a verb's report that say how good something is, and those that are of the work.
package enum Figures {
  /// Members of reports that measure nothing a table should show.
  private static let ofWork: Set = [
    "rows", "judged", "tokens", "unscored_tokens", "documents", "windows", "context", "stride", "seconds", "cpu_seconds", "peak_memory", "threads", "steps",
    "trained", "best_step", "document_losses", "classes", "questions", "prompts", "num_beams", "items", "count", "seed", "shots", "few_shot",
  ]

  /// What `evaluate` measured: `accuracy`, and `compared_to.kl_divergence` where numbers stand in an object.
  package static func measured(_ report: JSON) -> [(name: String, value: Double)] {
    (report.members ?? []).flatMap { member -> [(name: String, value: Double)] in
      guard !ofWork.contains(member.key), !member.key.hasSuffix("standard_error") else { return [] }
      if let value = member.value.double { return [(member.key, value)] }
      guard let inner = member.value.members else { return [] }
      if let value = inner.first(where: { $0.key == "value" })?.value.double { return [(member.key, value)] }
      return inner.compactMap { one in
        guard !ofWork.contains(one.key), !one.key.hasSuffix("standard_error") else { return nil }
        return (one.value.double ?? one.value["value"]?.double).map { (member.key + "." + one.key, $0) }
      }
    }
  }

  /// What `finetune` found on its way: the loss at the end, and figures of its validation rows.
  package static func trained(_ report: JSON) -> [(name: String, value: Double)] {
    (report.members ?? []).compactMap { member in
      let isValidation = member.key.hasPrefix("valid_") && !member.key.hasSuffix("_before")
      guard isValidation || member.key == "loss" else { return nil }
      return member.value.double.map { (member.key, $0) }
    }
  }
}
