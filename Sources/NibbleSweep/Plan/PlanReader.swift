import NibbleCore

/// Who knows the options of verbs: the option's own name for one of its names.
///
/// - Throws: an error that says what was probably meant
package typealias Spelling = @Sendable (_ name: String, _ verb: Verb) throws -> String

extension SweepPlan {
  /// Reads a plan.
  ///
  /// - Parameters:
  ///   - variables: values for the plan's `variables`, which win over those in the plan
  ///   - spelling: knows the options of verbs
  /// - Throws: `.usage` or `.badInput`, naming file, line and key
  package init(_ path: String, variables: [String: String] = [:], spelling: @escaping Spelling) throws {
    let file = try InputFile(path)
    guard file.size <= 1 << 20 else { throw NibbleError.badInput("\(path: path): a plan of \(file.size) bytes; at most \(1 << 20) are read") }
    guard let text = String(validating: try file.bytes(at: 0, count: file.size), as: UTF8.self) else {
      throw NibbleError.badInput("\(path: path): no text in UTF-8")
    }
    self = try SweepPlan(text, path: path, variables: variables, spelling: spelling)
  }

  /// The same of a plan that was read already. `path` is for messages.
  package init(_ text: String, path: String, variables: [String: String] = [:], spelling: @escaping Spelling) throws {
    var reader = PlanReader(path: path, spelling: spelling)
    self = try reader.plan(text, variables)
  }
}

/// Reads the keys of a plan.
struct PlanReader {
  let path: String
  let spelling: Spelling
  private var variables: [String: String] = [:]

  init(path: String, spelling: @escaping Spelling) { (self.path, self.spelling) = (path, spelling) }

  /// Keys of a plan, and of each of its experiments.
  private static let keys: Set = ["quantize", "finetune", "merge", "evaluate", "grid", "cells", "seeds"]
  /// Keys of a plan alone.
  private static let own: Set = ["name", "variables", "experiments", "metrics"]
  /// Options that are the sweep's to choose.
  private static let reserved: Set = [
    "output", "force", "resume", "dry-run", "json", "quiet", "verbose", "threads", "config", "show-batch", "predictions", "help", "version"
  ]

  /// What experiments have in common, and what each may say otherwise.
  private struct Common {
    var chain = Chain()
    var grid: YAML.Entry?
    var cells: YAML.Entry?
    var seeds: [Int?] = [nil]
    var hasSeeds = false
  }

  mutating func plan(_ text: String, _ given: [String: String]) throws -> SweepPlan {
    let entries: [YAML.Entry]
    switch try YAML.parse(text, place: path) {
    case .mapping(let list)?: entries = list
    default: throw NibbleError.usage("\(path: path): not a plan: a list of 'key: value' lines")
    }
    for entry in entries where !Self.keys.contains(entry.key) && !Self.own.contains(entry.key) {
      throw fail(entry, "no key of a plan; there are \((Self.own.sorted() + Self.keys.sorted()).joined(separator: ", "))")
    }
    func entry(_ key: String) -> YAML.Entry? { entries.first { $0.key == key } }
    try readVariables(entry("variables"), given)
    let name = try entry("name").map { try self.name($0, $0.value) } ?? Self.stem(path)
    let figures = try entry("metrics").map { try texts($0) } ?? []
    var common = Common()
    try read(entries, into: &common)
    var experiments: [Experiment] = []
    if let list = entry("experiments") {
      guard case .mapping(let named) = list.value, !named.isEmpty else { throw fail(list, "not a list of named experiments") }
      for one in named {
        guard case .mapping(let inner) = one.value else { throw fail(one, "not an experiment: a list of 'key: value' lines") }
        for entry in inner where !Self.keys.contains(entry.key) {
          throw fail(entry, "no key of an experiment; there are \(Self.keys.sorted().joined(separator: ", "))")
        }
        var own = common
        try read(inner, into: &own)
        experiments.append(try experiment(self.name(one, .scalar(one.key)), own, one))
      }
    } else {
      experiments = [try experiment(name, common, entries.first)]
    }
    let runs = experiments.reduce(0) { $0 + $1.cells.reduce(0) { $0 + $1.seeds.count } }
    guard runs <= SweepPlan.maximumRuns else { throw tooMany(runs) }
    return SweepPlan(name: name, experiments: experiments, figures: figures, text: text)
  }

