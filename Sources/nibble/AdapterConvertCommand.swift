import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats

struct AdapterConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert",
    abstract: "Convert an adapter between PEFT's folder, mlx-lm's folder and llama.cpp's GGUF file.",
    discussion: """
      Before the output becomes visible, nibble reads it back and compares the change of each module. Features that the other layout \
      cannot hold are refused by name. GGUF needs --base: its configuration gives the names of tensors and the order of rows. For \
      other layouts, --base checks that the adapter fits and gives target_modules short names.

      A folder of PEFT's layout is rewritten as a plain LoRA adapter, if it is of a method that folds into one: qalora, iec, qbara. \
      peft-uniform has one rank and one scale for all modules: vLLM and LoRAX read no patterns and would scale the others wrong. \
      --qalora-gain is for QA-LoRA adapters whose configuration does not say that they are: it records groups and gain as PEFT does.
      """)

  @Argument(help: "The adapter: a folder, or a GGUF file.") var path: String
  @Option(help: "peft, peft-uniform, mlx, gguf (default: gguf where OUT ends so, else peft).") var to: AdapterConversion.Layout?
  @Option(help: "The checkpoint it is for.") var base: String?
  @Option(name: .shortAndLong, help: "The folder or GGUF file to write.") var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @Option(help: "The gain of a QA-LoRA adapter that does not say it: groups (PEFT's), mean (the paper's program) or sum (its read-me).")
  var qaloraGain: String?
  @Option(help: "With --qalora-gain: inputs per group.") var qaloraGroupSize = 32
  @Flag(help: "Print what would be written, and write nothing.") var dryRun = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    let isNamedGGUF = output.lowercased().hasSuffix(".gguf")
    let to = self.to ?? (isNamedGGUF ? .gguf : .peft)
    guard (to == .gguf) == isNamedGGUF else {
      throw NibbleError.usage(
        to == .gguf ? "\(output): a GGUF file's name ends in .gguf" : "\(output) is named as a GGUF file, --to is \(to.rawValue)")
    }
    if let qaloraGain {
      guard to == .peft, !dryRun else { throw NibbleError.usage("--qalora-gain writes PEFT's layout, and goes with neither --to nor --dry-run") }
      let modules = try RecordedGain(path, gain: qaloraGain, groupSize: qaloraGroupSize).write(to: output, force: force)
      if common.json { return try StandardOutput.print(["verb": "adapter convert", "output": JSON(output), "modules": JSON(modules)]) }
      return try Summary.printRows([("output", output), ("modules", "\(modules), QA-LoRA by groups of \(qaloraGroupSize), with PEFT's gain")])
    }
    let conversion = try AdapterConversion(path, to: to, base: base.map { try Checkpoint.open($0) })
    let report = dryRun ? try conversion.report() : try conversion.write(to: output, force: force)
    common.warn(report.warnings)
    if common.json {
      return try StandardOutput.print([
        "verb": "adapter convert", "output": JSON(output), "from": JSON(report.from.rawValue), "to": JSON(report.to.rawValue),
        "modules": JSON(report.modules), "rank": JSON(report.rank), "checked": .bool(!dryRun),
        "difference": dryRun ? .null : JSON(report.difference), "difference_module": dryRun ? .null : JSON(report.worstModule),
        "warnings": JSON(report.warnings),
      ])
    }
    var rows = [
      ("output", output), ("layout", "\(report.from.rawValue) → \(report.to.rawValue)"),
      ("modules", "\(report.modules), rank \(report.rank)"),
    ]
    if !dryRun {
      rows.append(
        (
          "check",
          "read again: the change of each module is the same to \(Summary.scientific(report.difference)), worst in \(oneLine(report.worstModule))"
        ))
    }
    try Summary.printRows(rows)
  }
}

extension AdapterConversion.Layout: ExpressibleByArgument {}
