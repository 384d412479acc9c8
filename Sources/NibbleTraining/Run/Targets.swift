import NibbleCore
import NibbleModels

/// Which layers get factors.
struct Targets {
  private enum Choice {
    case all, attention, mlp
    case names([String])
    case pattern(Pattern)
  }

  private let choice: Choice

  init(_ text: String) throws {
    switch text {
    case "all-linear": choice = .all
    case "attention": choice = .attention
    case "mlp": choice = .mlp
    default:
      let isName = text.utf8.allSatisfy {
        (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
          || [0x2C, 0x2E, 0x5F, 0x20].contains($0)
      }
      choice =
        isName
        ? .names(text.split(separator: ",").map { String($0.filter { $0 != " " }) }) : .pattern(try Pattern("^(?:\(text))$"))
    }
  }

  /// The names asked for; empty for other choices.
  var names: [String] { if case .names(let names) = choice { names } else { [] } }

  /// Whether a module is called so: its whole path or the last parts of it.
  static func `is`(_ path: String, _ name: String) -> Bool { path == name || path.hasSuffix("." + name) }

  func contains(_ path: String, _ weights: TransformerWeights) throws -> Bool {
    switch choice {
    case .all: true
    case .attention:
      weights.layers.contains { layer in (layer.queryKeyValue + [layer.attentionOutput]).contains { $0.name == path } }
    case .mlp: weights.layers.contains { layer in (layer.up + [layer.down]).contains { $0.name == path } }
    case .names(let names): names.contains { Self.is(path, $0) }
    case .pattern(let pattern): try pattern.isFound(in: path)
    }
  }
}
