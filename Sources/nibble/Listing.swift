import NibbleCore

/// Tensors for people to read: those of one place in every layer on one line, layer 2 before layer 10.
enum Listing {
  struct Entry {
    let name: String
    /// What tensors of a group have in common.
    let text: String
    /// What each has of its own; shown only where it stands on a line of its own.
    var detail: String?
  }

  /// Prints a line a tensor if `whole`, else a line for all that differ in nothing but numbers between dots.
  static func print(_ entries: [Entry], whole: Bool) throws {
    for group in whole ? natural(entries, \.name).map({ [$0] }) : groups(entries, \.name, alike: \.text) {
      let detail = group.count == 1 ? group[0].detail.map { ": \($0)" } ?? "" : ""
      try StandardOutput.print("\(name(group.map(\.name))) \(group[0].text)\(detail)")
    }
  }

  /// Elements whose names differ only in numbers between dots, and that are alike, in natural order.
  static func groups<Element>(
    _ elements: [Element], _ name: (Element) -> String, alike: (Element) -> String = { _ in "" }
  ) -> [[Element]] {
    var places: [String: Int] = [:]
    var groups: [[Element]] = []
    for element in natural(elements, name) {
      let key = pattern(name(element)) + "\n" + alike(element)
      if let place = places[key] {
        groups[place].append(element)
      } else {
        places[key] = groups.count
        groups.append([element])
      }
    }
    return groups
  }

  /// `layers.*.q_proj ×5` for several names, a name as it is.
  static func name(_ names: [String]) -> String {
    names.count == 1 ? oneLine(names[0]) : "\(oneLine(pattern(names[0]))) ×\(names.count)"
  }

  /// `layers.*.mlp.up_proj.weight`: numbers between dots are one.
  static func pattern(_ name: String) -> String {
    name.split(separator: ".", omittingEmptySubsequences: false).map { isNumber($0) ? "*" : $0 }.joined(separator: ".")
  }

  /// Sorted by name, numbers between dots by their value.
  static func natural<Element>(_ elements: [Element], _ name: (Element) -> String) -> [Element] {
    elements.map { ($0, name($0).split(separator: ".", omittingEmptySubsequences: false)) }
      .sorted { precedes($0.1, $1.1) }.map(\.0)
  }

  private static func isNumber(_ part: Substring) -> Bool {
    !part.isEmpty && part.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
  }

  private static func precedes(_ a: [Substring], _ b: [Substring]) -> Bool {
    for (x, y) in zip(a, b) where x != y {
      if isNumber(x), isNumber(y), x.utf8.count != y.utf8.count { return x.utf8.count < y.utf8.count }
      return ByteName(String(x)) < ByteName(String(y))
    }
    return a.count < b.count
  }
}
