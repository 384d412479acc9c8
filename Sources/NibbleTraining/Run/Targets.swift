import NibbleAdapters
import NibbleFormats
import NibbleModels

/// The modules that are adapted.
struct Targets {
  private enum Choice {
    case all, attention, mlp
    case named(ModuleChoice)
  }

  private let choice: Choice
  private let family: ModelFamily?

  /// - Parameter family: of the model, whose files may spell paths otherwise; names and patterns may be of either spelling
  init(_ text: String, _ family: ModelFamily?) throws {
    self.family = family
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

  /// Whether a module is called so.
  func `is`(_ path: String, _ name: String) -> Bool {
    ModuleChoice.is(path, name) || ModuleChoice.is(family?.inFiles(path) ?? path, name)
  }

  func contains(_ path: String, _ parts: NetworkParts) throws -> Bool {
    switch choice {
    case .all: true
    case .attention: parts.attention.contains { $0.name == path }
    case .mlp: parts.mlp.contains { $0.name == path }
    case .named(let choice): try choice.contains(path) || choice.contains(family?.inFiles(path) ?? path)
    }
  }
}
