import NibbleCore
import NibbleModels

/// The text codes are calibrated with, as windows of tokens.
public struct CalibrationText: Sendable {
  /// Token ids as the model takes them.
  public var windows: [[Int]]
  /// Where they come from: "text", "self-written", or both with a plus between.
  public var source: String
  /// Tokens in all.
  public var tokens: Int { windows.reduce(0) { $0 + $1.count } }

  public init(windows: [[Int]], source: String) { (self.windows, self.source) = (windows, source) }

  /// The tokens every window has around it.
  public struct Marks: Sendable {
    public var before: [Int]
    public var after: [Int]

    /// - Parameter empty: what the tokenizer makes of an empty text
    public init(of empty: [Int]) {
      before = Array(empty.prefix(1))
      after = Array(empty.dropFirst())
    }
  }

  /// Pieces shorter than this tell little.
  private static let shortest = 8

  /// Cuts documents into windows.
  ///
  /// - Parameters:
  ///   - documents: ids without marks
  ///   - length: tokens of a window at most
  public static func windows(_ documents: [[Int]], _ marks: Marks, length: Int) -> [[Int]] {
    let room = max(1, length - marks.before.count - marks.after.count)
    return documents.flatMap { document in
      stride(from: 0, to: document.count, by: room).compactMap { start in
        let piece = document[start..<min(start + room, document.count)]
        return start > 0 && piece.count < min(shortest, room) ? nil : marks.before + piece + marks.after
      }
    }
  }

  /// Takes `tokens` tokens, as many from each source where all have enough, evenly spread over each, sources by turns.
  public init(_ sources: [[[Int]]], tokens: Int) {
    let counts = sources.map { $0.reduce(0) { $0 + $1.count } }
    // Sources that have less than their share leave it to the others.
    var shares = [Int](repeating: 0, count: sources.count)
    var left = tokens
    for (place, index) in counts.indices.sorted(by: { (counts[$0], $0) < (counts[$1], $1) }).enumerated() {
      shares[index] = min(counts[index], left / (sources.count - place))
      left -= shares[index]
    }
    var chosen: [(position: Double, source: Int, window: [Int])] = []
    for (index, windows) in sources.enumerated() where shares[index] > 0 {
      let taken = Self.spread(windows, counts[index], shares[index])
      for (place, window) in taken.enumerated() { chosen.append(((Double(place) + 0.5) / Double(taken.count), index, window)) }
    }
    chosen.sort { ($0.position, $0.source) < ($1.position, $1.source) }
    self.init(windows: chosen.map(\.window), source: "text")
  }

  /// The first windows that come to `tokens` tokens, the last cut.
  ///
  /// - Throws: `.usage` where there is none
  static func first(_ tokens: Int, of windows: [[Int]]) throws -> [[Int]] {
    var (chosen, left): ([[Int]], Int) = ([], tokens)
    for window in windows where left > 0 && !window.isEmpty {
      chosen.append(Array(window.prefix(left)))
      left -= chosen[chosen.count - 1].count
    }
    guard !chosen.isEmpty else { throw NibbleError.usage("there is no token to measure tensors with") }
    return chosen
  }

  /// Windows evenly spread over all that come to `wanted` tokens, the last one cut.
  private static func spread(_ windows: [[Int]], _ count: Int, _ wanted: Int) -> [[Int]] {
    guard wanted < count else { return windows }
    var taken: [[Int]] = []
    var sum = 0, seen = 0
    for window in windows where sum < wanted {
      seen += window.count
      // Behind its share of the way so far.
      guard sum * count < seen * wanted else { continue }
      let piece = Array(window.prefix(wanted - sum))
      taken.append(piece)
      sum += piece.count
    }
    return taken
  }
}

extension CalibrationText {
  /// What a text that the model writes begins with.
  public struct Beginning: Sendable {
    public var ids: [Int]
    /// What stands between the words of a user and the answer to them, the token that ends these words first; empty where nobody answers.
    public var reply: [Int]

    public init(_ ids: [Int], reply: [Int] = []) { (self.ids, self.reply) = (ids, reply) }
  }

  /// Both, window by window, evenly spread.
  public init(_ text: CalibrationText, and other: CalibrationText) {
    self.init([text.windows, other.windows], tokens: text.tokens + other.tokens)
    source = text.source + "+" + other.source
  }

  /// Text the model writes itself: sampled at temperature 1, each window from one of `beginnings` by turns. Where the words of a user end, the
  /// model answers them.
  ///
  /// - Parameters:
  ///   - tokens: how many in all
  ///   - ends: tokens that end a text
  ///   - progress: called with tokens written and tokens wanted
  /// - Throws: what generating throws
  public init(
    writtenBy model: Model, from beginnings: [Beginning], tokens: Int, seed: UInt64, ends: Set<Int>,
    progress: (Int, Int) -> Void = { _, _ in }
  ) throws {
    let length = min(CalibrationOptions.window, try model.contextLength)
    let beginnings = beginnings.map { Beginning(Array($0.ids.prefix(length / 2)), reply: $0.reply) }.filter { !$0.ids.isEmpty }
    guard !beginnings.isEmpty else { throw NibbleError.usage("there is no token a text of the model's own could begin with") }
    var windows: [[Int]] = []
    var count = 0
    var round: UInt64 = 0
    /// Texts with what the model goes on with, and whether it ended them.
    func written(_ texts: [[Int]], _ new: Int) throws -> [(ids: [Int], isEnded: Bool)] {
      var sampling = Sampling()
      sampling.temperature = 1
      sampling.seed = CountedRandom(seed: seed, stream: 0xCA11).bits(round)
      round += 1
      let generator = Generator(model, sampling: sampling, maximumNew: new, endIDs: ends)
      var timing = Generator.Timing()
      return zip(texts, try generator.run(texts.map { Generator.Request($0) }, timing: &timing)).map {
        ($0 + $1.ids, $1.reason == .endOfSequence)
      }
    }
    while count < tokens {
      let missing = ceilDivide(tokens - count, length)
      let prompts = (0..<min(64, max(missing, beginnings.count))).map { beginnings[(windows.count + $0) % beginnings.count] }
      var texts = try written(prompts.map(\.ids), length - (prompts.map(\.ids.count).max() ?? 0))
      let asked = texts.indices.filter {
        texts[$0].isEnded && !prompts[$0].reply.isEmpty && texts[$0].ids.count + prompts[$0].reply.count + Self.shortest <= length
      }
      if !asked.isEmpty {
        let questions = asked.map { texts[$0].ids + prompts[$0].reply }
        let answered = try written(questions, length - (questions.map(\.count).min() ?? 0))
        for (place, text) in zip(asked, answered) { texts[place] = text }
      }
      for text in texts where count < tokens {
        let end = text.isEnded ? ends.min().map { [$0] } ?? [] : []
        let window = Array((text.ids + end).prefix(min(length, tokens - count)))
        windows.append(window)
        count += window.count
      }
      progress(count, tokens)
    }
    self.init(windows: windows, source: "self-written")
  }

  /// A digest of every window, which names the text in the record of the output.
  public var digest: String {
    var bytes = ByteWriter()
    for window in windows {
      bytes.u32(window.count)
      for id in window { bytes.u32(id) }
    }
    let hash = XXH3()
    hash.update(bytes.bytes)
    return hash.digest128.description
  }
}
