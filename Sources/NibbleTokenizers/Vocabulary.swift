import NibbleCore

/// The tokens of a model: text to id and back.
struct Vocabulary: Sendable {
  /// Ids stay below this, whatever a file says: they index tables, here and in embeddings.
  static let maximumID = 1 << 24
  /// No token is longer.
  static let maximumTokenLength = 1 << 16

  private var table: ByteTable
  /// Index of the table's entry + 1, for each id.
  private var entries: [UInt32] = []

  init(capacity: Int = 0) {
    table = ByteTable(capacity: capacity)
    entries.reserveCapacity(capacity)
  }

  var count: Int { table.count }
  /// Greatest id + 1.
  var size: Int { entries.count }

  /// Adds a token; the same token with the same id may come again.
  ///
  /// - Throws: `.badInput` for ids that are too large or taken.
  mutating func add(_ token: [UInt8], id: Int, place: String) throws {
    guard (0..<Self.maximumID).contains(id) else {
      throw NibbleError.badInput("\(path: place): token \(shown(token)) has id \(id); ids are from 0 to \(Self.maximumID - 1)")
    }
    guard token.count <= Self.maximumTokenLength else {
      throw NibbleError.badInput("\(path: place): a token of \(token.count) bytes")
    }
    if let known = table.insert(token, UInt32(id)) {
      guard known == id else {
        throw NibbleError.badInput("\(path: place): token \(shown(token)) has two ids, \(known) and \(id)")
      }
      return
    }
    if id >= entries.count { entries.append(contentsOf: repeatElement(0, count: id + 1 - entries.count)) }
    if entries[id] != 0 {
      throw NibbleError.badInput("\(path: place): id \(id) is given to both \(shown(self[id] ?? [])) and \(shown(token))")
    }
    entries[id] = UInt32(table.count)
  }

  mutating func add(_ token: String, id: Int, place: String) throws { try add(Array(token.utf8), id: id, place: place) }

  /// The bytes of the token with this id.
  subscript(id: Int) -> [UInt8]? {
    guard id >= 0, id < entries.count, entries[id] != 0 else { return nil }
    return Array(table.bytes(Int(entries[id]) - 1))
  }

  func id(of token: UnsafeBufferPointer<UInt8>) -> UInt32? { table.number(of: token) }
  func id(of token: some Sequence<UInt8>) -> UInt32? { table.number(of: token) }
  func id(of token: String) -> UInt32? { table.number(of: token.utf8) }

  /// Ids in use, ascending.
  var ids: some Sequence<Int> { entries.indices.lazy.filter { entries[$0] != 0 } }

  /// The same tokens with `change` made to their bytes; those it returns nil for are left out.
  func mapped(place: String, _ change: ([UInt8]) -> [UInt8]?) throws -> Vocabulary {
    var result = Vocabulary(capacity: count)
    for id in ids {
      if let token = self[id].flatMap(change) { try result.add(token, id: id, place: place) }
    }
    return result
  }
}

/// Bytes of a token as an error message quotes them.
func shown(_ token: [UInt8]) -> String { quoted(String(decoding: token, as: UTF8.self)) }
