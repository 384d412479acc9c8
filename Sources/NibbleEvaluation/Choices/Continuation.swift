/// Tokens that are scored behind others.
public struct Continuation: Sendable, Equatable {
  /// What a model reads: the context, and the continuation without its last token.
  var read: [Int]
  /// The tokens that are scored, the last of which is not read.
  var scored: [Int]
  /// Tokens at the beginning that do not fit the model's context.
  var cut: Int

  /// - Parameters:
  ///   - contextLength: tokens a model can read; the beginning of what is longer is left out
  init(context: [Int], scored: [Int], contextLength: Int) {
    let all = (context + scored).dropLast()
    read = Array(all.suffix(contextLength))
    cut = all.count - read.count
    self.scored = scored
  }

  /// A text and what follows it, cut into tokens as lm-evaluation-harness cuts them: both together, and the tokens beyond those of the first alone are
  /// scored. White space at the end of the first belongs to the second.
  ///
  /// - Parameters:
  ///   - empty: what is read where there is no text before
  ///   - encode: tokens of a text, with what the tokenizer puts around it
  init(_ context: String, _ text: String, empty: Int?, contextLength: Int, encode: (String) throws -> [Int]) rethrows {
    let scalars = context.unicodeScalars
    let end = scalars.lastIndex { !$0.isPythonSpace }.map { scalars.index(after: $0) } ?? scalars.startIndex
    let before = String(scalars[..<end])
    let whole = try encode(context + text)
    var ids = before.isEmpty ? [] : try encode(before)
    if ids.isEmpty, let empty, whole.first != empty { ids = [empty] }
    let scored = before.isEmpty ? (whole.first == empty ? Array(whole.dropFirst()) : whole) : Array(whole.dropFirst(ids.count))
    self.init(context: before.isEmpty && whole.first == empty ? empty.map { [$0] } ?? [] : ids, scored: scored, contextLength: contextLength)
  }

  /// Reads whose next token is scored.
  var firstScored: Int { read.count - scored.count }

  /// How likely it is.
  public struct Score: Sendable, Equatable {
    /// Natural logarithm of its probability: the sum over its tokens.
    public var logProbability: Double
    /// Whether each of its tokens is the likeliest.
    public var isGreedy: Bool

    public init(logProbability: Double = 0, isGreedy: Bool = true) { (self.logProbability, self.isGreedy) = (logProbability, isGreedy) }
  }
}
