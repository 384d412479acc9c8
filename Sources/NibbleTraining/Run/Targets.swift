import NibbleAdapters
import NibbleModels

/// The modules that are adapted.
struct Targets {
  private enum Choice {
    case all
    case part(Set<String>)
    case named(ModuleChoice)
  }

  private let choice: Choice

  /// - Parameter parts: of the model
  init(_ text: String, of parts: NetworkParts) throws {
    switch text {
    case "all-linear": choice = .all
    case "attention": choice = .part(Set(parts.attention.map(\.name)))
    case "mlp": choice = .part(Set(parts.mlp.map(\.name)))
    default: choice = .named(try ModuleChoice(text))
    }
  }

  /// Whether names or a pattern choose them.
  var isNamed: Bool { if case .named = choice { true } else { false } }

  /// The names asked for; empty for other choices.
  var names: [String] { if case .named(let choice) = choice { choice.names } else { [] } }

  func contains(_ path: String) throws -> Bool {
    switch choice {
    case .all: true
    case .part(let names): names.contains(path)
    case .named(let choice): try choice.contains(path)
    }
  }
}
