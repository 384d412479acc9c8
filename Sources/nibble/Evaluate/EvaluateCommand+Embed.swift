import ArgumentParser
import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTraining

extension EvaluateCommand {
  /// How well the angle between two texts' vectors follows what people say of them.
  func compareVectors(_ started: Double) throws {
    var pairs: [(first: String, second: String, score: Double, place: String)] = []
    try JSONLines.forEachRow(data) { row, place in
      guard pairs.count < asking.limit ?? .max else { return }
      let texts = try JudgedTexts(row, place: place)
      guard let second = texts.second else { throw NibbleError.badInput("\(path: place): a row of one text; embed compares two") }
      guard let score = (row["score"] ?? row["label"])?.double, score.isFinite else {
        throw NibbleError.badInput("\(path: place): a row without a number 'score' or 'label'")
      }
      pairs.append((texts.first, second, score, place))
    }
    guard !pairs.isEmpty else { throw NibbleError.badInput("\(path: data): no rows in it") }
    func cosines(_ open: OpenModel) throws -> [Double] {
      let tokens = try ModelTokenizer(open.model, path: tokenizer)
      let pooling = try asking.pooling ?? open.model.pooling() ?? .mean
      let vectors = try Embeddings(open.model, pooling, adapters: try open.all()).vectors(
        try pairs.flatMap { pair in
          do { return [try tokens.prompt(pair.first), try tokens.prompt(pair.second)] } catch let error as NibbleError {
            throw NibbleError(error.kind, "\(path: pair.place): \(error.text)")
          }
        }, progress: common.progress("evaluate", unit: "texts"))
      return pairs.indices.map { Embeddings.cosine(vectors[2 * $0], vectors[2 * $0 + 1]) }
    }
    func figures(_ cosines: [Double]) throws -> [Figure] {
      let found = try Correlation(cosines, actual: pairs.map(\.score))
      return [Figure("Spearman", "spearman", found.spearman), Figure("Pearson", "pearson", found.pearson)]
    }
    let own = try cosines(OpenModel(model, common))
    let others = try compareTo.map { try figures(cosines(OpenModel(model.replaced($0, adapters: compareAdapter), common))) }
    Progress.clear()
    if let predictions = asking.predictions {
      let rows = zip(pairs, own).map { pair, cosine -> JSON in
        .object([("place", JSON(pair.place)), ("text", JSON(pair.first)), ("text_pair", JSON(pair.second)), ("label", JSON(pair.score)), ("prediction", JSON(cosine))])
      }
      try TextFile.write(rows.map { $0.text() + "\n" }.joined(), to: predictions)
    }
    try print(
      FigureReport(figures: try figures(own), others: others ?? [], other: [compareTo ?? ""] + compareAdapter), started,
      facts: [("pairs", "pairs", JSON(pairs.count))])
  }
}

extension Model {
  /// The pooling that a folder of sentence-transformers asks for; nil where it asks for none.
  ///
  /// - Throws: `.badInput` for a pooling that is not implemented
  func pooling() throws -> Embeddings.Pooling? {
    let file = path + "/1_Pooling/config.json"
    guard PathKind(file) == .file, let config = try? JSON.parse(Array(SmallText.read(file).utf8)) else { return nil }
    let known: [(String, Embeddings.Pooling)] = [
      ("pooling_mode_mean_tokens", .mean), ("pooling_mode_cls_token", .first), ("pooling_mode_lasttoken", .last),
    ]
    let asked = (config.members ?? []).filter { $0.key.hasPrefix("pooling_mode_") && $0.value.bool == true }.map(\.key)
    guard asked.count == 1, let own = known.first(where: { $0.0 == asked[0] }) else {
      throw NibbleError.badInput("\(path: file): pooling by \(asked.map(quoted).joined(separator: " and ")) is not implemented; --pooling chooses another")
    }
    return own.1
  }
}

extension Embeddings.Pooling: ExpressibleByArgument {}
