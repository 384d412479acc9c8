/// What words were encoded to, so that `the` is merged once and not ten thousand times.
///
/// A fixed number of places, one for each hash; a word that falls on a taken place takes it over. When the text kept
/// is too much, all is forgotten.
struct WordCache {
  private struct Entry {
    var hash: UInt64 = 0
    var key: UInt32 = 0
    var ids: UInt32 = 0
    var keyCount: UInt16 = 0
    var idCount: UInt16 = 0
  }

  private static let bits = 15
  private static let maximumKeys = 1 << 21
  /// Longer words seldom come twice.
  static let maximumWord = 128

  private var entries = [Entry](repeating: Entry(), count: 1 << bits)
  private var keys: [UInt8] = []
  private var ids: [UInt32] = []

  /// Appends the ids `word` was encoded to, if it is remembered.
  @inline(__always)
  func append(_ word: UnsafeBufferPointer<UInt8>, hash: UInt64, to result: inout [UInt32]) -> Bool {
    let entry = entries[Int(truncatingIfNeeded: hash >> (64 - UInt64(Self.bits)))]
    guard entry.hash == hash, Int(entry.keyCount) == word.count,
      keys.withUnsafeBufferPointer({ isEqual($0, at: Int(entry.key), word) })
    else { return false }
    if entry.idCount == 1 {
      result.append(ids[Int(entry.ids)])
    } else {
      result.append(contentsOf: ids[Int(entry.ids)..<Int(entry.ids) + Int(entry.idCount)])
    }
    return true
  }

  /// Remembers `word`, which must not be empty or longer than `maximumWord`.
  mutating func set(_ word: UnsafeBufferPointer<UInt8>, hash: UInt64, to result: ArraySlice<UInt32>) {
    guard result.count <= Int(UInt16.max) else { return }
    if keys.count + word.count > Self.maximumKeys {
      entries = [Entry](repeating: Entry(), count: 1 << Self.bits)
      keys.removeAll(keepingCapacity: true)
      ids.removeAll(keepingCapacity: true)
    }
    entries[Int(truncatingIfNeeded: hash >> (64 - UInt64(Self.bits)))] = Entry(
      hash: hash, key: UInt32(keys.count), ids: UInt32(ids.count), keyCount: UInt16(word.count),
      idCount: UInt16(result.count))
    keys.append(contentsOf: word)
    ids.append(contentsOf: result)
  }
}
