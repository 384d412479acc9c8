import Glibc
import NibbleCore
import NibbleQuant

/// Scaled dot-product attention over grouped heads.
package struct Attention: Sendable {
  package var heads: Int
  package var keyValueHeads: Int
  /// Numbers in a head of queries or keys.
  package var size: Int
  /// Numbers in a head of values.
  package var valueSize: Int
  package var scale: Float
  /// Whether a token sees only itself and what is before it.
  package var isCausal: Bool
  /// Scores, scaled, become cap · tanh(score / cap); nil for as they are.
  package var cap: Float?

  /// - Parameter valueSize: nil for that of keys
  package init(heads: Int, keyValueHeads: Int, size: Int, valueSize: Int? = nil, scale: Float, isCausal: Bool, cap: Float? = nil) {
    self.heads = heads
    self.keyValueHeads = keyValueHeads
    self.size = size
    self.valueSize = valueSize ?? size
    self.scale = scale
    self.isCausal = isCausal
    self.cap = cap
  }

  /// One sequence: its new tokens ask, all its tokens answer.
  package struct Sequence {
    /// Head 0 of the first new token; heads side by side, tokens `queryStride` floats apart.
    package var query: UnsafePointer<Float>
    package var queryStride: Int
    /// Head 0 of the first token; tokens `keyStride`, heads `keyHeadStride` floats apart.
    package var key: UnsafePointer<Float>
    package var value: UnsafePointer<Float>
    package var keyStride: Int
    package var keyHeadStride: Int
    /// The same of values.
    package var valueStride: Int
    package var valueHeadStride: Int
    /// Tokens before the first new one.
    package var past: Int
    package var new: Int
    /// Tokens a token sees at most, itself included: on its left, or on either side where it is not causal.
    package var window: Int?
    /// Tokens of a chunk, of which a token that is causal sees those of its own only; nil for none.
    package var chunk: Int?
    /// Tokens before those of the first chunk.
    package var chunkStart = 0
    /// One byte a token, 0 for those nobody may see; nil for none.
    package var mask: UnsafePointer<UInt8>?
    /// A score for each head that no key has: it takes its share of the softmax and gives nothing. nil for none.
    package var sinks: UnsafePointer<Float>?
    /// Tokens that answer, from `key` and `value` on, where they are others than those that ask: all are seen. nil for the sequence's own.
    package var others: Int?
    /// Numbers that are added to scores once these are scaled, by the place of the key less that of the query: the one for 0 of head 0, those of
    /// heads `biasStride` floats apart. nil for none.
    package var bias: UnsafePointer<Float>?
    package var biasStride = 0
    package var output: UnsafeMutablePointer<Float>
    package var outputStride: Int

    /// Values lie as keys do.
    package init(
      query: UnsafePointer<Float>, queryStride: Int, key: UnsafePointer<Float>, value: UnsafePointer<Float>, keyStride: Int,
      keyHeadStride: Int, past: Int, new: Int, window: Int?, mask: UnsafePointer<UInt8>?, output: UnsafeMutablePointer<Float>,
      outputStride: Int
    ) {
      self.query = query
      self.queryStride = queryStride
      self.key = key
      self.value = value
      self.keyStride = keyStride
      self.keyHeadStride = keyHeadStride
      (valueStride, valueHeadStride) = (keyStride, keyHeadStride)
      self.past = past
      self.new = new
      self.window = window
      self.mask = mask
      self.output = output
      self.outputStride = outputStride
    }

    /// Tokens that answer.
    var keys: Int { others ?? past + new }
  }

  private enum Slot { static let scores = 8 }
  /// Queries whose scores are held together.
  private static let block = 64

  /// Computes all sequences, split over heads and blocks of queries.
  package func run(_ sequences: [Sequence], _ team: Team) {
    var tasks: [(sequence: Int, head: Int, queries: Range<Int>)] = []
    for (index, sequence) in sequences.enumerated() {
      for start in stride(from: 0, to: sequence.new, by: Self.block) {
        for head in 0..<keyValueHeads { tasks.append((index, head, start..<min(start + Self.block, sequence.new))) }
      }
    }
    // A token at a time over few keys is less work than waking a thread.
    let work = sequences.reduce(0) { $0 + $1.new * $1.keys } * heads * size
    let body = { (task: Int, scratch: Scratch) in
      let (sequence, head, queries) = tasks[task]
      run(sequences[sequence], head, queries, scratch)
    }
    if work < 1 << 18 {
      let scratch = team.serialScratch
      for task in tasks.indices { body(task, scratch) }
    } else {
      team.run(tasks.count, body)
    }
  }

  private func run(_ sequence: Sequence, _ head: Int, _ queries: Range<Int>, _ scratch: Scratch) {
    let group = heads / keyValueHeads
    let keys = keyRange(sequence, queries)
    let key = sequence.key + head * sequence.keyHeadStride + keys.lowerBound * sequence.keyStride
    let value = sequence.value + head * sequence.valueHeadStride + keys.lowerBound * sequence.valueStride
    let mask = sequence.mask.map { $0 + keys.lowerBound }
    guard queries.count > 1, BLAS.isThere else {
      for query in queries {
        let own = keyRange(sequence, query..<query + 1)
        let skipped = own.lowerBound - keys.lowerBound
        let scores = scratch.floatStart(Slot.scores, group * (own.count + 1))
        LayerKernels.attend(
          sequence.query + query * sequence.queryStride + head * group * size, queries: group, queryStride: size,
          keys: key + skipped * sequence.keyStride, values: value + skipped * sequence.valueStride, count: own.count,
          keyStride: sequence.keyStride, valueStride: sequence.valueStride, width: size, valueWidth: valueSize, scale: scale, cap: cap,
          bias: bias(sequence, head * group, query, own.lowerBound), biasStride: sequence.biasStride, mask: mask.map { $0 + skipped },
          sinks: sequence.sinks.map { $0 + head * group }, sequence.output + query * sequence.outputStride + head * group * valueSize,
          outStride: valueSize, scratch: scores)
      }
      return
    }
    let scores = scratch.floatStart(Slot.scores, queries.count * keys.count)
    for member in 0..<group {
      let index = head * group + member
      multiply(
        sequence.query + queries.lowerBound * sequence.queryStride + index * size, sequence.queryStride, key, sequence.keyStride,
        transposed: true, scores, keys.count, queries.count, keys.count, size)
      for query in queries {
        let own = keyRange(sequence, query..<query + 1)
        weigh(
          scores + (query - queries.lowerBound) * keys.count, keys.count,
          seen: own.lowerBound - keys.lowerBound..<own.upperBound - keys.lowerBound, mask, sink: sequence.sinks?[index],
          bias: bias(sequence, index, query, own.lowerBound))
      }
      multiply(
        scores, keys.count, value, sequence.valueStride, transposed: false,
        sequence.output + queries.lowerBound * sequence.outputStride + index * valueSize, sequence.outputStride, queries.count, valueSize, keys.count)
    }
  }

  /// Keys that at least one of `queries` sees, masks aside.
  func keyRange(_ sequence: Sequence, _ queries: Range<Int>) -> Range<Int> {
    if let others = sequence.others { return 0..<others }
    guard isCausal else {
      let all = 0..<sequence.past + sequence.new
      guard let window = sequence.window else { return all }
      return (queries.lowerBound - window + 1..<queries.upperBound + window - 1).clamped(to: all)
    }
    let first = sequence.past + queries.lowerBound, end = sequence.past + queries.upperBound
    let chunk = sequence.chunk.map { max(0, first - max(0, first - sequence.chunkStart) % $0) } ?? 0
    guard let window = sequence.window else { return chunk..<end }
    return max(chunk, first - window + 1)..<end
  }

  /// What is added to the score of a query, counted from the first new one, and a key; those of the keys behind it follow.
  func bias(_ sequence: Sequence, _ head: Int, _ query: Int, _ key: Int) -> UnsafePointer<Float>? {
    sequence.bias.map { $0 + (head * sequence.biasStride + key - sequence.past - query) }
  }

  /// One row of scores becomes weights: a softmax over what is seen, zeros elsewhere.
  ///
  /// - Parameters:
  ///   - sink: what takes its share beside the row
  ///   - bias: what is added to the scores of what is seen; nil for nothing
  ///   - bounded: gets tanh(score / cap) of what is seen, if there is a cap
  func weigh(
    _ row: UnsafeMutablePointer<Float>, _ count: Int, seen: Range<Int>, _ mask: UnsafePointer<UInt8>?, sink: Float? = nil,
    bias: UnsafePointer<Float>? = nil, bounded: UnsafeMutablePointer<Float>? = nil
  ) {
    let own = row + seen.lowerBound
    if let cap {
      LayerKernels.scale(own, by: scale / cap, count: seen.count)
      LayerKernels.activate(.tanh, own, count: seen.count, own)
      if let bounded { (bounded + seen.lowerBound).update(from: own, count: seen.count) }
      LayerKernels.scale(own, by: cap, count: seen.count)
    }
    if let bias {
      if cap == nil, scale != 1 { LayerKernels.scale(own, by: scale, count: seen.count) }
      LayerKernels.add(bias, count: seen.count, to: own)
    }
    let left = cap == nil && bias == nil ? scale : 1
    for index in 0..<seen.lowerBound { row[index] = 0 }
    for index in seen.upperBound..<count { row[index] = 0 }
    if let mask { for index in seen where mask[index] == 0 { row[index] = -.infinity } }
    guard let sink else { return LayerKernels.softmax(own, count: seen.count, scale: left) }
    if left != 1 { LayerKernels.scale(own, by: left, count: seen.count) }
    let sum = LayerKernels.logSumExp(own, count: seen.count)
    LayerKernels.softmax(own, count: seen.count)
    // Where nothing is seen, the sink has it all.
    LayerKernels.scale(own, by: sum.isFinite ? Float(1 / (1 + exp(Double(sink) - sum))) : 0, count: seen.count)
  }
}
