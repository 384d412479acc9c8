import NibbleCore

/// What a sweep runs: experiments, each a table of cells that differ in some options.
package struct SweepPlan: Sendable {
  /// Runs of training that a plan may ask for: cells times seeds.
  package static let maximumRuns = 5000

  package let name: String
  package let experiments: [Experiment]
  /// The figures that tables and plots show, as `TASK.FIGURE`; none: all that matter.
  package let figures: [String]
  /// The plan as it was written.
  package let text: String

  package var cells: [Cell] { experiments.flatMap(\.cells) }
}

/// Cells that are compared with each other.
package struct Experiment: Sendable {
  package let name: String
  /// What varies, in the order of the plan.
  package let axes: [Axis]
  package let cells: [Cell]
}

/// Something that varies: the named sets of a plan, or what a line of its grid lists.
package struct Axis: Sendable {
  /// The column of tables and the axis of plots: `cell`, or the option.
  package let name: String
  let variants: [Variant]
}

/// One of the things that an axis takes.
struct Variant: Sendable {
  enum Change: Sendable {
    case option(Verb, PlanOption)
    /// The cell is without this verb.
    case without(Verb)
  }

  /// What tables say of it: a column and its text.
  let values: [CellValue]
  let changes: [Change]
  let line: Int
}

/// What one column of a table says of a cell.
package struct CellValue: Sendable, Equatable {
  package let name: String
  package let text: String
  package init(_ name: String, _ text: String) { (self.name, self.text) = (name, text) }
}

/// What the runs of a cell do, one verb after another.
package struct Chain: Sendable {
  package var quantize: [PlanOption]?
  package var finetune: [PlanOption]?
  package var merge: [PlanOption]?
  package var tasks: [Task] = []

  package subscript(verb: Verb) -> [PlanOption]? {
    get {
      switch verb {
      case .quantize: quantize
      case .finetune: finetune
      case .merge: merge
      case .evaluate: nil
      }
    }
    set {
      switch verb {
      case .quantize: quantize = newValue
      case .finetune: finetune = newValue
      case .merge: merge = newValue
      case .evaluate: break
      }
    }
  }
}

/// A task of `evaluate`, by the name that the plan gives it.
package struct Task: Sendable {
  /// What is measured.
  package enum Subject: String, Sendable, CaseIterable {
    /// The model that is trained on.
    case base
    /// That model with the adapter beside it.
    case adapter
    /// What `merge` wrote.
    case merged
  }

  package let name: String
  /// Nil: what the chain ends with.
  package var subject: Subject?
  package var options: [PlanOption]
  package let line: Int
}

/// One place of a table: a chain for each seed.
package struct Cell: Sendable {
  package let experiment: String
  package let values: [CellValue]
  package let chain: Chain
  /// Nil stands for the seed that the verb has of itself.
  package let seeds: [Int?]
  package let line: Int

  /// `lora-r=4, target-modules=attention`
  package var title: String {
    values.isEmpty ? "all" : values.map { $0.name == "cell" ? $0.text : "\($0.name)=\($0.text)" }.joined(separator: ", ")
  }
}
