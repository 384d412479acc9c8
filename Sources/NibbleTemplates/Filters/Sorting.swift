/// Stable sorting by keys that may not be comparable.
enum Sorting {
  /// The items in the order of their keys, each of which is one value, or a list that compares part by part.
  ///
  /// - Parameter areLists: whether parts that are equal need no order, as in Python's comparison of lists
  /// - Throws: a type error for keys without an order
  static func sorted<Item>(_ items: [(key: [Value], item: Item)], descending: Bool = false, areLists: Bool = false) throws -> [Item] {
    var sorted = items
    // Merged by hand: Swift's own sort need not be stable, and says nothing about a comparison that throws.
    var width = 1
    while width < sorted.count {
      var merged: [(key: [Value], item: Item)] = []
      merged.reserveCapacity(sorted.count)
      var start = 0
      while start < sorted.count {
        let middle = min(start + width, sorted.count), end = min(start + 2 * width, sorted.count)
        var left = start, right = middle
        while left < middle, right < end {
          // Equal ones keep their order, descending too, as in Python.
          let takesRight = descending ? try isLess(sorted[left].key, sorted[right].key, areLists) : try isLess(sorted[right].key, sorted[left].key, areLists)
          merged.append(sorted[takesRight ? right : left])
          if takesRight { right += 1 } else { left += 1 }
        }
        merged += sorted[left..<middle] + sorted[right..<end]
        start = end
      }
      sorted = merged
      width *= 2
    }
    return sorted.map(\.item)
  }

  private static func isLess(_ a: [Value], _ b: [Value], _ areLists: Bool) throws -> Bool {
    for (x, y) in zip(a, b) {
      if areLists, try x.isEqual(to: y) { continue }
      return try x.isLess(than: y)
    }
    return a.count < b.count
  }

  /// As filters compare unless they are asked to heed case.
  static func ignoringCase(_ value: Value) -> Value { value.text.map { .text($0.lowercased) } ?? value }
}

/// `attribute=…` of a filter: a path with dots, whole numbers as places.
struct AttributePath {
  private let parts: [Value]

  init(_ attribute: Value) {
    switch attribute {
    case .none: parts = []
    case .text(let text):
      parts = text.split(".").map { part in part.all { $0.isPythonDigit } ? Int(part.string).map { .int($0) } ?? .text(part) : .text(part) }
    default: parts = [attribute]
    }
  }

  /// Several paths with commas between them.
  static func list(_ attribute: Value) -> [AttributePath] {
    guard case .text(let text) = attribute else { return [AttributePath(attribute)] }
    return text.split(",").map { AttributePath(.text($0)) }
  }

  /// What the path leads to.
  ///
  /// - Parameter fallback: what a missing part is taken to be
  func value(in item: Value, _ renderer: Renderer, fallback: Value? = nil) throws -> Value {
    var item = item
    for part in parts {
      item = try renderer.item(of: item, part)
      if let fallback, item.isUndefined { item = fallback }
    }
    return item
  }
}