  private func tooMany(_ runs: Int) -> NibbleError {
    .usage("\(path: path): the plan asks for \(runs == .max ? "far more" : "\(runs)") runs, cells times seeds; at most \(SweepPlan.maximumRuns) are taken")
  }

  func fail(_ entry: YAML.Entry, _ reason: MessageText, _ kind: NibbleError.Kind = .usage) -> NibbleError {
    NibbleError(kind, "\(path: "\(path):\(entry.line)"): \(key: entry.key): \(reason)")
  }

  private static func stem(_ path: String) -> String {
    let last = path.split(separator: "/").last.map(String.init) ?? path
    return last.hasSuffix(".yaml") ? String(last.dropLast(5)) : last.hasSuffix(".yml") ? String(last.dropLast(4)) : last
  }

  // MARK: Values

  private mutating func readVariables(_ entry: YAML.Entry?, _ given: [String: String]) throws {
    var named: [YAML.Entry] = []
    if let entry {
      guard case .mapping(let list) = entry.value else { throw fail(entry, "not a list of 'NAME: value' lines") }
      named = list
    }
    if let stranger = given.keys.sorted().first(where: { key in !named.contains { $0.key == key } }) {
      throw NibbleError.usage("\(path: path): the plan has no variable \(subject: stranger)")
    }
    for one in named {
      guard case .scalar(let text) = one.value else { throw fail(one, "the value of a variable is one text") }
      variables[one.key] = given[one.key] ?? text
    }
    for one in named where variables[one.key] == "" { throw fail(one, "the variable has no value; \(.set, "\(one.key)=VALUE") gives it one") }
  }

  /// `text` with what stands for each `${NAME}`.
  private func filled(_ text: String, _ entry: YAML.Entry) throws -> String {
    var (out, rest) = ("", text[...])
    while let start = rest.firstRange(of: "${") {
      guard let end = rest[start.upperBound...].firstIndex(of: "}") else { throw fail(entry, "'${' without '}'") }
      let name = String(rest[start.upperBound..<end])
      guard let value = variables[name] else { throw fail(entry, "the plan has no variable \(subject: name)") }
      out += rest[..<start.lowerBound] + value
      rest = rest[rest.index(after: end)...]
    }
    return out + rest
  }

  private func scalar(_ entry: YAML.Entry, _ value: YAML) throws -> String {
    guard case .scalar(let text) = value else { throw fail(entry, "not one text or number") }
    return try filled(text, entry)
  }

  /// A text, or a list of texts.
  private func texts(_ entry: YAML.Entry, _ value: YAML) throws -> [String] {
    guard case .sequence(let list) = value else { return [try scalar(entry, value)] }
    guard !list.isEmpty else { throw fail(entry, "an empty list") }
    return try list.map { try scalar(entry, $0) }
  }

  private func texts(_ entry: YAML.Entry) throws -> [String] { try texts(entry, entry.value) }

  private func name(_ entry: YAML.Entry, _ value: YAML) throws -> String {
    let text = try scalar(entry, value)
    guard !text.isEmpty, text.utf8.count <= 100, oneLine(text) == text else { throw fail(entry, "\(quoted(oneLine(text))) is no name: one line of at most 100 bytes") }
    return text
  }

  private static func isNone(_ value: YAML) -> Bool { if case .scalar("none") = value { true } else { false } }

  // MARK: Verbs

  private func read(_ entries: [YAML.Entry], into common: inout Common) throws {
    for entry in entries {
      switch entry.key {
      case "quantize", "finetune", "merge":
        guard let verb = Verb(rawValue: entry.key) else { continue }
        common.chain[verb] = Self.isNone(entry.value) ? nil : try options(entry, verb).reduce(common.chain[verb] ?? []) { $0.setting($1) }
      case "evaluate": common.chain.tasks = Self.isNone(entry.value) ? [] : try tasks(entry)
      case "grid": common.grid = entry
      case "cells": common.cells = entry
      case "seeds":
        common.seeds = try texts(entry).map { text in
          guard let seed = Int(text), seed >= 0 else { throw fail(entry, "\(quoted(text)) is no seed: a whole number from 0 on") }
          return seed
        }
        common.hasSeeds = true
        guard Set(common.seeds).count == common.seeds.count else { throw fail(entry, "a seed twice") }
      default: break
      }
    }
  }

