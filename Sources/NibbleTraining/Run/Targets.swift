import NibbleAdapters
import NibbleModels

/// The modules that are adapted.
struct Targets {
  private enum Choice {
    case all, attention, mlp
    case named(ModuleChoice)
  }

  private let choice: Choice

  init(_ text: String) throws {
    switch text {
    case "all-linear": choice = .all
    case "attention": choice = .attention
    case "mlp": choice = .mlp
    default: choice = .named(try ModuleChoice(text))
    }
  }

  /// Whether names or a pattern choose them.
  var isNamed: Bool { if case .named = choice { true } else { false } }

  /// The names asked for; empty for other choices.
  var names: [String] { if case .named(let choice) = choice { choice.names } else { [] } }

  func contains(_ path: String, _ parts: NetworkParts) throws -> Bool {
    switch choice {
    case .all: true
    case .attention: parts.attention.contains { $0.name == path }
    case .mlp: parts.mlp.contains { $0.name == path }
    case .named(let choice): try choice.contains(path)
    }
  }
}
