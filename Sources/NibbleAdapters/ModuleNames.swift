import NibbleCore
import NibbleFormats

/// Finds a base's modules under the names an adapter gives them: with or without the model's own prefix on either side, as modules are
/// called or as files spell it.
package struct ModuleNames: Sendable {
  /// Those of every family.
  private static let prefixes = Set(ModelFamily.known.flatMap { family in family.modelTypes.flatMap(family.prefixes) }).filter { !$0.isEmpty }.sorted()
  private static let ofTexts = "language_model."
  private let names: [String]
  /// The base's own among `prefixes`.
  private let own: [String]
  private let family: ModelFamily?
  /// The names as they are, and shorn of prefixes: only those that no other name is shorn to.
  private let exact: [ByteName: Int]
  private let shorn: [ByteName: [Int]]

  /// - Parameters:
  ///   - names: of the base, distinct
  ///   - base: whose they are; nil where only the names show which prefix is theirs
  package init(_ names: [String], of base: Checkpoint? = nil) {
    self.names = names
    own = Self.own(base, base?.tensors.map(\.name.text) ?? names)
    family = base?.family
    var exact: [ByteName: Int] = [:]
    var shorn: [ByteName: [Int]] = [:]
    for (index, name) in names.enumerated() {
      exact[ByteName(name)] = index
      shorn[ByteName(Self.shorn(name, own, family)), default: []].append(index)
    }
    self.exact = exact
    self.shorn = shorn
  }

  /// The prefixes that a model's names have, in the file or by its family. Where neither says, any of them: `bert.` and `roberta.` hold
  /// modules of the same names, and one's adapter is not the other's.
  private static func own(_ base: Checkpoint?, _ names: [String]) -> [String] {
    let ofFamily = base?.modelType.flatMap { type in base?.family?.prefixes(type) } ?? []
    var own = Set(ofFamily.filter { !$0.isEmpty } + prefixes.filter { prefix in names.contains { $0.hasPrefix(prefix) } })
    // By names alone, the text model of one that takes pictures as well: files and modules put these two in different orders.
    if base?.family == nil { own.formUnion(names.contains { $0.hasPrefix(Self.ofTexts) } ? [Self.ofTexts, "model."] : own.contains("model.") ? [Self.ofTexts] : []) }
    return own.isEmpty ? prefixes : own.sorted()
  }

  private static func shorn(_ name: String, _ prefixes: [String], _ family: ModelFamily?) -> String {
    // A few at most: names come from files.
    var rest = ModelFamily.withNewExperts(name)[...]
    for _ in 0..<4 {
      guard let prefix = prefixes.first(where: { rest.hasPrefix($0) }) else { break }
      rest = rest.dropFirst(prefix.count)
    }
    return family?.inFiles(String(rest)) ?? String(rest)
  }

  /// The index of the one name that `name` means; nil for none or several.
  package func index(of name: String) -> Int? {
    if let found = exact[ByteName(name)] { return found }
    guard let found = shorn[ByteName(Self.shorn(name, own, family))], found.count == 1 else { return nil }
    return found[0]
  }

  /// The name that takes the fewest changes to become `name`, for messages.
  package func nearest(to name: String) -> String? {
    names.prefix(4096).map { ($0, Self.distance(Array($0.utf8.suffix(120)), Array(name.utf8.suffix(120)))) }
      .min { $0.1 < $1.1 }?.0
  }

  private static func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var corner = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        let next = min(row[j + 1] + 1, row[j] + 1, corner + (x == y ? 0 : 1))
        corner = row[j + 1]
        row[j + 1] = next
      }
    }
    return row[b.count]
  }
}
