import NibbleCore

/// All steps of a plan, each once however many cells need it, and which of them each run of a cell is made of.
package struct StepGraph: Sendable {
  /// A cell with one of its seeds.
  package struct Run: Sendable {
    /// The place of the cell in the plan.
    package let cell: Int
    package let seed: Int?
    /// In the order of the chain. Names are `quantize`, `finetune`, `merge`, and those of tasks.
    package let steps: [(name: String, key: StepKey)]

    package func step(_ name: String) -> StepKey? { steps.first { $0.name == name }?.key }
  }

  package private(set) var steps: [StepKey: Step] = [:]
  /// In the order of the plan; what a step needs comes before it.
  package private(set) var order: [StepKey] = []
  package private(set) var runs: [Run] = []

  /// - Parameter keepsAnswers: whether `evaluate` can write what a model says in a task
  /// - Throws: `.usage` for chains that do not hold together, `.badInput` for files that cannot be read
  package init(_ plan: SweepPlan, path: String, keepsAnswers: (_ task: String?) -> Bool = { _ in false }) throws {
    var identity = InputIdentity()
    for (place, cell) in plan.cells.enumerated() {
      for seed in cell.seeds { runs.append(try run(cell, place, seed, path, keepsAnswers, &identity)) }
    }
  }

  private mutating func add(_ step: Step) -> StepKey {
    if steps.updateValue(step, forKey: step.key) == nil { order.append(step.key) }
    return step.key
  }

  private mutating func run(
    _ cell: Cell, _ place: Int, _ seed: Int?, _ path: String, _ keepsAnswers: (String?) -> Bool, _ identity: inout InputIdentity
  ) throws -> Run {
    func fail(_ line: Int, _ reason: MessageText) -> NibbleError { .usage("\(path: "\(path):\(line)"): cell \(subject: cell.title): \(reason)") }
    var made: [(name: String, key: StepKey)] = []
    var packed: StepKey?
    /// `packed` stands for what `quantize` writes.
    func resolved(_ options: [PlanOption]) throws -> [PlanOption] {
      try options.map { option in
        guard ["base", "compare-to"].contains(option.name), option.text == "packed" else { return option }
        guard let packed else { throw fail(option.line, "\(key: option.name): there is no quantize whose output could be 'packed'") }
        return PlanOption(option.name, [.output(of: packed)], line: option.line)
      }
    }
    func base(_ options: [PlanOption]) -> [PlanOption] {
      guard options["base"] == nil, let packed else { return options }
      return [PlanOption("base", [.output(of: packed)], line: cell.line)] + options
    }
    if let options = cell.chain.quantize, Self.usesPacked(cell.chain) {
      let isBlockFile = options["format"] == nil || options["format"]?.text == "nbl"
      packed = add(try Step(.quantize, options, output: isBlockFile ? "packed.nbl" : "packed", line: cell.line, identity: &identity))
      if let packed { made.append(("quantize", packed)) }
    }
    var trained: StepKey?, isModel = false, model: PlanOption?
    if var options = try cell.chain.finetune.map(resolved) {
      options = base(options)
      guard let source = options["base"] else { throw fail(cell.line, "finetune has no base") }
      model = source
      if let seed { options = options.setting(PlanOption("seed", [.text(String(seed))], line: cell.line)) }
      isModel = options["method"]?.text == "full"
      let key = add(try Step(.finetune, options, output: isModel ? "model" : "adapter", line: cell.line, identity: &identity))
      (trained, made) = (key, made + [("finetune", key)])
    }
    // A cell without training is the model that others train on.
    model = model ?? packed.map { PlanOption("base", [.output(of: $0)], line: cell.line) }
    var merged: StepKey?
    if var options = try cell.chain.merge.map(resolved), !isModel || cell.chain.finetune == nil {
      if options["base"] == nil, let model { options = [model] + options }
      if let trained { options = options + [PlanOption("adapter", [.output(of: trained)], line: cell.line)] }
      guard let base = options["base"], options["adapter"] != nil else { throw fail(cell.line, "merge needs a base and an adapter") }
      let isBlockFile = Self.isBlockFile(base, packed, steps) && options["format"] == nil || options["format"]?.text == "nbl"
      let key = add(try Step(.merge, options, output: isBlockFile ? "merged.nbl" : "merged", line: cell.line, identity: &identity))
      (merged, made) = (key, made + [("merge", key)])
    }
    for task in cell.chain.tasks {
      var options = try resolved(task.options)
      let subject = task.subject ?? (merged != nil ? .merged : trained != nil ? .adapter : .base)
      let own = options["base"] ?? model
      switch subject {
      case .base: options = try [own ?? { throw fail(task.line, "\(key: task.name): nothing says which model is measured: base") }()] + options.filter { $0.name != "base" }
      case .adapter:
        guard let trained else { throw fail(task.line, "\(key: task.name): on: adapter, but nothing is trained") }
        options = options.filter { $0.name != "base" }
        if isModel {
          options = [PlanOption("base", [.output(of: trained)], line: task.line)] + options
        } else if let own {
          options = [own, PlanOption("adapter", [.output(of: trained)], line: task.line)] + options
        }
      case .merged:
        // A model that is trained whole has nothing to merge.
        guard let key = merged ?? (isModel ? trained : nil) else { throw fail(task.line, "\(key: task.name): on: merged, but nothing is merged") }
        options = [PlanOption("base", [.output(of: key)], line: task.line)] + options.filter { $0.name != "base" }
      }
      let output = keepsAnswers(options["task"]?.text) ? "predictions.jsonl" : nil
      made.append((task.name, add(try Step(.evaluate, options, output: output, line: task.line, task: task.name, identity: &identity))))
    }
    return Run(cell: place, seed: seed, steps: made)
  }

  /// Whether a cell has a use for what `quantize` writes. One whose base is another does not pack.
  private static func usesPacked(_ chain: Chain) -> Bool {
    guard let finetune = chain.finetune else { return true }
    let bases = [finetune["base"]?.text] + [chain.merge?["base"]?.text] + chain.tasks.flatMap { [$0.options["base"]?.text, $0.options["compare-to"]?.text] }
    return finetune["base"] == nil || bases.contains("packed")
  }

  private static func isBlockFile(_ base: PlanOption, _ packed: StepKey?, _ steps: [StepKey: Step]) -> Bool {
    switch base.values.first {
    case .output(let key)?: steps[key]?.output == "packed.nbl"
    case .text(let text)?: text.hasSuffix(".nbl")
    case nil: false
    }
  }
}
