import NibbleCore

/// SentencePiece's byte pairs, of which a GGUF file has the pieces and their scores.
enum GgufSentencePiece {
  /// Writes the merges of a tokenizer.json: every way to put a piece together of two others, the best piece first.
  ///
  /// As in transformers' `generate_merges`: by descending score, then by the lengths of the two in characters.
  static func addMerges(_ vocabulary: GgufVocabulary, to out: inout JSONBytes, path: String) throws {
    guard vocabulary.scores.count == vocabulary.count else {
      throw NibbleError.badInput("\(path: path): \(key: "tokenizer.ggml.scores") is missing, which say what is merged first")
    }
    var ids: [ArraySlice<UInt8>: Int32] = [:]
    ids.reserveCapacity(vocabulary.count)
    for id in 0..<vocabulary.count where !vocabulary.isFiller(id) { ids[vocabulary.texts[id]] = Int32(id) }
    var merges: [(id: Int32, split: Int32, left: Int32, right: Int32)] = []
    for id in 0..<vocabulary.count where vocabulary.types[id] == .normal || vocabulary.types[id] == .userDefined {
      if id % 4096 == 0 { try Interrupt.check() }
      let text = vocabulary.texts[id]
      let starts = text.indices.filter { text[$0] & 0xC0 != 0x80 }
      for (left, start) in starts.enumerated().dropFirst() {
        guard ids[text[..<start]] != nil, ids[text[start...]] != nil else { continue }
        merges.append((Int32(id), Int32(start - text.startIndex), Int32(left), Int32(starts.count - left)))
      }
    }
    let scores = vocabulary.scores
    // The order of pieces that are alike in all this is theirs.
    let order = merges.indices.sorted { a, b in
      let (x, y) = (merges[a], merges[b])
      let (first, second) = (scores[Int(x.id)], scores[Int(y.id)])
      if first != second { return first > second }
      if x.left != y.left { return x.left > y.left }
      if x.right != y.right { return x.right > y.right }
      return a < b
    }
    out.append("[")
    for (index, place) in order.enumerated() {
      let merge = merges[place]
      let text = vocabulary.texts[Int(merge.id)]
      let split = text.startIndex + Int(merge.split)
      out.append(index == 0 ? "\n[" : ",\n[")
      out.text(text[..<split])
      out.append(",")
      out.text(text[split...])
      out.append("]")
    }
    out.append("]")
  }

  /// The bytes of a `tokenizer.model`: pieces, scores, and how texts are made ready.
  ///
  /// Fields are those of SentencePiece's `sentencepiece_model.proto`.
  static func model(_ vocabulary: GgufVocabulary, _ ids: GgufSpecialIDs, addsPrefix: Bool) throws -> [UInt8] {
    var out = Protobuf()
    for id in 0..<vocabulary.count {
      out.add(1) { piece in
        piece.add(1, Array(vocabulary.texts[id]))
        piece.add(2, vocabulary.scores.isEmpty ? 0 : vocabulary.scores[id])
        let type = vocabulary.types[id]
        if type != .normal, type != .undefined { piece.add(3, type.rawValue) }
      }
    }
    out.add(2) { trainer in
      trainer.add(3, 2)
      trainer.add(4, vocabulary.count)
      if vocabulary.types.contains(.byte) { trainer.add(35, 1) }
      for (field, id) in [(40, ids.unknown), (41, ids.bos), (42, ids.eos), (43, ids.pad)] as [(UInt64, Int?)] { trainer.add(field, id ?? -1) }
    }
    out.add(3) { normalizer in
      normalizer.add(1, "identity")
      normalizer.add(3, addsPrefix ? 1 : 0)
      normalizer.add(4, 0)
    }
    return out.bytes
  }
}
