import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

struct AdapterCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "adapter", abstract: "Inspect, check, combine, extract, resize and convert adapters.",
    subcommands: [
      AdapterInspectCommand.self, AdapterCheckCommand.self, AdapterCombineCommand.self, AdapterExtractCommand.self, AdapterResizeCommand.self,
      AdapterConvertCommand.self,
    ])
}

struct AdapterInspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show what an adapter holds: ranks, scales, norms, how much of a base it covers, how much a merge would keep.",
    discussion: """
      The effective rank is the exponential of the entropy of the normalized singular values. --base compares the change with the base's \
      weights and measures what a merge would keep, without writing one. "Packed anew" adds the change to the original weights and packs \
      the sum. "Into the codes" rounds the change into the codes of a packed base, which often keeps nothing of a small change. For an adapter that does not fit the base, the rest is printed, and the \
      exit code is 5.
      """)

  @Argument(help: "The adapter: PEFT's folder, or a GGUF file.") var path: String
  @Option(name: [.long, .customShort("m")], help: "The checkpoint it is for.") var base: String?
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard GGUFAdapter.isOne(path) else { return try AdapterReport.print(path, base: base, common) }
    guard base == nil else {
      throw NibbleError.usage("\(path) is a GGUF file; 'nibble adapter convert --to peft' makes a folder that --base is compared with")
    }
    try AdapterReport.print(try GGUFAdapter(path), common)
  }
}

struct AdapterCombineCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "combine",
    abstract: "Combine adapters into one: the weighted sum of their changes, or one of PEFT's methods.",
    discussion: """
      cat gives the exact sum; its rank is the sum of the ranks. svd is the best approximation of the sum with the largest rank, or \
      with --svd-rank. The other methods combine factors as PEFT does, which is not the sum of the changes: linear adds them; ties \
      averages the largest numbers (--density) of one sign; magnitude_prune adds the largest numbers; dare_linear and dare_ties keep \
      random numbers (--seed) and scale them up.
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
  @Flag(help: "Print what would be written, and write nothing.") var dryRun = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard !(paths + flags).isEmpty else { throw NibbleError.usage("no adapters given; see 'nibble adapter combine --help'") }
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
        isExact ? "kept" : "differs by up to \(Summary.percent(report.worstError)), in \(oneLine(report.worstModule))"
      ),
    ])
  }
}
