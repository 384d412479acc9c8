/// A verb that a sweep runs, in the order of a chain.
package enum Verb: String, Sendable, CaseIterable {
  case quantize, finetune, merge, evaluate
}

/// An option of a verb by its own long name, without dashes, and its values: several where the option takes a list or may be repeated.
package struct PlanOption: Sendable, Equatable {
  package enum Value: Sendable, Hashable {
    case text(String)
    /// What an earlier step of the chain writes.
    case output(of: StepKey)
  }

  package let name: String
  package var values: [Value]
  /// The line of the plan that says so.
  package let line: Int

  package init(_ name: String, _ values: [Value], line: Int) { (self.name, self.values, self.line) = (name, values, line) }

  /// The only value, where that is a text.
  package var text: String? { if case .text(let text)? = values.first, values.count == 1 { text } else { nil } }
}

extension [PlanOption] {
  package subscript(name: String) -> PlanOption? { first { $0.name == name } }

  /// These options with one more, in the place of one of the same name.
  func setting(_ option: PlanOption) -> [PlanOption] {
    guard let place = firstIndex(where: { $0.name == option.name }) else { return self + [option] }
    var all = self
    all[place] = option
    return all
  }
}