  /// The options of a verb, in the order of the plan.
  private func options(_ entry: YAML.Entry, _ verb: Verb, but other: Set<String> = []) throws -> [PlanOption] {
    guard case .mapping(let list) = entry.value else { throw fail(entry, "not options: a list of 'option: value' lines") }
    return try list.filter { !other.contains($0.key) }.reduce([]) { all, one in
      let option = try option(one, one.key, verb, try texts(one))
      guard all[option.name] == nil else { throw fail(one, "the same option as a line above: \(option.name)") }
      return all + [option]
    }
  }

  private func option(_ entry: YAML.Entry, _ key: String, _ verb: Verb, _ values: [String]) throws -> PlanOption {
    let name: String
    do { name = try spelling(key.replacing("_", with: "-"), verb) } catch let error as NibbleError {
      throw NibbleError(error.kind, "\(path: "\(path):\(entry.line)"): \(key: entry.key): " + error.text)
    }
    guard !Self.reserved.contains(name) else { throw fail(entry, "a sweep sets \(name) itself") }
    return PlanOption(name, values.map { .text($0) }, line: entry.line)
  }

  private func tasks(_ entry: YAML.Entry) throws -> [Task] {
    guard case .mapping(let list) = entry.value, !list.isEmpty else { throw fail(entry, "not a list of named tasks") }
    return try list.map { one in
      guard case .mapping(let inner) = one.value else { throw fail(one, "not options: a list of 'option: value' lines") }
      var task = Task(name: try name(one, .scalar(one.key)), options: try options(one, .evaluate, but: ["on"]), line: one.line)
      guard !task.name.contains(".") else { throw fail(one, "the name of a task has no '.'") }
      if let on = inner.first(where: { $0.key == "on" }) {
        let text = try scalar(on, on.value)
        guard let subject = Task.Subject(rawValue: text) else {
          throw fail(on, "\(quoted(text)) is nothing to measure; there are \(Task.Subject.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        task.subject = subject
      }
      return task
    }
  }

  // MARK: What varies

  private func experiment(_ name: String, _ common: Common, _ entry: YAML.Entry?) throws -> Experiment {
    let (chain, place) = (common.chain, entry ?? YAML.Entry(key: name, value: .scalar(""), line: 1))
    guard chain.quantize != nil || chain.finetune != nil || !chain.tasks.isEmpty else {
      throw fail(place, "nothing to run: a plan has a quantize, a finetune or an evaluate")
    }
    guard !common.hasSeeds || chain.finetune != nil else { throw fail(place, "seeds are of finetune, which the plan does not run") }
    if common.hasSeeds, let seed = chain.finetune?["seed"] {
      throw NibbleError.usage("\(path: "\(path):\(seed.line)"): \(key: "seed"): the plan has seeds, too")
    }
    var axes: [Axis] = []
    if let cells = common.cells, !Self.isNone(cells.value) { axes.append(try named(cells, chain)) }
    if let grid = common.grid, !Self.isNone(grid.value) { axes += try self.axes(grid, chain) }
    // Counted before anything is made of them.
    let runs = axes.reduce(common.seeds.count) { count, axis in
      let (product, overflow) = count.multipliedReportingOverflow(by: axis.variants.count)
      return overflow ? .max : product
    }
    guard runs <= SweepPlan.maximumRuns else { throw tooMany(runs) }
    let names = axes.flatMap { $0.variants[0].values.map(\.name) }
    if let twice = names.first(where: { one in names.count { $0 == one } > 1 }) { throw fail(place, "\(subject: twice) varies twice") }
    var choices: [[Variant]] = [[]]
    for axis in axes { choices = choices.flatMap { choice in axis.variants.map { choice + [$0] } } }
    let cells = try choices.map { try cell(name, $0, common, place) }
    return Experiment(name: name, axes: axes, cells: cells)
  }

  private func named(_ entry: YAML.Entry, _ chain: Chain) throws -> Axis {
    guard case .mapping(let list) = entry.value, !list.isEmpty else { throw fail(entry, "not a list of named sets of options") }
    let variants = try list.map { one in
      let inner: [YAML.Entry]
      switch one.value {
      case .mapping(let entries): inner = entries
      case .scalar(""): inner = []
      default: throw fail(one, "not a set of options: a list of 'option: value' lines")
      }
      return Variant(
        values: [CellValue("cell", try name(one, .scalar(one.key)))],
        changes: try inner.map { try change($0, $0.key, texts($0), chain) }, line: one.line)
    }
    return Axis(name: "cell", variants: variants)
  }

  /// An option of a verb (`quantize.encoder`, else of finetune, or of the only verb there is), or a verb that is left out.
  private func change(_ entry: YAML.Entry, _ key: String, _ values: [String], _ chain: Chain) throws -> Variant.Change {
    if let verb = Verb(rawValue: key), verb != .evaluate {
      guard values == ["none"] else { throw fail(entry, "a cell leaves a verb out with '\(key): none'; its options are '\(key).OPTION: value'") }
      guard chain[verb] != nil else { throw fail(entry, "the plan has no \(key)") }
      return .without(verb)
    }
    let (verb, name) = try verb(entry, key, chain)
    return .option(verb, try option(entry, name, verb, values))
  }

  private func verb(_ entry: YAML.Entry, _ key: String, _ chain: Chain) throws -> (Verb, String) {
    let halves = key.split(separator: ".", maxSplits: 1)
    if halves.count == 2, let verb = Verb(rawValue: String(halves[0])) {
      guard chain[verb] != nil || verb == .evaluate && !chain.tasks.isEmpty else { throw fail(entry, "the plan has no \(verb.rawValue)") }
      return (verb, String(halves[1]))
    }
    return (chain.finetune != nil ? .finetune : chain.quantize != nil ? .quantize : .evaluate, key)
  }

  /// The lines of a grid. `lora-r, lora-alpha: [[8, 16], [16, 32]]` varies two options together.
  private func axes(_ entry: YAML.Entry, _ chain: Chain) throws -> [Axis] {
    guard case .mapping(let list) = entry.value, !list.isEmpty else { throw fail(entry, "not a list of 'option: [value, …]' lines") }
    return try list.map { one in
      guard case .sequence(let alternatives) = one.value, !alternatives.isEmpty else { throw fail(one, "not a list of values") }
      guard alternatives.count <= SweepPlan.maximumRuns else { throw tooMany(alternatives.count) }
      let keys = one.key.split(separator: ",").map { String($0.drop { $0 == " " }) }.map { $0.hasSuffix(" ") ? String($0.dropLast()) : $0 }
      var seen: Set<[String]> = []
      let variants = try alternatives.map { value -> Variant in
        var sets = [try texts(one, value)]
        if keys.count > 1 {
          guard case .sequence(let parts) = value, parts.count == keys.count else { throw fail(one, "each element is a list of \(keys.count) values, one for each option") }
          sets = try parts.map { try texts(one, $0) }
        }
        guard seen.insert(sets.map { $0.joined(separator: ",") }).inserted else { throw fail(one, "\(quoted(sets[0].joined(separator: ","))) twice") }
        let changes = try zip(keys, sets).map { try change(one, $0, $1, chain) }
        let values = zip(keys, sets).map { CellValue($0.replacing("_", with: "-"), $1.joined(separator: ",")) }
        return Variant(values: values, changes: changes, line: one.line)
      }
      return Axis(name: variants[0].values[0].name, variants: variants)
    }
  }

  private func cell(_ experiment: String, _ variants: [Variant], _ common: Common, _ place: YAML.Entry) throws -> Cell {
    var (chain, line) = (common.chain, place.line)
    for variant in variants {
      line = variant.line
      for case .without(let verb) in variant.changes { chain[verb] = nil }
      for case .option(let verb, let option) in variant.changes {
        if verb == .evaluate {
          for place in chain.tasks.indices { chain.tasks[place].options = chain.tasks[place].options.setting(option) }
        } else if let options = chain[verb] {
          chain[verb] = options.setting(option)
        }
      }
    }
    return Cell(experiment: experiment, values: variants.flatMap(\.values), chain: chain, seeds: chain.finetune == nil ? [nil] : common.seeds, line: line)
  }
}
