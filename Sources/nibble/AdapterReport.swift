import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

/// What `inspect` says of an adapter folder.
enum AdapterReport {
  static func print(_ path: String, base: String?, _ common: CommonOptions) throws {
    let file = try AdapterFile.open(path)
    let checkpoint = try base.map { try Checkpoint.open($0) }
    let found = try AdapterInspection(file, base: checkpoint, threads: common.workers)
    common.warn(found.warnings)
    try common.json ? printJSON(file, found) : printText(file, found, whole: common.verbose)
    if let mismatch = found.mismatch {
      try StandardOutput.flush()
      throw mismatch
    }
  }

  private static func method(_ config: AdapterConfig) -> String {
    config.methodName
  }

  private static func printText(_ file: AdapterFile, _ found: AdapterInspection, whole: Bool) throws {
    let config = file.config
    let dead = found.modules.filter(\.isDead).count
    var parts = ["\(found.modules.count) modules" + (dead > 0 ? " (\(dead) change nothing)" : "")]
    if !found.replaced.isEmpty { parts.append("\(found.replaced.count) parameters trained whole") }
    try StandardOutput.print(
      "\(method(config)) adapter\(config.taskType.map { ", \(oneLine($0))" } ?? ""): "
        + (parts + ["\(found.parameters) numbers", byteText(found.bytes)]).joined(separator: ", "))
    for group in whole ? Listing.natural(found.modules, \.path).map({ [$0] }) : Listing.groups(found.modules, \.path, alike: kind)
    {
      try StandardOutput.print(line(group))
    }
    for one in found.replaced { try StandardOutput.print("\(oneLine(one.name)) \(one.shape): trained whole") }
    var rows: [(String, String)] = [("base", config.baseName.map(oneLine) ?? "not named")]
    if !found.coverage.isEmpty {
      rows.append(("covers", found.coverage.map { "\(oneLine($0.name)) \($0.adapted) of \($0.count)" }.joined(separator: ", ")))
    }
    if let all = total(found, \.rounding) {
      rows.append(("change", "\(Summary.percent(all.relativeDelta)) of the weights it adapts"))
      rows.append(
        (
          "packed anew",
          total(found, \.packedAnew).map { kept($0) + ": added to the original, which is then packed" }
            ?? "needs the original: give it as --base"
        ))
      if let codes = total(found, \.intoCodes) {
        rows.append(
          ("into the codes", kept(codes) + ": rounded into the codes of the packed base"))
      }
    }
    if let binding = file.binding {
      rows.append(("trained on", binding.base.description + (binding.packing.map { ", \($0)" } ?? "")))
    }
    rows.append(("identity", found.identity.description))
    try Summary.printRows(rows)
  }

  private static func kept(_ sums: ChangeSums) -> String {
    sums.isLostInNoise
      ? "loses the change in rounding noise, \(Summary.noise(sums))" : "keeps \(Summary.survival(sums)) of the change"
  }

  /// What modules on one line have in common.
  private static func kind(_ module: AdapterInspection.Module) -> String {
    "\(module.outputs) \(module.inputs) \(module.rank) \(module.alpha) \(module.isDead) \(module.rounding == nil)"
  }

  private static func line(_ group: [AdapterInspection.Module]) -> String {
    let module = group[0]
    func range(_ values: [Double], _ text: (Double) -> String) -> String {
      let (least, most) = (text(values.min() ?? 0), text(values.max() ?? 0))
      return least == most ? least : "\(least) to \(most)"
    }
    let line =
      "\(Listing.name(group.map(\.path))) [\(module.outputs), \(module.inputs)]: rank \(module.rank) (effective "
      + range(group.map(\.effectiveRank)) { decimal($0, 1) }
      + "), alpha \(decimal(module.alpha, 2)), scale \(range(group.map(\.scale)) { decimal($0, 4) }), "
    if module.isDead { return line + "changes nothing" }
    let sums = group.compactMap(\.rounding)
    guard !sums.isEmpty else { return line + "change \(range(group.map(\.norm), Summary.scientific))" }
    var text =
      line + "change \(range(sums.map { $0.delta.squareRoot() }, Summary.scientific)), "
      + "\(range(sums.map(\.relativeDelta), Summary.percent)) of the weight"
    for (label, sums) in [("packed anew", group.compactMap(\.packedAnew)), ("into the codes", group.compactMap(\.intoCodes))]
    where !sums.isEmpty {
      text += "; \(label) keeps \(range(sums.map(\.survival), Summary.share))"
    }
    return text
  }

  private static func total(_ found: AdapterInspection, _ which: (AdapterInspection.Module) -> ChangeSums?) -> ChangeSums? {
    let sums = found.modules.compactMap(which)
    return sums.isEmpty ? nil : sums.reduce(into: ChangeSums()) { $0 += $1 }
  }

  /// A GGUF file, under llama.cpp's names.
  static func print(_ adapter: GGUFAdapter, _ common: CommonOptions) throws {
    if common.json {
      return try StandardOutput.print([
        "path": JSON(adapter.path), "container": "gguf adapter", "architecture": JSON(adapter.architecture),
        "alpha": JSON(adapter.alpha), "parameters": JSON(adapter.parameters), "bytes": JSON(adapter.bytes),
        "modules": .array(
          adapter.modules.map {
            [
              "name": JSON($0.name), "inputs": JSON($0.inputs), "outputs": JSON($0.outputs), "rank": JSON($0.rank),
              "scale": JSON($0.scale), "norm": JSON($0.norm),
            ]
          }),
      ])
    }
    try StandardOutput.print(
      "LoRA adapter for llama.cpp\(adapter.architecture.map { ", \(oneLine($0))" } ?? ""): \(adapter.modules.count) modules, "
        + "\(adapter.parameters) numbers, \(byteText(adapter.bytes))")
    let entries = adapter.modules.map {
      Listing.Entry(
        name: $0.name, text: "[\($0.outputs), \($0.inputs)]: rank \($0.rank), scale \(decimal($0.scale, 4))",
        detail: "change \(Summary.scientific($0.norm))")
    }
    try Listing.print(entries, whole: common.verbose)
  }

  private static func printJSON(_ file: AdapterFile, _ found: AdapterInspection) throws {
    let all = total(found, \.rounding)
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
            "survival_packed_anew": module.packedAnew.map { JSON($0.survival) } ?? .null,
            "survival_into_codes": module.intoCodes.map { JSON($0.survival) } ?? .null,
          ]
        }),
      "replaced": .array(found.replaced.map { ["name": JSON($0.name), "shape": JSON($0.shape)] }),
      "coverage": .array(
        found.coverage.map { ["name": JSON($0.name), "adapted": JSON($0.adapted), "of": JSON($0.count)] }),
      "relative_delta": all.map { JSON($0.relativeDelta) } ?? .null, "survival_4bit": all.map { JSON($0.survival) } ?? .null,
      "survival_packed_anew": total(found, \.packedAnew).map { JSON($0.survival) } ?? .null,
      "survival_into_codes": total(found, \.intoCodes).map { JSON($0.survival) } ?? .null,
      "trained_on": JSON(file.binding?.base.description), "trained_on_source": JSON(file.binding?.source?.description),
      "identity": JSON(found.identity.description), "mismatch": JSON(found.mismatch?.text.withFlags),
      "warnings": JSON(found.warnings),
    ])
  }
}
