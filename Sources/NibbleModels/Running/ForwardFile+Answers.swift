import NibbleCore
import NibbleFormats

extension ForwardFile {
  /// Runs an encoder and a decoder: `logits` of every token that is written and, where labels were given, `loss`. What is written is
  /// `decoder_input_ids` or, as transformers has it, the labels behind the decoder's first token.
  func answers(
    _ model: Model, _ network: EncoderDecoder, _ adapters: [ActiveAdapter], _ writer: ([(name: String, shape: [Int])]) throws -> TensorFile.Writer
  ) throws -> Double? {
    for name in ["decoder_attention_mask", "token_type_ids"] where file.tensor(name) != nil {
      throw NibbleError.badInput("\(path: file.path): \(name) is not implemented for models that read one text and write another")
    }
    let count = network.vocabulary
    let targets = try labels.map { try self.targets($0, count) }
    let written = try written(network, targets)
    guard let length = written.first?.count, length > 0 else { throw NibbleError.badInput("\(path: file.path): no tokens to write") }
    let out = try writer([("logits", [ids.count, length, count])])
    var (sum, counted) = (0.0, 0)
    let read = ids[0].count, together = max(1, Self.passTokens / (read + length))
    for first in stride(from: 0, to: ids.count, by: together) {
      let sequences = first..<min(first + together, ids.count)
      let batch = Batch.tokens(
        sequences.map { row in
          TokenRun(
            ids[row] + written[row], mask: TokenMask((0..<read + length).map { $0 >= read || isVisible($0, in: row) }),
            types: (0..<read + length).map { $0 < read ? 0 : 1 }, adapters: adapters)
        })
      let hidden = try network.hidden(batch, tape: nil)
      let rows = sequences.flatMap { sequence in (0..<length).map { (sequence - first) * (read + length) + read + $0 } }
      for start in stride(from: 0, to: rows.count, by: Self.scoreRows) {
        let part = start..<min(start + Self.scoreRows, rows.count)
        let scores = try network.logits(hidden, rows: Array(rows[part]), of: batch)
        try out.add(UnsafeBufferPointer(start: scores, count: part.count * count), to: "logits")
        guard let targets else { continue }
        for row in part {
          let target = targets[first + row / length][row % length]
          guard target != Loss.ignored else { continue }
          sum += Loss.negativeLogLikelihood(scores + (row - start) * count, count: count, target: target)
          counted += 1
        }
      }
    }
    let loss = targets == nil ? nil : sum / Double(counted)
    if let loss { try withUnsafePointer(to: Float(loss)) { try out.add(UnsafeBufferPointer(start: $0, count: 1), to: "loss") } }
    try out.finish()
    return loss
  }

  private func targets(_ labels: StoredTensor, _ vocabulary: Int) throws -> [[Int]] {
    try rows(labels, "labels", integers(labels, below: vocabulary, "an id of the vocabulary of \(vocabulary)"))
  }

  private func rows(_ tensor: StoredTensor, _ name: String, _ values: [Int]) throws -> [[Int]] {
    guard tensor.shape.count == 2, tensor.shape[0] == ids.count, tensor.shape[1] > 0, values.count == ids.count * tensor.shape[1] else {
      throw NibbleError.badInput("\(path: file.path): \(name) has shape \(tensor.shape), expected [\(ids.count), length]")
    }
    return stride(from: 0, to: values.count, by: tensor.shape[1]).map { Array(values[$0..<$0 + tensor.shape[1]]) }
  }

  /// What the decoder reads, in rows of one length.
  private func written(_ network: EncoderDecoder, _ targets: [[Int]]?) throws -> [[Int]] {
    if let tensor = file.tensor("decoder_input_ids") {
      let written = try rows(tensor, "decoder_input_ids", file.integers(tensor))
      try checkIDs(written, of: "decoder_input_ids", network)
      guard targets == nil || targets?.first?.count == written.first?.count else {
        throw NibbleError.badInput("\(path: file.path): labels and decoder_input_ids are not equally long")
      }
      return written
    }
    guard let targets else { throw NibbleError.badInput("\(path: file.path): no tensor 'labels' or 'decoder_input_ids' in it") }
    return try targets.map { try network.written(for: $0) }
  }
}

extension EncoderDecoder {
  /// What the decoder reads so that it is judged by `labels`: its first token, then all labels but the last, as transformers shifts them.
  ///
  /// - Throws: `.usage` for labels that are left out, where the configuration has no padding to stand in their place
  package func written(for labels: [Int]) throws -> [Int] {
    try [start]
      + labels.dropLast().map { label in
        guard label == Loss.ignored else { return label }
        guard let padding else { throw NibbleError.usage("a label is left out, and the configuration has no pad_token_id to stand in its place") }
        return padding
      }
  }
}
