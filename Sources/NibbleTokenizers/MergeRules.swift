import NibbleCore

/// Merges as files list them, and the table they make.
struct MergeRules {
  /// Two tokens each, in order of rank.
  private var pairs: [(left: [UInt8], right: [UInt8])] = []

  var isEmpty: Bool { pairs.isEmpty }

  mutating func append(_ left: [UInt8], _ right: [UInt8]) { pairs.append((left, right)) }

  /// Takes a rule of the form `left right`; returns whether it is one.
  mutating func append(_ line: some BidirectionalCollection<UInt8>) -> Bool {
    guard let space = line.firstIndex(of: UInt8(ascii: " ")) else { return false }
    let right = line[line.index(after: space)...]
    guard !right.contains(UInt8(ascii: " ")) else { return false }
    pairs.append((Array(line[..<space]), Array(right)))
    return true
  }

  /// Reads a `merges.txt`.
  init(text: [UInt8], place: String) throws {
    var number = 0
    for line in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
      number += 1
      let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
      if line.isEmpty || line.starts(with: "#version".utf8) { continue }
      guard append(line) else { throw NibbleError.badInput("\(path: place): line \(number) is not two tokens") }
    }
  }

  init() {}

  /// What the rules say in ids.
  ///
  /// - Parameter prefix: what a token that goes on with a word starts with, and loses when it is merged
  func table(_ tokens: Vocabulary, prefix: [UInt8] = [], place: String) throws -> PairTable {
    var table = PairTable(capacity: pairs.count)
    var joined: [UInt8] = []
    for (rank, pair) in pairs.enumerated() {
      joined.removeAll(keepingCapacity: true)
      joined.append(contentsOf: pair.left)
      joined.append(contentsOf: pair.right.dropFirst(prefix.count))
      func id(_ token: [UInt8]) throws -> UInt32 {
        guard let id = token.withUnsafeBufferPointer({ tokens.id(of: $0) }) else {
          throw NibbleError.badInput("\(path: place): merge \(rank) needs the token \(shown(token)), which the vocabulary lacks")
        }
        return id
      }
      table.insert(try id(pair.left), try id(pair.right), .init(rank: UInt32(rank), id: try id(joined)))
    }
    return table
  }
}
