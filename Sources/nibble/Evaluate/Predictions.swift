import NibbleCore
import NibbleEvaluation
import NibbleTraining

/// What a classifier says of each row, as JSON Lines.
///
/// A row has `place`, `text`, `label` and `prediction` (`labels` and `predictions` where a text may have several classes, and for a regression) with
/// classes by their names, or by their numbers where they have none; `probabilities` by class, but for a regression; `targets` as numbers, and `scores`
/// as the model gives them.
struct Predictions {
  private let scores: [[Float]]
  private let data: TrainingRows.Data
  private let classes: Classes?

  init(_ found: RowScores, _ data: TrainingRows.Data, _ classes: Classes?) { (scores, self.data, self.classes) = (found.scores, data, classes) }

  func write(to path: String) throws {
    try TextFile.write(data.rows.indices.map { JSON.object(row($0)).text() + "\n" }.joined(), to: path)
  }

  private func name(_ number: Int) -> JSON {
    guard let names = classes?.names, names.indices.contains(number) else { return JSON(number) }
    return JSON(names[number])
  }

  private func row(_ index: Int) -> [(key: String, value: JSON)] {
    let (row, scores) = (data.rows[index], scores[index])
    let numbers = (targets: JSON.array(row.targets.map { JSON($0) }), scores: JSON.array(scores.map { JSON(Double($0)) }))
    var said: [(key: String, value: JSON)] = [("place", JSON(row.place)), ("text", JSON(data.texts[index].first))]
    if let second = data.texts[index].second { said.append(("text_pair", JSON(second))) }
    if classes?.areNumbers == true {
      said += [("labels", numbers.targets), ("predictions", numbers.scores)]
    } else {
      let areMany = classes?.areMany == true
      if areMany {
        said.append(("labels", .array(row.targets.indices.filter { row.targets[$0] > 0 }.map(name))))
        said.append(("predictions", .array(scores.indices.filter { scores[$0] > 0 }.map(name))))
      } else {
        said.append(("label", row.targets.first.map { name(Int($0)) } ?? .null))
        said.append(("prediction", name(scores.indices.max { scores[$0] < scores[$1] } ?? 0)))
      }
      let shares = RowScores.probabilities(scores, areMany: areMany).enumerated().map { (key: name($0).string ?? "\($0)", value: JSON($1)) }
      said.append(("probabilities", .object(shares)))
    }
    return said + [("targets", numbers.targets), ("scores", numbers.scores)]
  }
}
