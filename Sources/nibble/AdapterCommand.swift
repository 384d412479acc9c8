import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

struct AdapterCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "adapter", abstract: "Work on adapters alone: look into them, combine, extract, resize, convert them.",
    subcommands: [
      AdapterInspectCommand.self, AdapterCombineCommand.self, AdapterExtractCommand.self, AdapterResizeCommand.self,
      AdapterConvertCommand.self,
    ])
}

struct AdapterInspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show what an adapter holds: ranks, scales, norms, what of a base it covers, what 4 bits would keep of it.",
    discussion: """
      The effective rank is exp of the entropy of the shares that singular values have in their sum. With --base the change is \
      compared with the base's weights, and survival is what plain rounding to 4 bits would keep of it: of the base's own codes, \
      or of NF4 made from a plain base with the change added.
      """)

  @Argument(help: "The adapter folder.") var path: String
  @Option(help: "The checkpoint it is for.") var base: String?
  @OptionGroup var common: CommonOptions

  func run() throws { try AdapterReport.print(path, base: base, common) }
}

struct AdapterCombineCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "combine",
    abstract: "Make one adapter of several: the weighted sum of their deltas, or what PEFT makes of them.",
    discussion: """
      cat keeps the sum exactly, with the sum of the ranks; svd is the best approximation of the sum with the largest rank or \
      --svd-rank. The others combine factors, as PEFT does, which is not the sum: linear adds them; ties keeps the greatest numbers \
      (--density) of one sign and averages them; magnitude_prune adds the greatest numbers; dare_linear and dare_ties keep \
      numbers at random (--seed) and scale them up.
      """)

  @Argument(help: ArgumentHelp("Adapter folders, with a weight where it is not 1.", valueName: "DIR[:WEIGHT]"))
  var paths: [String] = []

  @Option(
    name: .customLong("adapter"), parsing: .singleValue,
    help: ArgumentHelp("The same as a flag; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var flags: [String] = []

  @Option(name: .shortAndLong, help: "The folder to write.") var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @Option(help: "cat, linear, svd, ties, magnitude_prune, dare_linear, dare_ties.") var method: MergeOptions.Method = .cat
  @OptionGroup var combination: CombinationOptions
  @Flag(help: "Combine adapters of different bases too.") var anyBase = false
  @Flag(help: "Say what would come out and write nothing.") var dryRun = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard !(paths + flags).isEmpty else { throw NibbleError.usage("adapter combine: which adapters?") }
    var options = MergeOptions(try WeightedAdapters.open(paths + flags))
    try combination.apply(method, to: &options)
    let combination = try AdapterCombination(options, anyBase: anyBase)
    let report = dryRun ? try combination.report() : try combination.write(to: output, force: force)
    common.warn(report.warnings)
    if common.json {
      return try StandardOutput.print([
        "verb": "adapter combine", "output": JSON(output), "method": JSON(method.rawValue), "modules": JSON(report.modules),
        "rank": JSON(report.rank), "error_worst": JSON(report.worstError), "error_worst_module": JSON(report.worstModule),
        "warnings": JSON(report.warnings),
      ])
    }
    let isExact = report.worstError < 1e-5
    try Summary.printRows([
      ("output", output), ("modules", "\(report.modules), rank \(report.rank)"),
      (
        "sum of deltas",
        isExact ? "kept" : "up to \(Summary.percent(report.worstError)) of it away, in \(oneLine(report.worstModule))"
      ),
    ])
  }
}

/// What `inspect` says of an adapter folder.
enum AdapterReport {
  static func print(_ path: String, base: String?, _ common: CommonOptions) throws {
    let file = try AdapterFile.open(path)
    let checkpoint = try base.map { try Checkpoint.open($0) }
    let found = try AdapterInspection(file, base: checkpoint, threads: common.workers)
    common.warn(found.warnings)
    try common.json ? printJSON(file, found) : printText(file, found)
  }

  private static func method(_ config: AdapterConfig) -> String {
    config.isDoRA ? "DoRA" : config.isRankStabilized ? "rsLoRA" : "LoRA"
  }

