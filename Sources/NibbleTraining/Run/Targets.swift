import NibbleAdapters
import NibbleFormats
import NibbleModels

/// The modules that are adapted.
struct Targets {
  private enum Choice {
    case all
    case part(Set<String>)
    case named(ModuleChoice)
  }

  private let choice: Choice
  private let family: ModelFamily?

  /// - Parameters:
  ///   - parts: of the model
  ///   - family: of the model, whose files may spell paths otherwise; names and patterns may be of either spelling
  init(_ text: String, of parts: NetworkParts, _ family: ModelFamily?) throws {
    self.family = family
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

  /// Whether a module is called so.
  func `is`(_ path: String, _ name: String) -> Bool {
    ModuleChoice.is(path, name) || ModuleChoice.is(family?.inFiles(path) ?? path, name)
  }

  func contains(_ path: String) throws -> Bool {
    switch choice {
    case .all: true
    case .part(let names): names.contains(path)
    case .named(let choice): try choice.contains(path) || choice.contains(family?.inFiles(path) ?? path)
    }
  }
}
