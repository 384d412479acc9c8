import NibbleCompute
import NibbleCore

/// Continues sequences token by token, all of a batch in one pass over the weights.
public struct Generator {
  /// A sequence to be continued.
  public struct Request {
    /// Token IDs, one at least.
    public var prompt: [Int]
    /// From `AdapterSet.selection`; none for the bare base.
    public var adapters: [ActiveAdapter]

    /// A prompt for the base, with or without adapters.
    public init(_ prompt: [Int], adapters: [ActiveAdapter] = []) {
      self.prompt = prompt
      self.adapters = adapters
    }
  }

  /// The result of a request.
  public struct Result {
    /// New tokens, without the one that ended the sequence.
    public var ids: [Int]
    /// Why it ended.
    public var reason: Reason

    /// Why a sequence ended: an end token, `maximumNew`, a full context, or `onToken`.
    public enum Reason: String { case endOfSequence = "end", length, context, stop }
  }

  private let model: Model
  /// How tokens are chosen.
  public var sampling: Sampling
  /// The most new tokens a sequence gets. A sequence also ends where it fills the model's context.
  public var maximumNew: Int
  /// Tokens that end a sequence.
  public var endIDs: Set<Int>
  /// The first token of texts that a decoder beside an encoder writes; nil for the configuration's.
  public var start: Int?

  /// - Parameters:
  ///   - maximumNew: the most new tokens a sequence gets, 0 or more
  ///   - endIDs: tokens that end one; `Tokenizer.special` has the model's
  public init(_ model: Model, sampling: Sampling = Sampling(), maximumNew: Int, endIDs: Set<Int>) {
    self.model = model
    self.sampling = sampling
    self.maximumNew = maximumNew
    self.endIDs = endIDs
  }

  /// What computes.
  ///
  /// - Throws: `.usage` for models that take no texts, and for those that fill masks
  var network: any TokenNetwork {
    get throws {
      guard !model.fillsMasks else { throw NibbleError.usage("\(path: model.path) fills masks in a text and cannot continue one") }
      return try model.tokens(for: "generation")
    }
  }

  /// Runs `body`, and names the model in what it says of numbers that are not finite.
  func naming<Found>(_ body: () throws -> Found) throws -> Found { try model.naming(body) }

  /// Whether texts are written to prompts, and do not continue them.
  public var answersPrompts: Bool { model.answersPrompts }

  /// Prompt tokens computed in one pass: bounds memory, and is enough for full speed.
  static let promptRows = 512
  /// Sequences continued together, and tokens that they may come to: bound the memory of caches.
  static let groupRows = 64
  static let groupTokens = 16384

  /// Timings of one call.
  public struct Timing {
    /// In the prompts' passes, which also give the first new tokens.
    public var promptSeconds = 0.0
    /// In all other passes.
    public var decodeSeconds = 0.0
    /// Tokens that went through the prompts' passes.
    public var promptTokens = 0
    /// Tokens that went through all other passes.
    public var decodedTokens = 0

    /// Nothing yet.
    public init() {}
  }

  /// Continues every request, many of them together.
  ///
  /// - Parameter onToken: called with the index of a request and each of its new tokens; `true` ends that sequence there
  /// - Throws: `.usage` for prompts that are empty or fill the context, `.badInput` for IDs the model has not, `.quality` for values that are not finite
  public func run(
    _ requests: [Request], timing: inout Timing, onToken: (Int, Int) throws -> Bool = { _, _ in false }
  ) throws -> [Result] {
    let network = try network
    let rooms = try requests.map { try room(for: $0, network) }
    var results: [Result] = []
    while results.count < requests.count {
      var tokens = 0
      let group = requests.indices[results.count...].prefix(Self.groupRows).prefix {
        tokens += requests[$0].prompt.count + rooms[$0]
        return tokens <= Self.groupTokens
      }
      let count = max(group.count, 1)
      results += try naming { try run(requests[results.count..<results.count + count], network, &timing, onToken) }
    }
    return results
  }

  /// A request while it runs.
  private struct Sequence {
    let row: Int
    let request: Request
    let cache: KeyValueCache
    /// What stands in the text before the new tokens.
    let begun: [Int]
    /// New tokens it may get.
    let room: Int
    var next: Int
    var result = Result(ids: [], reason: .length)
  }

