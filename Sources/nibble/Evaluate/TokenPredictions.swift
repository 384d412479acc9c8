import NibbleCore
import NibbleEvaluation
import NibbleTraining

/// What a classifier of tokens says of each row, as JSON Lines.
///
/// A row has `place`, `text`, the `tokens` that have a class, their `labels` and `predictions` by the names of the classes, or by their numbers where they have
/// none, and the `probabilities` of each. Where the names are tags, `entities` has those predicted: type, the first word's number and that behind the last one.
struct TokenPredictions {
  let found: RowScores
  let data: TrainingRows.Data
  let classes: Classes?

  func write(to path: String) throws {
    let tags = classes.flatMap { EntityTags($0.names) }
    var first = 0
    var lines: [String] = []
    for (index, row) in found.tokenRows.enumerated() {
      let words = data.words[index]
      let shares = found.scores[first..<first + row.predicted.count].map { scores in
        JSON.object(RowScores.probabilities(scores, areMany: false).enumerated().map { (key: name($0).string ?? "\($0)", value: JSON($1)) })
      }
      first += row.predicted.count
      var said: [(key: String, value: JSON)] = [
        ("place", JSON(data.rows[index].place)), ("text", JSON(words.joined(separator: " "))), ("tokens", JSON(words)),
        ("labels", .array(row.actual.map(name))), ("predictions", .array(row.predicted.map(name))),
      ]
      if let tags {
        said.append(("entities", .array(tags.entities(row.predicted).map { entity in
          ["type": JSON(entity.type), "start": JSON(entity.words.lowerBound), "end": JSON(entity.words.upperBound), "text": JSON(words[entity.words].joined(separator: " "))]
        })))
      }
      lines.append(JSON.object(said + [("probabilities", .array(shares))]).text() + "\n")
    }
    try TextFile.write(lines.joined(), to: path)
  }

  private func name(_ number: Int) -> JSON {
    guard let names = classes?.names, names.indices.contains(number) else { return JSON(number) }
    return JSON(names[number])
  }
}
