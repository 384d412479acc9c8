import NibbleCompute
import NibbleCore
import NibbleModels

/// Scores continuations with a model. What questions, and the choices of one, begin with in common is computed once.
package struct ContinuationScores {
  private let model: Model
  private let network: any TokenNetwork
  private let adapters: [ActiveAdapter]

  /// - Throws: `.usage` for models that do not write text
  package init(_ model: Model, adapters: [ActiveAdapter]) throws {
    network = try model.oneText(for: "scores of choices")
    guard model.writesText else { throw NibbleError.usage("\(path: model.path) does not write text: it has no scores for choices") }
    (self.model, self.adapters) = (model, adapters)
  }

  package var contextLength: Int { network.contextLength }

  /// Tokens of a pass, and of the caches that wait beside it.
  private static let (passRows, cacheTokens) = (512, 16384)
  /// Rows of scores of the vocabulary that are held at once.
  private static let scoreRows = 64

  /// Scores questions, the continuations of each together.
  ///
  /// - Parameter onScores: called with the number of a question and a score for each of its continuations, question by question in no certain order
  /// - Throws: `.badInput` for a continuation of no token or one longer than the context, and what models throw
  package func run(_ questions: [[Continuation]], onScores: (Int, [Continuation.Score]) throws -> Void) throws {
    let beginnings = questions.map { question in
      question.dropFirst().reduce(question.first?.read ?? []) { Array($0.prefix(SharedBeginnings.common($0, $1.read))) }
    }
    for group in SharedBeginnings.groups(beginnings) {
      let beginning = Array(beginnings[group.members[0]].prefix(group.shared))
      let start = network.cache()
      try read(beginning, start)
      let longest = group.members.flatMap { questions[$0].map(\.read.count) }.max() ?? 1
      let slots = min(64, max(2, Self.cacheTokens / max(longest, 1)))
      let caches = Caches(start, slots, network)
      var next = 0
      while next < group.members.count {
        var rows = 0
        let part = group.members[next...].prefix(max(1, slots / 2)).prefix { member in
          rows += beginnings[member].count - group.shared
          return rows <= Self.passRows
        }
        let members = Array(part.isEmpty ? group.members[next...next] : part)
        next += members.count
        try score(members, questions, beginnings, from: beginning.count, caches, onScores)
      }
    }
  }

  /// Caches that all hold a group's beginning.
  private final class Caches {
    let all: [KeyValueCache]
    private let start: KeyValueCache
    private var isReady: [Bool]

    init(_ start: KeyValueCache, _ count: Int, _ network: any TokenNetwork) {
      self.start = start
      all = (0..<count).map { _ in network.cache() }
      isReady = Array(repeating: false, count: count)
    }

    /// A cache that holds the beginning and nothing else.
    subscript(_ slot: Int) -> KeyValueCache {
      if isReady[slot] { all[slot].truncate(to: start.count) } else { all[slot].assign(start) }
      isReady[slot] = true
      return all[slot]
    }
  }

  private func read(_ ids: [Int], _ cache: KeyValueCache) throws {
    for first in stride(from: 0, to: ids.count, by: Self.passRows) {
      let part = Array(ids[first..<min(first + Self.passRows, ids.count)])
      _ = try model.naming { try network.hidden(.tokens([TokenRun(part, cache: cache, adapters: adapters)]), tape: nil) }
    }
  }

  /// Scores some questions of a group: first what the choices of each have in common, then what each choice adds.
  private func score(
    _ members: [Int], _ questions: [[Continuation]], _ beginnings: [[Int]], from shared: Int, _ caches: Caches,
    _ onScores: (Int, [Continuation.Score]) throws -> Void
  ) throws {
    var scores = members.map { questions[$0].map { _ in Continuation.Score() } }
    let own = members.indices.map { ($0, caches[$0]) }
    let heads = members.map { Array(beginnings[$0].dropFirst(shared)) }
    try pass(
      own.map { slot, cache in
        Reading(question: slot, choices: Array(questions[members[slot]].indices), ids: heads[slot], first: shared, cache: cache)
      }, members, questions, &scores)
    // What is left of each choice.
    let rest = members.enumerated().flatMap { slot, member in
      questions[member].indices.compactMap { choice -> (slot: Int, choice: Int, ids: [Int])? in
        let ids = Array(questions[member][choice].read.dropFirst(beginnings[member].count))
        return ids.isEmpty ? nil : (slot, choice, ids)
      }
    }
    let free = max(1, caches.all.count - members.count)
    var next = 0
    while next < rest.count {
      var rows = 0
      let fitting = rest[next...].prefix(free).prefix {
        rows += $0.ids.count
        return rows <= Self.passRows
      }
      let part = Array(fitting.isEmpty ? rest[next...next] : fitting)
      next += part.count
      let readings = part.enumerated().map { index, one in
        let cache = caches[members.count + index]
        cache.append(own[one.slot].1, from: shared)
        return Reading(question: one.slot, choices: [one.choice], ids: one.ids, first: beginnings[members[one.slot]].count, cache: cache)
      }
      try pass(readings, members, questions, &scores)
    }
    for (slot, member) in members.enumerated() { try onScores(member, scores[slot]) }
  }

  /// Tokens that are read, from place `first` of what these choices of a question read.
  private struct Reading {
    var question: Int
    var choices: [Int]
    var ids: [Int]
    var first: Int
    var cache: KeyValueCache
  }

  /// One pass, and the scores of the tokens that come next in it; long readings are divided.
  private func pass(
    _ readings: [Reading], _ members: [Int], _ questions: [[Continuation]], _ scores: inout [[Continuation.Score]]
  ) throws {
    try Interrupt.check()
    if let long = readings.first(where: { $0.ids.count > Self.passRows }) {
      var (head, tail) = (long, long)
      head.ids = Array(long.ids.prefix(Self.passRows))
      (tail.ids, tail.first) = (Array(long.ids.dropFirst(Self.passRows)), long.first + Self.passRows)
      for part in [[head], [tail], readings.filter { $0.cache !== long.cache }] where !part.isEmpty { try pass(part, members, questions, &scores) }
      return
    }
    let readings = readings.filter { !$0.ids.isEmpty }
    guard !readings.isEmpty else { return }
    let batch = Batch.tokens(readings.map { TokenRun($0.ids, cache: $0.cache, adapters: adapters) })
    let hidden = try model.naming { try network.hidden(batch, tape: nil) }
    var wanted: [(row: Int, question: Int, choice: Int, id: Int)] = []
    var start = 0
    for reading in readings {
      for choice in reading.choices {
        let continuation = questions[members[reading.question]][choice]
        for (index, id) in continuation.scored.enumerated() {
          let row = continuation.firstScored + index - reading.first
          if reading.ids.indices.contains(row) { wanted.append((start + row, reading.question, choice, id)) }
        }
      }
      start += reading.ids.count
    }
    // Choices that go on from one token look at the same scores.
    let rows = Array(Set(wanted.map(\.row))).sorted()
    let count = network.vocabulary
    var next = 0
    wanted.sort { ($0.row, $0.question, $0.choice) < ($1.row, $1.question, $1.choice) }
    for first in stride(from: 0, to: rows.count, by: Self.scoreRows) {
      let part = Array(rows[first..<min(first + Self.scoreRows, rows.count)])
      let found = try network.logits(hidden, rows: part, of: batch)
      for (index, row) in part.enumerated() {
        let own = found + index * count
        let normal = LayerKernels.logSumExp(own, count: count), best = LayerKernels.argmax(own, count: count).index
        while next < wanted.count, wanted[next].row == row {
          let one = wanted[next]
          scores[one.question][one.choice].logProbability += Double(own[one.id]) - normal
          if best != one.id { scores[one.question][one.choice].isGreedy = false }
          next += 1
        }
      }
    }
  }
}