  private func run(
    _ group: ArraySlice<Request>, _ network: any TokenNetwork, _ timing: inout Timing, _ onToken: (Int, Int) throws -> Bool
  ) throws -> [Result] {
    let started = monotonicSeconds()
    var sequences = try group.indices.map { row in
      let cache = network.cache()
      let scores = UnsafeBufferPointer(start: try readPrompt(group[row], cache, network), count: network.vocabulary)
      let begun = opening(group[row], network).written
      return Sequence(
        row: row, request: group[row], cache: cache, begun: begun, room: try room(for: group[row], network),
        next: choose(scores, begun, [], row: row, step: 0))
    }
    let decoding = monotonicSeconds()
    timing.promptSeconds += decoding - started
    timing.promptTokens += sequences.reduce(0) { $0 + $1.request.prompt.count }
    var active = sequences.indices.filter { sequences[$0].room > 0 }
    var step = 0
    while true {
      active = try active.filter { try take(&sequences[$0], onToken) }
      guard !active.isEmpty else { break }
      step += 1
      let batch = Batch.tokens(
        active.map { TokenRun([sequences[$0].next], cache: sequences[$0].cache, adapters: sequences[$0].request.adapters) })
      let hidden = try network.hidden(batch, tape: nil)
      let (scores, count) = (try network.logits(hidden, rows: Array(active.indices), of: batch), network.vocabulary)
      for (index, one) in active.enumerated() {
        let (own, sequence) = (UnsafeBufferPointer(start: scores + index * count, count: count), sequences[one])
        sequences[one].next = choose(own, sequence.begun, sequence.result.ids, row: sequence.row, step: step)
      }
      timing.decodedTokens += active.count
    }
    timing.decodeSeconds += monotonicSeconds() - decoding
    return sequences.map(\.result)
  }

  /// Takes the token chosen for a sequence; false when that ends it.
  private func take(_ sequence: inout Sequence, _ onToken: (Int, Int) throws -> Bool) throws -> Bool {
    if endIDs.contains(sequence.next) {
      sequence.result.reason = .endOfSequence
      return false
    }
    sequence.result.ids.append(sequence.next)
    if try onToken(sequence.row, sequence.next) {
      sequence.result.reason = .stop
      return false
    }
    guard sequence.result.ids.count >= sequence.room else { return true }
    if sequence.room < maximumNew { sequence.result.reason = .context }
    return false
  }

  /// How many new tokens `request` may get.
  ///
  /// - Throws: `.usage` for a prompt that is empty or leaves no room in the context
  func room(for request: Request, _ network: any TokenNetwork) throws -> Int {
    guard !request.prompt.isEmpty else { throw NibbleError.usage("the prompt is empty: there is nothing to continue") }
    let left = network.contextLength - opening(request, network).ids.count
    guard left >= min(maximumNew, 1) else {
      throw NibbleError.usage(
        "the prompt has \(request.prompt.count) tokens and the model's context \(network.contextLength), which leaves no room for an answer; "
          + "\(.maxPromptTokens, max(network.contextLength - max(maximumNew, 1), network.contextLength / 2)) keeps only the prompt's end")
    }
    return min(maximumNew, left)
  }

  /// What a sequence begins with.
  func opening(_ request: Request, _ network: any TokenNetwork) -> Opening { network.opening(request.prompt, start: start) }

  /// Computes a prompt, and the scores of what comes after it.
  func readPrompt(
    _ request: Request, _ cache: KeyValueCache, _ network: any TokenNetwork
  ) throws -> UnsafePointer<Float> {
    let opening = opening(request, network), count = opening.ids.count
    var start = 0
    while true {
      // An encoder sees all of it at once.
      let part = Array(opening.ids[start..<(opening.types == nil ? min(start + Self.promptRows, count) : count)])
      let batch = Batch.tokens([TokenRun(part, cache: cache, types: opening.types, adapters: request.adapters)])
      let hidden = try network.hidden(batch, tape: nil)
      start += part.count
      if start == count { return try network.logits(hidden, rows: [part.count - 1], of: batch) }
    }
  }

  /// - Parameter begun: what stands in the text before the new tokens
  private func choose(_ scores: UnsafeBufferPointer<Float>, _ begun: [Int], _ new: [Int], row: Int, step: Int) -> Int {
    let draw = CountedRandom(seed: sampling.seed, stream: UInt64(row)).uniform(UInt64(step))
    if !sampling.adjusts, let start = scores.baseAddress { return sampling.choose(start, count: scores.count, draw: draw) }
    let adjusted = FloatStore(Array(scores)), count = scores.count
    sampling.adjust(adjusted.start, count: count, history: begun + new, prompt: begun.count, ends: endIDs)
    return sampling.choose(adjusted.start, count: count, draw: draw)
  }
}
