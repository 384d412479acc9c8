import CNibbleSentencePiece
import NibbleCore

/// A SentencePiece model, run by its own library.
final class SentencePieceModel: @unchecked Sendable {
  // The library's processor is read only once loaded.
  private let model: OpaquePointer
  /// Where a text can be encoded word by word: whether each piece starts with a space. Nil where it cannot.
  private let startsWord: [Bool]?
  private let shelf = ScratchShelf()

  /// - Parameter file: what was read of `bytes`
  init(_ bytes: [UInt8], _ file: SentencePieceFile, place: String) throws {
    var reason = [CChar](repeating: 0, count: 300)
    guard let model = nibble_sentencepiece_open(bytes, bytes.count, &reason, reason.count) else {
      throw NibbleError.badInput("\(path: place): \(Self.text(reason))")
    }
    self.model = model
    startsWord = file.wordsAreApart ? file.pieces.map { $0.text.starts(with: SentencePieceText.space) } : nil
  }

  deinit { nibble_sentencepiece_close(model) }

  /// The ids of `text`, without a beginning or an end.
  func encode(_ text: [UInt8]) throws -> [UInt32] {
    try text.withUnsafeBufferPointer { text in
      guard startsWord != nil else { return try encodeWhole(text) }
      var ids: [UInt32] = []
      ids.reserveCapacity(text.count / 3)
      return try shelf.use { scratch in
        var words = SpacedWords(text)
        var block: [UnsafeBufferPointer<UInt8>] = []
        repeat {
          try Interrupt.check()
          block.removeAll(keepingCapacity: true)
          while block.count < 4096, let word = words.next() { block.append(word) }
          try learn(block, &scratch.cache)
          for word in block {
            let isShort = word.count <= WordCache.maximumWord
            if !(isShort && scratch.cache.append(word, hash: hash(of: word), to: &ids)) {
              ids.append(contentsOf: try encodeWhole(word))
            }
          }
        } while !block.isEmpty
        return ids
      }
    }
  }

  /// Encodes those of `words` that are not in the cache yet, all at once: a call of the library costs more than a word.
  private func learn(_ words: [UnsafeBufferPointer<UInt8>], _ cache: inout WordCache) throws {
    guard let startsWord else { return }
    var fresh: [UnsafeBufferPointer<UInt8>] = []
    var seen = ByteTable()
    var joined: [UInt8] = []
    var ignored: [UInt32] = []
    for word in words where word.count <= WordCache.maximumWord {
      ignored.removeAll(keepingCapacity: true)
      if cache.append(word, hash: hash(of: word), to: &ignored) || SpacedWords.hasSpace(word) { continue }
      if seen.insert(word, 0) != nil { continue }
      if !joined.isEmpty { joined.append(UInt8(ascii: " ")) }
      joined.append(contentsOf: word)
      fresh.append(word)
    }
    let ids = try joined.withUnsafeBufferPointer { try encodeWhole($0) }
    let starts = ids.indices.filter { Int(ids[$0]) < startsWord.count && startsWord[Int(ids[$0])] }
    // Each word must have begun with its space; if that does not come out, they go one by one.
    guard starts.count == fresh.count, starts.first == 0 || fresh.isEmpty else { return }
    for (index, word) in fresh.enumerated() {
      let end = index + 1 < starts.count ? starts[index + 1] : ids.count
      cache.set(word, hash: hash(of: word), to: ids[starts[index]..<end])
    }
  }

  private func encodeWhole(_ text: UnsafeBufferPointer<UInt8>) throws -> [UInt32] {
    var reason = [CChar](repeating: 0, count: 300)
    var ids: UnsafeMutablePointer<Int32>?
    var count = 0
    guard nibble_sentencepiece_encode(model, text.baseAddress, text.count, &ids, &count, &reason, reason.count) == 0 else {
      throw NibbleError(.failed, "\(Self.text(reason))")
    }
    defer { nibble_sentencepiece_free(ids) }
    return UnsafeBufferPointer(start: ids, count: count).map { UInt32(bitPattern: $0) }
  }

  /// Decodes ids by the library, all at once.
  func decode(_ ids: [Int32]) throws -> String {
    var reason = [CChar](repeating: 0, count: 300)
    var text: UnsafeMutablePointer<UInt8>?
    var count = 0
    guard nibble_sentencepiece_decode(model, ids, ids.count, &text, &count, &reason, reason.count) == 0 else {
      throw NibbleError.badInput("\(Self.text(reason))")
    }
    defer { nibble_sentencepiece_free(text) }
    return String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self)
  }

  private static func text(_ reason: [CChar]) -> String {
    String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
