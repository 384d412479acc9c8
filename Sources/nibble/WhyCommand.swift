import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

struct WhyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "why",
    abstract: "Rank the tensors that make the difference between two models, by what each does to the answers.",
    discussion: """
      A runs over a text, then again with each tensor that differs taken from B, one at a time: "alone" is the KL divergence from A that this \
      tensor costs, in nats a token. Then tensors of A go into B one after another, the dearest first: "left" is the divergence that is left \
      with this one and all above it. For encoders costs are squared distances of the final states, relative to A's.
      """)

  @Argument(help: "The model to compare with: a Hugging Face folder, an .nbl file.") var a: String
  @Argument(help: "The other one, such as the first one packed or merged.") var b: String
  @Option(help: ArgumentHelp("The text: a text file, or JSON Lines as for finetune.", valueName: "FILE")) var data: String
  @Option(help: "Tokens of it to take.") var tokens = 1024
  @Option(help: "Tokens per window.") var context = 256
  @Option(help: "Rows to print, and tensors to put back one after another.") var top = 10
  @Option(help: "Precision of matrix products: fp32, or bf16 with float32 sums.") var computeDtype: Compute = .f32
  @OptionGroup var common: CommonOptions

  func validate() throws {
    guard tokens > 0, context > 1, top >= 0 else { throw ValidationError("--tokens, --context and --top must be positive") }
  }

  func run() throws {
    let team = Team(threads: common.workers)
    let models = try [a, b].map { try Model(Checkpoint.open($0), precision: computeDtype, team: team) }
    let limit = try models.map { try $0.contextLength }.min() ?? context
    let reader = try CalibrationReader(models[0], length: min(context, limit), tokens: tokens)
    let windows = try CalibrationReader.files(data).flatMap { try reader.windows($0) }
    let text = CalibrationText([windows], tokens: tokens)
    let found = try Exchange(models[0], models[1], text.windows, top: top, progress: common.progress("why"))
    Progress.clear()
    common.warn(models.flatMap(\.checkpoint.warnings))
    for (names, owner, other) in [(found.onlyA, a, b), (found.onlyB, b, a)] where !names.isEmpty {
      common.warn([Warning(.compatibility, "\(path: owner): \(names.count) tensors that \(oneLine(other)) has not, such as \(tensor: names[0]), are not exchanged")])
    }
    if common.json { return try StandardOutput.print(document(found)) }
    try print(found)
  }

  private func print(_ found: Exchange) throws {
    try Summary.printRows([
      (found.isDivergence ? "KL divergence" : "distance", "\(Self.text(found.total)) \(found.isDivergence ? "nats a token" : "of A's states, squared")"),
      ("tokens", "\(found.tokens)"), ("tensors", "\(found.tensors.count) differ"),
    ])
    guard !found.tensors.isEmpty else { return }
    let shown = found.tensors.prefix(top)
    let width = shown.map { oneLine($0.name).count }.max() ?? 0
    func row(_ name: String, _ cells: [String]) -> String {
      name.padding(to: width) + cells.map { "  " + $0.leading(to: 19) }.joined()
    }
    try StandardOutput.print("")
    try StandardOutput.print(row("tensor", ["change", "alone", "left"]))
    for tensor in shown {
      try StandardOutput.print(
        row(oneLine(tensor.name), [Summary.percent(tensor.change), Self.text(tensor.alone), tensor.left.map(Self.text) ?? ""]))
    }
    if let next = found.tensors.dropFirst(top).first {
      try StandardOutput.print("\(found.tensors.count - shown.count) more, at most \(decimal(next.alone.value, 6)) each")
    }
  }

  private static func text(_ cost: TokenMean) -> String {
    decimal(cost.value, 6) + (cost.standardError.isNaN ? "" : " ± \(decimal(cost.standardError, 6))")
  }

  private func document(_ found: Exchange) -> JSON {
    func cost(_ cost: TokenMean?) -> JSON {
      guard let cost else { return .null }
      return ["value": JSON(cost.value), "standard_error": cost.standardError.isNaN ? .null : JSON(cost.standardError)]
    }
    return [
      "a": JSON(a), "b": JSON(b), "data": JSON(data), "tokens": JSON(found.tokens), "measure": JSON(found.isDivergence ? "kl_divergence" : "distance"),
      "total": cost(found.total), "only_a": JSON(found.onlyA), "only_b": JSON(found.onlyB),
      "tensors": .array(
        found.tensors.map {
          ["name": JSON($0.name), "relative_rms": JSON($0.change), "alone": cost($0.alone), "left": cost($0.left)]
        }),
    ]
  }
}

extension String {
  fileprivate func padding(to width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
  fileprivate func leading(to width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
}
