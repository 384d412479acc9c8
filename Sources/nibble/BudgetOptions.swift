import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// Flags that ask for a size and leave the codecs of tensors to what they cost.
struct BudgetOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Choose nf4 or int4 (several block and group sizes), int8 or 16 bit for each packed tensor so that together they take this many bits per weight, by what each costs the model's answers; what --format holds of these.",
      valueName: "bits"))
  var targetBits: Double?

  @Option(help: ArgumentHelp("The same for the size of the whole output, such as 5GB.", valueName: "bytes"))
  var targetSize: String?

  @Option(help: ArgumentHelp("Write the choices as rules, which --tensor @FILE reads.", valueName: "FILE"))
  var writeRules: String?

  var isGiven: Bool { targetBits != nil || targetSize != nil }

  func validate() throws {
    if targetBits != nil, targetSize != nil { throw ValidationError("--target-bits and --target-size exclude each other") }
    if let targetBits, !(targetBits > 0 && targetBits <= 64) { throw ValidationError("--target-bits \(targetBits) is not from 0 to 64") }
    if let targetSize, parseBytes(targetSize) ?? 0 < 1 { throw ValidationError("--target-size '\(targetSize)' is not a size such as 5GB") }
    if writeRules != nil, !isGiven { throw ValidationError("--write-rules goes with --target-bits or --target-size") }
  }

  /// Measures what tensors cost, chooses, and adds the choices to the rules.
  ///
  /// - Returns: what the summary says of it
  func apply(
    to options: inout QuantizeOptions, _ source: Checkpoint, _ spec: OutputSpec, _ calibrating: CalibratingOptions, _ common: CommonOptions,
    force: Bool, isPlan: Bool
  ) throws -> Summary.Extra {
    let palette = PackingPalette(options, in: spec.format), own = spec.format.scheme != nil
    guard options.codec.name == (own ? "int4" : "nf4") else {
      throw NibbleError.usage(
        "--target-bits and --target-size choose among \(palette.names.joined(separator: ", ")) and 16 bit; leave out --codec \(options.codec.name)")
    }
    // Groups of one size only have a place in layouts of other engines.
    if let flag = Arguments.given(own ? [] : ["--block-size", "--group-size"]).first {
      throw NibbleError.usage("--target-bits and --target-size choose sizes of blocks and groups too; leave out \(flag)")
    }
    if calibrating.text.statistics != nil {
      throw NibbleError.usage("--target-bits and --target-size run a text through the model; --statistics does not stand for one there")
    }
    let job = try StreamJob.quantize(source, options, to: spec)
    // What is in the way is found before minutes of work.
    if !spec.path.isEmpty { try job.check(isPlan: isPlan) }
    if let writeRules, !force, PathKind(writeRules) != .nothing {
      throw NibbleError.usage("--write-rules \(writeRules) exists; --force replaces it")
    }
    let text = try ModelText(calibrating.text, seed: calibrating.seed, source, common, threads: common.workers, tokens: BitBudget.tokens)
    let free = Set(job.decisions.filter { $0.reason != .rule }.map(\.tensor.name.text))
    let tensors = try BitBudget.measure(
      job, with: text.model, text.text.windows, palette, names: free, progress: common.progress("measure"))
    Progress.clear()
    let budget = try choose(tensors, palette, job, options, source, spec)
    if !common.quiet { write(table(budget, common.verbose), to: 2) }
    options.rules += try budget.rules.map { try PackingRule($0) }
    if let writeRules {
      let lines = ["# \(decimal(budget.bits, 3)) bits per weight of \(budget.tensors.count) tensors"] + budget.rules
      try TextFile.write(lines.joined(separator: "\n") + "\n", to: writeRules, force: force)
    }
    return summary(budget)
  }

  private func choose(
    _ tensors: [BitBudget.Tensor], _ palette: PackingPalette, _ job: StreamJob, _ options: QuantizeOptions, _ source: Checkpoint,
    _ spec: OutputSpec
  ) throws -> BitBudget {
    func budget(_ bytes: Int) throws -> BitBudget { try BitBudget(tensors, bytes: bytes) { palette.bond($0.name) } }
    let elements = tensors.reduce(0) { $0 + $1.elements }
    if let targetBits { return try budget(Int(targetBits * Double(elements) / 8)) }
    let size = targetSize.flatMap(parseBytes) ?? 0
    // What the rest takes is known when the choices are; a choice's own record may take a few bytes more than another's.
    var room = size - job.prediction().outputBytes + packedBytes(job, tensors)
    while true {
      let found = try budget(room)
      var chosen = options
      chosen.rules += try found.rules.map { try PackingRule($0) }
      let excess = try StreamJob.quantize(source, chosen, to: spec).prediction().outputBytes - size
      if excess <= 0 { return found }
      room = min(room, found.bytes) - excess
    }
  }

  private func packedBytes(_ job: StreamJob, _ tensors: [BitBudget.Tensor]) -> Int {
    let names = Set(tensors.map(\.name))
    return job.items.filter { names.contains($0.source.name.text) }
      .reduce(0) { $0 + $1.target.encoding.storedBytes($1.target.dtype, $1.target.shape) }
  }

  /// How many tensors got which codec, with `all` each of them.
  private func table(_ budget: BitBudget, _ all: Bool) -> String {
    let choices = zip(budget.tensors, budget.choices)
    let codecs = Dictionary(grouping: choices) { $0.1.codec }
    var lines = ["nibble: \(decimal(budget.bits, 3)) bits per weight in \(budget.tensors.count) tensors"]
    func line(_ cells: [String]) -> String {
      zip(cells, [14, 8, 6, 10, 10]).map { cell, width in cell + String(repeating: " ", count: max(0, width - cell.count)) }.joined(separator: "  ")
    }
    lines.append("  " + line(["codec", "tensors", "bits", "size", "cost"]))
    let rows = codecs.map { codec, own -> (bits: Double, cells: [String]) in
      let bytes = own.reduce(0) { $0 + $1.1.bytes }, bits = 8 * Double(bytes) / Double(max(own.reduce(0) { $0 + $1.0.elements }, 1))
      return (bits, [codec, "\(own.count)", decimal(bits, 3), byteText(bytes), Summary.scientific(own.reduce(0) { $0 + $1.1.cost })])
    }
    for row in rows.sorted(by: { ($0.bits, $0.cells[0]) < ($1.bits, $1.cells[0]) }) { lines.append("  " + line(row.cells)) }
    if all { lines += choices.map { "  \(oneLine($0.name)): \($1.codec), cost \(Summary.scientific($1.cost))" } }
    return lines.joined(separator: "\n") + "\n"
  }

  private func summary(_ budget: BitBudget) -> Summary.Extra {
    Summary.Extra(
      rows: [
        ("budget", "\(decimal(budget.bits, 3)) bits per weight in \(budget.tensors.count) tensors, whose costs add up to \(Summary.scientific(budget.cost))")
      ],
      members: [
        (
          "budget",
          [
            "bits": JSON(budget.bits), "bytes": JSON(budget.bytes), "cost": JSON(budget.cost),
            "tensors": .array(
              zip(budget.tensors, budget.choices).map {
                ["name": JSON($0.name), "codec": JSON($1.codec), "bytes": JSON($1.bytes), "cost": JSON($1.cost)]
              }),
          ]
        )
      ])
  }
}
