import NibbleCompute
import NibbleCore

/// Continues sequences token by token, all of a batch in one pass over the weights.
package struct Generator {
  /// A sequence to be continued.
  package struct Request {
    package var prompt: [Int]
    package var adapters: [ActiveAdapter]

    package init(_ prompt: [Int], adapters: [ActiveAdapter] = []) {
      self.prompt = prompt
      self.adapters = adapters
    }
  }

  /// What became of a request.
  package struct Result {
    /// New tokens, without the one that ended the sequence.
    package var ids: [Int]
    package var reason: Reason

    package enum Reason: String { case endOfSequence = "end", length, stop }
  }

  package let transformer: Transformer
  package var sampling: Sampling
  package var maximumNew: Int
  /// Tokens that end a sequence.
  package var endIDs: Set<Int>

  package init(_ transformer: Transformer, sampling: Sampling, maximumNew: Int, endIDs: Set<Int>) {
    self.transformer = transformer
    self.sampling = sampling
    self.maximumNew = maximumNew
    self.endIDs = endIDs
  }

  /// Prompt tokens computed in one pass: bounds memory, and is enough for full speed.
  static let promptRows = 512

  /// Timings of one call.
  package struct Timing {
    package var promptSeconds = 0.0
    package var decodeSeconds = 0.0

    package init() {}
  }

  /// Continues every request.
  ///
  /// - Parameter onToken: told each new token, with its request; `true` ends that sequence there
  package func run(
    _ requests: [Request], timing: inout Timing, onToken: (Int, Int) throws -> Bool = { _, _ in false }
  ) throws -> [Result] {
    for request in requests { try check(request) }
    let started = monotonicSeconds()
    let caches = requests.map { _ in KeyValueCache(transformer.shape) }
    var results = requests.map { _ in Result(ids: [], reason: .length) }
    var next = try zip(requests, caches).enumerated().map { index, pair in
      try choose(try Self.readPrompt(pair.0, pair.1, transformer), pair.0.prompt, row: index, step: 0)
    }
    timing.promptSeconds += monotonicSeconds() - started
    let decoding = monotonicSeconds()
    var active = Array(requests.indices)
    for step in 1...max(maximumNew, 1) where maximumNew > 0 {
      active = try active.filter { row in
        if endIDs.contains(next[row]) {
          results[row].reason = .endOfSequence
          return false
        }
        results[row].ids.append(next[row])
        if try onToken(row, next[row]) {
          results[row].reason = .stop
          return false
        }
        return results[row].ids.count < maximumNew
      }
      guard !active.isEmpty else { break }
      let runs = active.map { TokenRun([next[$0]], cache: caches[$0], adapters: requests[$0].adapters) }
      let hidden = try transformer.hidden(runs)
      let scores = try transformer.logits(hidden, rows: Array(runs.indices), of: runs)
      for (index, row) in active.enumerated() {
        let own = scores + index * transformer.shape.vocabulary
        next[row] = try choose(own, requests[row].prompt + results[row].ids, row: row, step: step)
      }
    }
    timing.decodeSeconds += monotonicSeconds() - decoding
    return results
  }

  package func check(_ request: Request) throws {
    guard !request.prompt.isEmpty else { throw NibbleError.usage("the prompt is empty: there is nothing to continue") }
    let length = request.prompt.count + maximumNew
    guard length <= transformer.shape.contextLength else {
      throw NibbleError.usage(
        "a prompt of \(request.prompt.count) tokens and \(maximumNew) new ones are more than the model's context of "
          + "\(transformer.shape.contextLength); --max-new-tokens sets the number of new ones")
    }
  }

  /// Computes a prompt, and the scores of what comes after it.
  static func readPrompt(
    _ request: Request, _ cache: KeyValueCache, _ transformer: Transformer
  ) throws -> UnsafePointer<Float> {
    var start = 0
    while true {
      let part = Array(request.prompt[start..<min(start + promptRows, request.prompt.count)])
      let runs = [TokenRun(part, cache: cache, adapters: request.adapters)]
      let hidden = try transformer.hidden(runs)
      start += part.count
      if start == request.prompt.count { return try transformer.logits(hidden, rows: [part.count - 1], of: runs) }
    }
  }

  private func choose(_ scores: UnsafePointer<Float>, _ history: [Int], row: Int, step: Int) throws -> Int {
    let count = transformer.shape.vocabulary
    let draw = CountedRandom(seed: sampling.seed, stream: UInt64(row)).uniform(UInt64(step))
    guard sampling.adjusts else { return sampling.choose(scores, count: count, draw: draw) }
    let adjusted = FloatStore(Array(UnsafeBufferPointer(start: scores, count: count)))
    sampling.adjust(adjusted.start, count: count, history: history)
    return sampling.choose(adjusted.start, count: count, draw: draw)
  }
}
