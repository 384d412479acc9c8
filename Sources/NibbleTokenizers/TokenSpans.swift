import NibbleCore

extension Tokenizer {
  /// The bytes of a text's UTF-8 that each of its tokens stands for.
  ///
  /// A space that a tokenizer puts before a text belongs to no byte; white space that a special token swallows belongs to that token.
  ///
  /// - Parameter ids: what `encode` made of `text`, without special tokens around it
  /// - Returns: nil where tokens are not the text's own bytes, of a tokenizer that changes letters for instance
  public func byteSpans(of ids: [Int], in text: String) -> [Range<Int>]? {
    let bytes = Array(text.utf8)
    var spans: [Range<Int>] = []
    spans.reserveCapacity(ids.count)
    var at = 0
    func stands(_ part: ArraySlice<UInt8>, at place: Int) -> Bool {
      place + part.count <= bytes.count && bytes[place..<place + part.count].elementsEqual(part)
    }
    for (index, id) in ids.enumerated() {
      guard let own = textBytes(of: id) else { return nil }
      if !stands(own[...], at: at), index > 0, isSpecial(ids[index - 1]), !isSpecial(id) || bytes[at...].first == 0x20 || bytes[at...].first == 0x0A {
        var end = at
        while end < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[end]), !stands(own[...], at: end) { end += 1 }
        if stands(own[...], at: end) {
          spans[index - 1] = spans[index - 1].lowerBound..<end
          at = end
        }
      }
      if stands(own[...], at: at) {
        spans.append(at..<at + own.count)
      } else if own.first == 0x20, stands(own.dropFirst(), at: at) {
        spans.append(at..<at + own.count - 1)
      } else {
        return nil
      }
      at = spans[index].upperBound
    }
    return at == bytes.count || bytes[at...].allSatisfy({ [0x20, 0x09, 0x0A, 0x0D].contains($0) }) ? spans : nil
  }

  /// A token's part of a text, nil for an id that is no token's.
  private func textBytes(of id: Int) -> [UInt8]? {
    guard let bytes = bytesForDecoding(id) else { return nil }
    for step in decodeSteps {
      if case .byteLevel(let isSpelled) = step { return isSpelled ? ByteAlphabet.bytes(spelledBy: bytes) ?? bytes : bytes }
    }
    if bytes.count == 6, bytes.starts(with: "<0x".utf8), bytes[5] == UInt8(ascii: ">"),
      let value = UInt8(String(decoding: bytes[3..<5], as: UTF8.self), radix: 16)
    {
      return [value]
    }
    var plain: [UInt8] = [], at = 0
    while at < bytes.count {
      // U+2581, SentencePiece's visible space.
      if bytes[at...].starts(with: [0xE2, 0x96, 0x81]) {
        plain.append(0x20)
        at += 3
      } else {
        plain.append(bytes[at])
        at += 1
      }
    }
    return plain
  }
}
