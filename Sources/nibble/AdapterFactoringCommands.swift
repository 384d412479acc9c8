import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats

struct AdapterExtractCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "extract",
    abstract: "Turn the difference between a tuned model and its base into an adapter.",
    discussion: """
      Each linear layer that changed gets the best factors of the given rank; the summary says which share of the change they hold. \
      Norms, biases, embeddings and output heads that changed are saved whole beside the factors; --others changes that. Base and tuned \
      model may be packed.
      """)

  @Option(help: "The checkpoint before training.") var base: String
  @Option(help: "The checkpoint after training.") var tuned: String
  @Option(name: [.long, .customLong("lora-r"), .customLong("r")], help: "The rank of the factors.") var rank: Int
  @Option(help: "Keep this share of each change's energy with the least rank that does, at most --rank.") var energy: Double?
  @Option(help: ArgumentHelp("Layers that get factors.", valueName: "all-linear|NAMES|REGEX")) var targetModules = "all-linear"
  @Option(
    help: "Parameters that differ and take no factors: save them whole, leave them out, or refuse (exit code 6).")
  var others: AdapterExtraction.Others = .save
  @Option(help: "Stop with exit code 6 if a module keeps less of its change's energy.") var minEnergy = 0.0
  @Option(help: "Seed of the random projections.") var seed: UInt64 = 0
  @Option(name: .shortAndLong, help: "The folder to write.") var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Print what would be written, and write nothing.") var dryRun = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    var options = AdapterExtraction.Options(rank: rank)
    options.energy = energy
    options.targets = targetModules
    options.others = others
    options.minimumEnergy = minEnergy
    options.seed = seed
    options.threads = common.workers
    let extraction = try AdapterExtraction(base: Checkpoint.open(base), tuned: Checkpoint.open(tuned), options)
    let progress = common.progress("extract")
    let report =
      dryRun ? try extraction.report(progress: progress) : try extraction.write(to: output, force: force, progress: progress)
    try report.print("adapter extract", output, common)
  }
}

struct AdapterResizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resize",
    abstract: "Change the rank of an adapter with the smallest possible error.",
    discussion: "The reported errors are exact: they are computed from the singular values that are dropped.")

  @Argument(help: "The adapter folder.") var path: String
  @Option(name: [.long, .customLong("lora-r"), .customLong("r")], help: "The new rank.") var rank: Int?
  @Option(help: "Keep this share of each change's energy with the least rank that does, at most --rank.") var energy: Double?
  @Option(name: .shortAndLong, help: "The folder to write.") var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Print what would be written, and write nothing.") var dryRun = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    let resizing = try AdapterResizing(AdapterFile.open(path), rank: rank, energy: energy)
    let report = dryRun ? try resizing.report() : try resizing.write(to: output, force: force)
    try report.print("adapter resize", output, common)
  }
}

extension AdapterExtraction.Others: ExpressibleByArgument {}

extension FactoringReport {
  /// The account of an adapter whose factors were found.
  fileprivate func print(_ verb: String, _ output: String, _ common: CommonOptions) throws {
    common.warn(warnings + leftBehind)
    if common.json { return try StandardOutput.print(document(verb, output)) }
    for module in modules where common.verbose {
      let old = module.oldRank.map { " (\($0) before)" } ?? ""
      try StandardOutput.print(
        "\(oneLine(module.path)) [\(module.outputs), \(module.inputs)]: rank \(module.rank)\(old), change \(Summary.scientific(module.norm)), "
          + "energy kept \(decimal(module.energy, 6)), error \(Summary.scientific(module.error))")
    }
    for (one, what) in whole.map({ ($0, "whole") }) + left.map({ ($0, "left out") }) where common.verbose {
      try StandardOutput.print(
        "\(oneLine(one.name)): \(what)" + (one.change == nil ? "" : ", differs \(Self.distance(one.change))"))
    }
    let ranks = Set(modules.map(\.rank)).sorted()
    var rows: [(String, String)] = [
      ("output", output),
      ("modules", "\(modules.count), rank " + (ranks.count == 1 ? "\(ranks[0])" : "\(ranks.first ?? 0) to \(ranks.last ?? 0)")),
      (
        "energy kept",
        "\(decimal(energy, 6)) of the change" + (worst.map { ", worst \(decimal($0.energy, 6)) in \(oneLine($0.path))" } ?? "")
      ),
      ("error", "\(Summary.scientific(error)) of its length" + (worst.map { ", worst \(Summary.scientific($0.error))" } ?? "")),
    ]
    if let lastGain { rows.append(("search", "its last step found \(Summary.scientific(lastGain)) of the energy or less")) }
    if !whole.isEmpty {
      let numbers = whole.reduce(0) { $0 + $1.count }
      rows.append(("whole", "\(whole.count) parameters, \(numbers) numbers: \(Summary.list(whole.map(\.name)))"))
    }
    if !left.isEmpty { rows.append(("left out", "\(left.count) parameters: \(Summary.list(left.map(\.name)))")) }
    rows.append(("peak memory", byteText(ResourceUse.now.peakBytes)))
    try Summary.printRows(rows)
  }

  private var leftBehind: [Warning] {
    guard let most = left.max(by: { $0.change ?? .infinity < $1.change ?? .infinity }) else { return [] }
    return [
      Warning(
        .precision,
        "\(left.count) parameters differ and are not in the adapter, most of all \(most.name), \(Self.distance(most.change))")
    ]
  }

  private func document(_ verb: String, _ output: String) -> JSON {
    func others(_ list: [(name: String, count: Int, change: Double?)]) -> JSON {
      .array(list.map { ["name": JSON($0.name), "count": JSON($0.count), "change": $0.change.map { JSON($0) } ?? .null] })
    }
    return [
      "verb": JSON(verb), "output": JSON(output), "energy": JSON(energy), "error": JSON(error),
      "error_worst": JSON(worst?.error ?? 0), "error_worst_module": JSON(worst?.path),
      "last_gain": lastGain.map { JSON($0) } ?? .null,
      "modules": .array(
        modules.map { module in
          [
            "name": JSON(module.path), "outputs": JSON(module.outputs), "inputs": JSON(module.inputs), "rank": JSON(module.rank),
            "old_rank": module.oldRank.map { JSON($0) } ?? .null, "norm": JSON(module.norm), "energy": JSON(module.energy),
            "error": JSON(module.error),
          ]
        }),
      "whole": others(whole), "left": others(left), "peak_memory": JSON(ResourceUse.now.peakBytes), "warnings": JSON(warnings),
    ]
  }
}
