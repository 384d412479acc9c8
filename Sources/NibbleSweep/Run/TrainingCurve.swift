import NibbleCore

/// The `metrics.jsonl` of a run of training.
package struct TrainingCurve: Sendable {
  /// Of each step; NaN where nothing was learned.
  package private(set) var losses: [Double] = []
  /// Steps, 0 before the first, and the losses after them.
  package private(set) var validation: [(step: Int, loss: Double)] = []
  /// What else was found of the rows to validate on, the loss among it.
  package private(set) var figures: [(step: Int, figures: [(name: String, value: Double)])] = []
  /// Seconds of all steps, those before an interruption too.
  package private(set) var seconds = 0.0

  /// - Parameter folder: what `finetune` wrote
  /// - Returns: nil where there is no such file, or it is damaged
  package init?(_ folder: String) {
    let path = folder + "/metrics.jsonl"
    guard PathKind(path) == .file else { return nil }
    do {
      try JSONLines.forEach(path) { row, _ in
        if row["tokens"] != nil || row["loss"] != nil { losses.append(row["loss"]?.double ?? .nan) }
        seconds += row["seconds"]?.double ?? 0
        if let step = row["step"]?.int, let loss = row["valid_loss"]?.double {
          validation.append((step, loss))
          figures.append((step, (row.members ?? []).compactMap { one in
            one.key.hasPrefix("valid_") ? one.value.double.map { (String(one.key.dropFirst("valid_".count)), $0) } : nil
          }))
        }
      }
    } catch { return nil }
  }
}
