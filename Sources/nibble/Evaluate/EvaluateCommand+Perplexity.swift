import NibbleCore
import NibbleEvaluation

extension EvaluateCommand {
  /// How likely a model finds texts.
  func measurePerplexity(_ started: Double) throws {
    let documents = try Documents(data)
    let open = try OpenModel(model, common)
    guard compareAdapter.isEmpty || compareTo != nil else { throw NibbleError.usage("--compare-adapter goes with --compare-to") }
    let other = try compareTo.map { try OpenModel(model.replaced($0, adapters: compareAdapter), common) }
    let tokens = try ModelTokenizer(open.model, path: tokenizer)
    var perplexity = Perplexity()
    perplexity.context = context
    perplexity.stride = stride
    perplexity.windows = windows ?? (documents.documents.count > 1 ? .first : .whole)
    let ids = try documents.documents.map { document in
      do { return try tokens.ids(document.text) } catch let error as NibbleError {
        throw NibbleError(error.kind, "\(path: document.place): \(error.text)")
      }
    }
    let report = try perplexity.run(
      ids, mark: tokens.mark, model: open.model, adapters: try open.all(), comparedTo: other?.model, with: try other?.all() ?? [],
      progress: common.progress("evaluate", unit: "windows"))
    Progress.clear()
    let seconds = monotonicSeconds() - started
    if windows == nil, perplexity.windows == .first, report.unscored > 0 {
      common.warn([
        Warning(
          .data,
          "\(report.unscored) tokens beyond the first \(report.context) of their documents were not scored; --windows whole scores them"
        )
      ])
    }
    try common.json ? printJSON(report, seconds) : printText(report, seconds)
  }

  private func printJSON(_ report: Perplexity.Report, _ seconds: Double) throws {
    var members: [(String, JSON)] = [
      ("task", "perplexity"), ("base", JSON(model.base)), ("data", JSON(data)),
      ("compute_dtype", JSON(model.computeDtype.rawValue)),
      ("perplexity", JSON(report.perplexity)), ("standard_error", JSON(report.standardError)), ("loss", JSON(report.loss.value)),
      ("loss_standard_error", JSON(report.loss.standardError)), ("tokens", JSON(report.loss.count)),
      ("unscored_tokens", JSON(report.unscored)), ("documents", JSON(report.documents)), ("windows", JSON(report.windows)),
      ("context", JSON(report.context)), ("stride", JSON(report.stride)),
    ]
    if let comparison = report.comparison {
      members.append(
        (
          "compared_to",
          [
            "model": JSON(compareTo), "adapters": JSON(compareAdapter), "perplexity": JSON(comparison.perplexity), "loss": JSON(comparison.loss.value),
            "kl_divergence": JSON(comparison.divergence.value),
            "kl_standard_error": JSON(comparison.divergence.standardError), "kl_greatest": JSON(comparison.divergence.greatest),
            "top1_agreement": JSON(comparison.agreement.value),
            "top1_standard_error": JSON(comparison.agreement.standardError),
          ]
        ))
    }
    members.append(("document_losses", .array(report.documentLosses.map { JSON($0) })))
    members += [("seconds", JSON(seconds)), ("peak_memory", JSON(ResourceUse.now.peakBytes))]
    try StandardOutput.print(JSON.object(members.map { (key: $0.0, value: $0.1) }))
  }

  private func printText(_ report: Perplexity.Report, _ seconds: Double) throws {
    func with(_ error: Double, _ places: Int) -> String { error.isNaN ? "" : " ± \(decimal(error, places))" }
    var rows = [
      ("perplexity", "\(decimal(report.perplexity, 4))\(with(report.standardError, 4))"),
      ("loss", "\(decimal(report.loss.value, 5))\(with(report.loss.standardError, 5)) nats a token"),
      ("tokens", "\(report.loss.count) scored, \(report.unscored) not, in \(report.documents) documents"),
      ("windows", "\(report.windows) of at most \(report.context) tokens, \(report.stride) new in each"),
    ]
    if let comparison = report.comparison {
      rows += [
        ("compared to", "\(([compareTo ?? ""] + compareAdapter).map(oneLine).joined(separator: " + ")), perplexity \(decimal(comparison.perplexity, 4))"),
        (
          "KL divergence",
          "\(decimal(comparison.divergence.value, 6))\(with(comparison.divergence.standardError, 6)) nats a token"
        ),
        (
          "same best token",
          "\(decimal(100 * comparison.agreement.value, 2))\(with(100 * comparison.agreement.standardError, 2)) %"
        ),
      ]
    }
    let rate = Double(report.loss.count) / max(seconds, 1e-9)
    rows += [
      ("time", "\(decimal(seconds, 2)) s, \(decimal(rate, 0)) tokens/s"), ("peak memory", byteText(ResourceUse.now.peakBytes)),
    ]
    try Summary.printRows(rows)
  }
}
