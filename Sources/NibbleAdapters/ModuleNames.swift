import NibbleCore

/// Finds a base's modules under the names an adapter gives them: with or without the model's own prefix on either side.
package struct ModuleNames: Sendable {
  private static let prefixes = ["transformer.", "roberta.", "bert.", "model."]
  private let names: [String]
  /// The names as they are, and shorn of prefixes: only those that are shorn to one name alone.
  private let exact: [ByteName: Int]
  private let shorn: [ByteName: [Int]]

  /// - Parameter names: of the base, distinct
  package init(_ names: [String]) {
    self.names = names
    var exact: [ByteName: Int] = [:]
    var shorn: [ByteName: [Int]] = [:]
    for (index, name) in names.enumerated() {
      exact[ByteName(name)] = index
      shorn[ByteName(Self.shorn(name)), default: []].append(index)
    }
    self.exact = exact
    self.shorn = shorn
  }

  private static func shorn(_ name: String) -> String {
    // A few at most: names come from files.
    var rest = name[...]
    for _ in 0..<4 {
      guard let prefix = prefixes.first(where: { rest.hasPrefix($0) }) else { break }
      rest = rest.dropFirst(prefix.count)
    }
    return String(rest)
  }

  /// The index of the one name that `name` means; nil for none or several.
  package func index(of name: String) -> Int? {
    if let found = exact[ByteName(name)] { return found }
    guard let found = shorn[ByteName(Self.shorn(name))], found.count == 1 else { return nil }
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
