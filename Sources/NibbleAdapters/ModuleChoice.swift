import NibbleCore

/// Modules as a flag names them: names divided by commas, or a pattern for whole paths.
package enum ModuleChoice: Sendable {
  case names([String])
  case pattern(Pattern)

  /// - Throws: `.usage` for a text that is neither
  package init(_ text: String) throws {
    let isName = text.utf8.allSatisfy {
      (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
        || [0x2C, 0x2E, 0x5F, 0x20].contains($0)
    }
    self =
      isName
      ? .names(text.split(separator: ",").map { String($0.filter { $0 != " " }) }) : .pattern(try Pattern("^(?:\(text))$"))
  }

  /// The names; empty for a pattern.
  package var names: [String] { if case .names(let names) = self { names } else { [] } }

  /// As a pattern to be found in paths.
  package var pattern: String {
    switch self {
    case .names(let names): "(^|\\.)(" + names.map { $0.replacing(".", with: "\\.") }.joined(separator: "|") + ")$"
    case .pattern(let pattern): pattern.text
    }
  }

  /// Whether a module is called so: its whole path or the last parts of it.
  package static func `is`(_ path: String, _ name: String) -> Bool { path == name || path.hasSuffix("." + name) }

  package func contains(_ path: String) throws -> Bool {
    switch self {
    case .names(let names): names.contains { Self.is(path, $0) }
    case .pattern(let pattern): try pattern.isFound(in: path)
    }
  }
}
