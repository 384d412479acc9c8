import NibbleCore

/// Texts to look for at any place of another.
struct TokenTrie: Sendable {
  private static let maximumNodes = 1 << 22
  private var roots = [Int32](repeating: -1, count: 256)
  /// The node that a node and a byte lead to.
  private var edges: [UInt64: Int32] = [:]
  /// What ends at a node, -1 where nothing does.
  private var values: [Int32] = []

  var isEmpty: Bool { values.isEmpty }

  /// Puts a text in; one that is there keeps its value.
  mutating func insert(_ text: [UInt8], _ value: Int, place: String) throws {
    guard let first = text.first else { return }
    guard values.count + text.count <= Self.maximumNodes else {
      throw NibbleError.badInput("\(path: place): too many added tokens")
    }
    var node = roots[Int(first)]
    if node < 0 {
      node = Int32(values.count)
      values.append(-1)
      roots[Int(first)] = node
    }
    for byte in text.dropFirst() {
      let edge = UInt64(node) << 8 | UInt64(byte)
      if let next = edges[edge] {
        node = next
      } else {
        node = Int32(values.count)
        values.append(-1)
        edges[edge] = node
      }
    }
    if values[Int(node)] < 0 { values[Int(node)] = Int32(value) }
  }

  /// The node a text's first byte leads to, -1 where none; and so on from node to node.
  func root(_ byte: UInt8) -> Int32 { roots[Int(byte)] }
  func next(_ node: Int32, _ byte: UInt8) -> Int32 { edges[UInt64(node) << 8 | UInt64(byte)] ?? -1 }
  /// What ends at a node.
  func value(_ node: Int32) -> Int? { values[Int(node)] < 0 ? nil : Int(values[Int(node)]) }

  /// The first place at or after `start` where a text stands, and the longest text there.
  func find(in text: UnsafeBufferPointer<UInt8>, from start: Int) -> (value: Int, start: Int, end: Int)? {
    var at = start
    while at < text.count {
      var node = roots[Int(text[at])]
      if node >= 0 {
        var found: (value: Int, start: Int, end: Int)?
        var end = at + 1
        while true {
          if values[Int(node)] >= 0 { found = (Int(values[Int(node)]), at, end) }
          guard end < text.count, let next = edges[UInt64(node) << 8 | UInt64(text[end])] else { break }
          node = next
          end += 1
        }
        if let found { return found }
      }
      at += 1
    }
    return nil
  }

  /// Calls `body` with every text that stands at `start`, shortest first.
  func forEachPrefix(of text: UnsafeBufferPointer<UInt8>, from start: Int, _ body: (_ value: Int, _ end: Int) -> Void) {
    guard start < text.count else { return }
    var node = root(text[start])
    var end = start + 1
    while node >= 0 {
      if let value = value(node) { body(value, end) }
      guard end < text.count else { return }
      node = next(node, text[end])
      end += 1
    }
  }
}
