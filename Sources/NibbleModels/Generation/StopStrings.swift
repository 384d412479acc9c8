/// Watches a text that grows for strings that end it.
public struct StopStrings: Sendable {
  private let stops: [[UInt8]]
  private var text: [UInt8] = []
  /// Bytes handed out so far.
  private var released = 0
  /// Whether one was found.
  public private(set) var isFound = false

  /// - Parameter stops: empty ones count for nothing
  public init(_ stops: [String]) { self.stops = stops.map { Array($0.utf8) }.filter { !$0.isEmpty } }

  /// Takes more text, and returns what is certain to come before any stop string. Nothing more once one is found.
  public mutating func feed(_ more: String) -> String {
    if isFound { return "" }
    // A stop string may have begun in what came before.
    let longest = stops.map(\.count).max() ?? 0
    let from = max(released, text.count - longest)
    text += Array(more.utf8)
    if let place = firstStop(from: from) {
      isFound = true
      return release(to: place)
    }
    return release(to: text.count - heldBack)
  }

  /// Ends the text: returns what was held back.
  public mutating func finish() -> String { isFound ? "" : release(to: text.count) }

  private mutating func release(to end: Int) -> String {
    defer { released = max(released, end) }
    return end > released ? String(decoding: text[released..<end], as: UTF8.self) : ""
  }

  private func firstStop(from: Int) -> Int? {
    guard from < text.count else { return nil }
    return (from..<text.count).first { place in stops.contains { text[place...].starts(with: $0) } }
  }

  /// Bytes at the end that may be the beginning of a stop string.
  private var heldBack: Int {
    let tail = text[released...]
    return stops.reduce(0) { longest, stop in
      let fits = (1..<max(stop.count, 1)).last { $0 <= tail.count && tail.suffix($0).elementsEqual(stop.prefix($0)) }
      return max(longest, fits ?? 0)
    }
  }
}
