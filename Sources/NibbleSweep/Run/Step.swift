import NibbleCore

/// What names a step: everything that decides what it computes. Steps with one key are one step.
package struct StepKey: Hashable, Sendable, CustomStringConvertible {
  let digest: Digest128
  package var description: String { "\(digest)" }
}

/// One run of the program: a verb, its options, and what it takes from earlier steps.
package struct Step: Sendable {
  package let verb: Verb
  package let options: [PlanOption]
  package let key: StepKey
  /// What it writes into its folder; nil where its report is all.
  package let output: String?
  /// The line of the plan of the first cell that needs it.
  package let line: Int
  /// The task, for messages: `evaluate dev`.
  package let task: String?

  /// Steps whose outputs it takes.
  package var needs: [StepKey] { options.flatMap(\.values).compactMap { if case .output(let key) = $0 { key } else { nil } } }
  package var title: String { verb.rawValue + (task.map { " " + $0 } ?? "") }
  /// Its folder in `steps`.
  package var folder: String { "\(verb.rawValue)-\(key.description.prefix(12))" }

  /// The same step with other options, for plans.
  package init(copying step: Step, options: [PlanOption]) {
    (verb, key, output, line, task, self.options) = (step.verb, step.key, step.output, step.line, step.task, options)
  }

  /// - Parameter identity: tells the state of files that texts name
  init(_ verb: Verb, _ options: [PlanOption], output: String?, line: Int, task: String? = nil, identity: inout InputIdentity) throws {
    (self.verb, self.options, self.output, self.line, self.task) = (verb, options, output, line, task)
    let members = try options.sorted { ByteName($0.name) < ByteName($1.name) }.map { option in
      let values = try option.values.map { value -> JSON in
        switch value {
        case .output(let key): return ["step": JSON(key.description)]
        case .text(let text): return try identity.of(text).map { ["text": JSON(text), "file": JSON("\($0)")] } ?? JSON(text)
        }
      }
      return (key: option.name, value: JSON.array(values))
    }
    let hash = XXH3()
    hash.update(Array(JSON.array([JSON(verb.rawValue), .object(members)]).text().utf8))
    key = StepKey(digest: hash.digest128)
  }
}
