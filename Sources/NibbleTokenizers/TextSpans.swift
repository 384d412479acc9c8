import NibbleCore

extension Tokenizer {
  /// The tokens of a text, without any around it, and the bytes of its UTF-8 that each stands for.
  ///
  /// Ranges end where characters do and hold no spaces at their ends. A special token's range is empty.
  ///
  /// - Returns: nil where tokens cannot be found in the text, of a tokenizer other than WordPiece that changes characters
  /// - Throws: `.badInput` for a text that cannot be encoded
  public func located(_ text: String) throws -> (ids: [Int], spans: [Range<Int>])? {
    let (ids, bytes) = (try encode(text, addSpecialTokens: false).ids, Array(text.utf8))
    if case .pipeline(let pipeline) = engine, case .wordPiece(let model) = pipeline.model {
      guard let found = try pipeline.wordSpans(bytes, model), found.map({ Int($0.id) }) == ids else { return nil }
      return (ids, found.map(\.span))
    }
    return byteSpans(of: ids, in: text).map { spans in (ids, spans.map { Self.whole($0, bytes) }) }
  }

  /// The characters that have bytes in a range, but for spaces at its ends.
  private static func whole(_ span: Range<Int>, _ bytes: [UInt8]) -> Range<Int> {
    var (start, end) = (span.lowerBound, span.upperBound)
    while start < end, bytes[start] == 0x20 { start += 1 }
    while end > start, bytes[end - 1] == 0x20 { end -= 1 }
    guard start < end else { return start..<end }
    while start > 0, bytes[start] & 0xC0 == 0x80 { start -= 1 }
    while end < bytes.count, bytes[end] & 0xC0 == 0x80 { end += 1 }
    return start..<end
  }
}

extension Pipeline {
  /// The tokens of a text and the bytes each stands for, of a model that cuts words into pieces.
  ///
  /// - Returns: nil where the normalizer looks at more than one character, or the pre-tokenizer changes the text
  func wordSpans(_ text: [UInt8], _ model: WordPieceModel) throws -> [(id: UInt32, span: Range<Int>)]? {
    let unknown = model.tokens.id(of: model.unknown)
    var (found, at): ([(id: UInt32, span: Range<Int>)], Int) = ([], 0)
    for part in added.split(text, isNormalized: false, specialAsText: false) {
      guard case .text(let range) = part else {
        if case .token(let id) = part { found.append((UInt32(id), at..<at)) }
        continue
      }
      guard let (normal, origins) = try aligned(text[range], from: range.lowerBound) else { return nil }
      for part in added.split(normal, isNormalized: true, specialAsText: false) {
        guard case .text(let range) = part else {
          if case .token(let id) = part { found.append((UInt32(id), at..<at)) }
          continue
        }
        var pieces = Pieces(Array(normal[range]), isFirst: false)
        try preTokenizer?.apply(&pieces)
        guard pieces.bytes.count == range.count else { return nil }
        for piece in pieces.list where piece.start < piece.end {
          var (ids, place): ([UInt32], Int) = ([], piece.start)
          try pieces.bytes.withUnsafeBufferPointer { try model.encode(UnsafeBufferPointer(rebasing: $0[piece.start..<piece.end]), to: &ids) }
          for (number, id) in ids.enumerated() {
            let length = (model.tokens[Int(id)]?.count ?? 0) - (number > 0 ? model.prefix.count : 0)
            let end = id == unknown ? piece.end : place + length
            guard place < end, end <= piece.end else { return nil }
            let span = origins[range.lowerBound + place].lowerBound..<origins[range.lowerBound + end - 1].upperBound
            found.append((id, span))
            (place, at) = (end, span.upperBound)
          }
        }
      }
    }
    return found
  }

  /// A normalized text, and for each of its bytes the character it was made of.
  private func aligned(_ text: ArraySlice<UInt8>, from start: Int) throws -> (bytes: [UInt8], origins: [Range<Int>])? {
    var whole = Normalizer.Text(bytes: Array(text))
    try normalizer?.apply(&whole)
    var (bytes, origins, at): ([UInt8], [Range<Int>], Int) = ([], [], start)
    var known: [Unicode.Scalar: [UInt8]] = [:]
    for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
      let own = Array(String(scalar).utf8)
      let normal: [UInt8]
      if let one = known[scalar] {
        normal = one
      } else {
        var one = Normalizer.Text(bytes: own)
        try normalizer?.apply(&one)
        normal = one.bytes
        known[scalar] = normal
      }
      bytes += normal
      origins += repeatElement(at..<at + own.count, count: normal.count)
      at += own.count
    }
    return bytes == whole.bytes ? (bytes, origins) : nil
  }
}
