import NibbleCore
import NibbleModels
import NibbleTokenizers
import NibbleTraining

/// Training data as a model wants it.
struct TrainingRows {
  let model: Model
  let tokenizer: Tokenizer?
  let encoder: RowEncoder

  init(_ model: Model, tokenizerPath: String?, maxLength: Int?, trainsOnPrompt: Bool, template: ChatTemplate?) throws {
    self.model = model
    // Rows of ids need none; one that is there has to be whole.
    let holders: Set = ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"]
    let isThere = tokenizerPath != nil || model.checkpoint.smallFiles.contains { holders.contains($0.name) }
    let own = isThere ? try ModelTokenizer(model, path: tokenizerPath) : nil
    tokenizer = own?.tokenizer
    var encoder = RowEncoder(
      own?.tokenizer, end: own?.tokenizer.special.eos ?? own?.endIDs.min(), vocabulary: model.vocabularySize,
      maximumLength: min(maxLength ?? Int.max, model.contextLength))
    encoder.trainsOnPrompt = trainsOnPrompt
    encoder.template = template
    self.encoder = encoder
  }

  /// Every row of a file, and what is worth telling of them.
  func read(_ path: String) throws -> (rows: [TrainingRow], warnings: [String]) {
    var rows: [TrainingRow] = []
    var warnings: [String] = []
    var cut = 0, cutRows = 0, silent = 0
    let classes = model.classCount
    try JSONLines.forEach(path) { row, place in
      if let classes {
        let (own, lost) = try encoder.classified(row, classes: classes, manyLabels: model.hasManyLabels, place: place)
        rows.append(own)
        cut += lost
        cutRows += lost > 0 ? 1 : 0
        return
      }
      let (own, lost) = try encoder.language(row, place: place)
      rows.append(own)
      cut += lost
      cutRows += lost > 0 ? 1 : 0
      if own.learned == 0 { silent += 1 }
    }
    guard !rows.isEmpty else { throw NibbleError.badInput("\(path): no rows in it") }
    if cut > 0 {
      warnings.append("\(path): \(cutRows) rows were longer than \(encoder.maximumLength) tokens; \(cut) tokens were cut off")
    }
    if silent > 0 { warnings.append("\(path): \(silent) of \(rows.count) rows have nothing to learn") }
    return (rows, warnings)
  }

  /// What is learned, and what is only read.
  func show(_ rows: ArraySlice<TrainingRow>) throws {
    for row in rows {
      try StandardOutput.print("\(row.place): \(row.ids.count) tokens, \(row.learned) learned")
      for (index, id) in row.ids.enumerated() {
        let text = tokenizer?.token(id).map { " " + oneLine($0) } ?? ""
        let isLearned = index > 0 && index < row.labels.count && row.labels[index] != TrainingRow.ignored
        try StandardOutput.print("  \(isLearned ? "learn" : "  -  ") \(id)\(text)")
      }
      if !row.targets.isEmpty { try StandardOutput.print("  label \(row.targets.map { decimal($0, 0) }.joined(separator: " "))") }
    }
  }
}
