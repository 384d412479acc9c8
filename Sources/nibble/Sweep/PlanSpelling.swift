import ArgumentParser
import NibbleCore
import NibbleSweep

/// The options of plans in the parser's words.
struct PlanSpelling {
  private let verbs: [Verb: VerbOptions]

  init() {
    verbs = Dictionary(
      uniqueKeysWithValues: Verb.allCases.compactMap { verb in
        Nibble.subcommand([verb.rawValue]).flatMap { VerbOptions($0.verb, $0.command) }.map { (verb, $0) }
      })
  }

  private func options(_ verb: Verb) throws -> VerbOptions {
    guard let options = verbs[verb] else { throw NibbleError(.failed, "the options of \(verb.rawValue) are unknown") }
    return options
  }

  /// The option's own name, without dashes.
  ///
  /// - Throws: `.usage` that says what was probably meant
  func name(_ name: String, _ verb: Verb) throws -> String {
    let options = try options(verb)
    if options.arguments.contains(name) { return name }
    guard !name.hasPrefix("-"), let option = options.option(try options.own("--" + name)), let own = option.names.first(where: { $0.hasPrefix("--") }) else {
      throw NibbleError.usage("unknown option \(quoted(name))")
    }
    return String(own.dropFirst(2))
  }

  /// The command line of a step.
  ///
  /// - Parameters:
  ///   - path: of what earlier steps write
  ///   - more: words behind the options
  /// - Throws: `.usage` for values that an option does not take
  func words(_ step: Step, _ path: (StepKey) -> String, _ more: [String]) throws -> [String] {
    let options = try options(step.verb)
    var (arguments, words): ([String], [String]) = ([], [])
    for one in step.options {
      let values = one.values.map { value in
        switch value {
        case .text(let text): text
        case .output(let key): path(key)
        }
      }
      do {
        if options.arguments.contains(one.name) { arguments += values } else { words += try options.words(one.name, values) }
      } catch let error as NibbleError { throw PlanProblem(line: one.line, key: one.name, error: error) }
    }
    return [step.verb.rawValue] + arguments + words + more
  }
}

extension EvaluateCommand {
  /// Whether it writes what a model says in a task of that name.
  static func keepsAnswers(_ task: String?) -> Bool { has("--predictions", task) }

  /// Whether it goes on with those of an evaluation that was interrupted.
  static func resumes(_ task: String?) -> Bool { has("--resume", task) }

  private static func has(_ flag: String, _ task: String?) -> Bool {
    task.flatMap { Task(rawValue: $0) }.map { flags[flag]?.contains($0) == true } ?? false
  }
}

/// What is wrong with a value of a plan, and where it stands.
struct PlanProblem: Error {
  let line: Int
  let key: String
  let error: NibbleError

  func error(in path: String) -> NibbleError { NibbleError(error.kind, "\(path: "\(path):\(line)"): \(key: key): " + error.text) }
}

extension VerbOptions {
  /// An option with its values, as words: switches by `true` and `false`, lists between commas or repeated.
  ///
  /// - Throws: `.usage` for a value that the option does not take
  func words(_ name: String, _ values: [String]) throws -> [String] {
    guard let option = option("--" + name) else { throw NibbleError.usage("unknown option --\(name)") }
    guard option.takesValue else {
      switch values {
      case ["true"], ["yes"], ["on"]: return ["--" + name]
      // A switch that is off is one that is not given, unless it is on of itself.
      case ["false"], ["no"], ["off"]: return options.contains { $0.names.contains("--no-" + name) } ? ["--no-" + name] : []
      default: throw NibbleError.usage("a switch is true or false, not \(quoted(values.joined(separator: ", ")))")
      }
    }
    func pair(_ value: String) -> [String] { value.hasPrefix("-") || value.isEmpty ? ["--\(name)=\(value)"] : ["--" + name, value] }
    if Arguments.lists.contains(name) { return pair(values.joined(separator: ",")) }
    guard values.count == 1 || option.isRepeating else { throw NibbleError.usage("takes one value, not a list of \(values.count)") }
    return values.flatMap(pair)
  }
}
