import Glibc
import NibbleCompute
import NibbleCore

/// Beam search as transformers has it: finished sequences compete by sum of log-probabilities over length to the power of the
/// length penalty, and the search ends when no running one can beat the worst of them.
package struct BeamSearch {
  package var width: Int
  package var lengthPenalty = 1.0

  package init(width: Int, lengthPenalty: Double = 1) {
    self.width = width
    self.lengthPenalty = lengthPenalty
  }

  private struct Beam {
    /// New tokens; of finished beams the one that ended them included.
    var ids: [Int] = []
    /// Sum of log-probabilities; of finished beams the score they compete with.
    var score: Double
    /// Which running beam it continues.
    var parent = 0
    var isFinished = false
  }

  /// What a score that must not win is lowered by.
  private static let never = -1e9

  /// The best continuation of `request`, and its score.
  package func run(
    _ request: Generator.Request, _ generator: Generator, timing: inout Generator.Timing
  ) throws -> (result: Generator.Result, score: Double) {
    let network = try generator.network
    let room = try generator.room(for: request, network)
    let count = network.vocabulary, begun = generator.opening(request, network).written
    let started = monotonicSeconds()
    var caches = (0..<width).map { _ in network.cache() }
    var spare = (0..<width).map { _ in network.cache() }
    let first = try generator.naming { try generator.readPrompt(request, caches[0], network) }
    for cache in caches.dropFirst() { cache.assign(caches[0]) }
    timing.promptSeconds += monotonicSeconds() - started
    timing.promptTokens += request.prompt.count
    let decoding = monotonicSeconds()
    // Only the first beam counts at first: all are alike.
    var running = (0..<width).map { Beam(score: $0 == 0 ? 0 : Self.never) }
    var finished = (0..<width).map { _ in Beam(score: Self.never) }
    var scores = first
    for step in 1...max(room, 1) {
      let candidates = candidates(running, scores, count, isFirst: step == 1, generator, begun)
      let isLast = step == room
      let ends = candidates.map { isLast || generator.endIDs.contains($0.ids.last ?? -1) }
      finished = merged(finished, candidates, ends, length: step)
      // Beams that have not ended go on, best first.
      let going = candidates.indices.sorted { a, b in
        let (x, y) = (candidates[a].score + (ends[a] ? Self.never : 0), candidates[b].score + (ends[b] ? Self.never : 0))
        return x == y ? a < b : x > y
      }.prefix(width)
      running = going.map { candidates[$0] }
      for (index, beam) in running.enumerated() { spare[index].assign(caches[beam.parent]) }
      swap(&caches, &spare)
      let best = running[0].score / pow(Double(step), lengthPenalty)
      let worst = finished.map(\.score).min() ?? Self.never
      let canImprove = finished.contains { best > ($0.isFinished ? worst : Self.never) }
      if isLast || !canImprove || ends.allSatisfy({ $0 }) { break }
      let batch = Batch.tokens(
        running.indices.map { TokenRun([running[$0].ids.last ?? 0], cache: caches[$0], adapters: request.adapters) })
      scores = try generator.naming { try network.logits(try network.hidden(batch, tape: nil), rows: Array(running.indices), of: batch) }
      timing.decodedTokens += running.count
    }
    timing.decodeSeconds += monotonicSeconds() - decoding
    var ids = finished[0].ids
    var reason = room < generator.maximumNew ? Generator.Result.Reason.context : .length
    if let last = ids.last, generator.endIDs.contains(last) {
      ids.removeLast()
      reason = .endOfSequence
    }
    return (Generator.Result(ids: ids, reason: reason), finished[0].score)
  }

  /// The best continuations of all beams, twice as many as beams, or more where more tokens end a sequence.
  private func candidates(
    _ running: [Beam], _ scores: UnsafePointer<Float>, _ count: Int, isFirst: Bool, _ generator: Generator, _ begun: [Int]
  ) -> [Beam] {
    let wanted = max(2, 1 + generator.endIDs.count) * width
    var all: [(score: Double, beam: Int, id: Int)] = []
    for (index, beam) in running.enumerated() {
      // At first all beams share one row of scores.
      let own = scores + (isFirst ? 0 : index * count)
      let normal = Float(LayerKernels.logSumExp(own, count: count))
      let logs = FloatStore((0..<count).map { own[$0] - normal })
      let start = logs.start
      generator.sampling.adjust(
        start, count: count, history: begun + beam.ids, prompt: begun.count, ends: generator.endIDs)
      all += greatest(start, count: count, wanted).map { (beam.score + Double(start[$0]), index, $0) }
    }
    all.sort { ($0.score, $1.beam, $1.id) > ($1.score, $0.beam, $0.id) }
    return all.prefix(wanted).map { Beam(ids: running[$0.beam].ids + [$0.id], score: $0.score, parent: $0.beam) }
  }

  /// The best of what had finished and what just did among the first `width` candidates.
  private func merged(_ finished: [Beam], _ candidates: [Beam], _ ends: [Bool], length: Int) -> [Beam] {
    var all = finished
    for (index, candidate) in candidates.enumerated() {
      var beam = candidate
      beam.isFinished = ends[index] && index < width
      beam.score = candidate.score / pow(Double(length), lengthPenalty) + (beam.isFinished ? 0 : Self.never)
      all.append(beam)
    }
    let order = all.indices.sorted { all[$0].score == all[$1].score ? $0 < $1 : all[$0].score > all[$1].score }
    return order.prefix(width).map { all[$0] }
  }
}