  private static func printText(_ file: AdapterFile, _ found: AdapterInspection) throws {
    for module in found.modules {
      var line =
        "\(oneLine(module.path)) [\(module.outputs), \(module.inputs)]: rank \(module.rank) (effective \(decimal(module.effectiveRank, 1))), "
        + "alpha \(decimal(module.alpha, 2)), scale \(decimal(module.scale, 4)), "
      if module.isDead {
        line += "dead: it changes nothing"
      } else if let sums = module.rounding {
        line +=
          "change \(Summary.scientific(sums.delta.squareRoot())), \(Summary.percent(sums.relativeDelta)) of the weight; 4 bits keep \(decimal(sums.survival, 3))"
      } else {
        line += "change \(Summary.scientific(module.norm))"
      }
      try StandardOutput.print(line)
    }
    for one in found.replaced { try StandardOutput.print("\(oneLine(one.name)) \(one.shape): trained whole") }
    let config = file.config
    let dead = found.modules.filter(\.isDead).count
    var rows: [(String, String)] = [
      ("adapter", method(config) + (config.taskType.map { ", \(oneLine($0))" } ?? "")),
      ("base", config.baseName.map(oneLine) ?? "not named"),
      (
        "tensors",
        "\(found.modules.count) modules (\(dead) dead), \(found.replaced.count) parameters trained whole, \(found.parameters) numbers, \(byteText(found.bytes))"
      ),
    ]
    if !found.coverage.isEmpty {
      rows.append(("covers", found.coverage.map { "\(oneLine($0.name)) \($0.adapted) of \($0.count)" }.joined(separator: ", ")))
    }
    if let all = total(found) {
      rows.append(("change", "\(Summary.percent(all.relativeDelta)) of the weights it adapts"))
      rows.append(("4 bits keep", decimal(all.survival, 4)))
    }
    if let binding = file.binding {
      rows.append(("trained on", binding.base.description + (binding.packing.map { ", \($0)" } ?? "")))
    }
    rows.append(("identity", found.identity.description))
    try Summary.printRows(rows)
  }

  private static func total(_ found: AdapterInspection) -> ChangeSums? {
    let sums = found.modules.compactMap(\.rounding)
    return sums.isEmpty ? nil : sums.reduce(into: ChangeSums()) { $0 += $1 }
  }

  private static func printJSON(_ file: AdapterFile, _ found: AdapterInspection) throws {
    let all = total(found)
    try StandardOutput.print([
      "path": JSON(file.path), "container": "adapter", "method": JSON(method(file.config)),
      "task_type": JSON(file.config.taskType),
      "base_model_name_or_path": JSON(file.config.baseName), "parameters": JSON(found.parameters), "bytes": JSON(found.bytes),
      "dead_modules": JSON(found.modules.filter(\.isDead).map(\.path)),
      "modules": .array(
        found.modules.map { module in
          [
            "name": JSON(module.path), "inputs": JSON(module.inputs), "outputs": JSON(module.outputs), "rank": JSON(module.rank),
            "effective_rank": JSON(module.effectiveRank), "alpha": JSON(module.alpha), "scale": JSON(module.scale),
            "norm": JSON(module.norm), "dead": .bool(module.isDead),
            "relative_delta": module.rounding.map { JSON($0.relativeDelta) } ?? .null,
            "survival_4bit": module.rounding.map { JSON($0.survival) } ?? .null,
          ]
        }),
      "replaced": .array(found.replaced.map { ["name": JSON($0.name), "shape": JSON($0.shape)] }),
      "coverage": .array(
        found.coverage.map { ["name": JSON($0.name), "adapted": JSON($0.adapted), "of": JSON($0.count)] }),
      "relative_delta": all.map { JSON($0.relativeDelta) } ?? .null, "survival_4bit": all.map { JSON($0.survival) } ?? .null,
      "trained_on": JSON(file.binding?.base.description), "trained_on_source": JSON(file.binding?.source?.description),
      "identity": JSON(found.identity.description), "warnings": JSON(found.warnings),
    ])
  }
}
