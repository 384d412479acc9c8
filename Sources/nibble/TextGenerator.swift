import NibbleModels
import NibbleTokenizers

/// From prompts to text.
struct TextGenerator {
  var generator: Generator
  let tokens: ModelTokenizer
  let stops: [String]
  let beams: BeamSearch?

  struct Text {
    var text = ""
    var ids: [Int] = []
    var promptTokens = 0
    var reason = Generator.Result.Reason.length
    var adapters: [String] = []
    /// The score of a beam search.
    var score: Double?
  }

  struct Results {
    var texts: [Text]
    var timing: Generator.Timing

    /// New tokens that the tokenizer has no text for, from rows that only pad the model's vocabulary.
    func unknown(_ tokenizer: Tokenizer) -> Int {
      texts.reduce(0) { $0 + $1.ids.count { tokenizer.token($0) == nil } }
    }
  }

  /// Continues `prompts`.
  ///
  /// - Parameter onText: called with a prompt's number and each piece of its text, once that is certain
  func run(
    _ prompts: [(prompt: [Int], adapters: [ActiveAdapter])], onText: (Int, String) throws -> Void
  ) throws -> Results {
    let requests = prompts.map { Generator.Request($0.prompt, adapters: $0.adapters) }
    var timing = Generator.Timing()
    if let beams { return try search(beams, requests, &timing) }
    var decoders = requests.map { _ in tokens.tokenizer.streamingDecoder(skipSpecialTokens: true) }
    // The prompt is not printed again, but decides whether the first new token reads with a space before it.
    for (row, request) in requests.enumerated() { for id in before(request) { _ = try decoders[row].feed(id) } }
    var watchers = requests.map { _ in StopStrings(stops) }
    var texts = requests.map { Text(promptTokens: $0.prompt.count, adapters: $0.adapters.map(\.adapter.name)) }
    func take(_ row: Int, _ piece: String) throws {
      guard !piece.isEmpty else { return }
      texts[row].text += piece
      try onText(row, piece)
    }
    let results = try generator.run(requests, timing: &timing) { row, id in
      if tokens.tokenizer.token(id) != nil { try take(row, watchers[row].feed(try decoders[row].feed(id))) }
      return watchers[row].isFound
    }
    for row in results.indices {
      try take(row, watchers[row].feed(try decoders[row].finish()))
      try take(row, watchers[row].finish())
      texts[row].ids = results[row].ids
      texts[row].reason = watchers[row].isFound ? .stop : results[row].reason
    }
    return Results(texts: texts, timing: timing)
  }

  /// What stands before the new tokens of a request: its prompt, unless that is answered in a text of its own.
  private func before(_ request: Generator.Request) -> [Int] { generator.answersPrompts ? [] : request.prompt }

  private func search(
    _ beams: BeamSearch, _ requests: [Generator.Request], _ timing: inout Generator.Timing
  ) throws -> Results {
    let texts = try requests.map { request in
      let (result, score) = try beams.run(request, generator, timing: &timing)
      var watcher = StopStrings(stops)
      var text = Text(
        ids: result.ids, promptTokens: request.prompt.count, reason: result.reason,
        adapters: request.adapters.map(\.adapter.name), score: score)
      var decoder = tokens.tokenizer.streamingDecoder(skipSpecialTokens: true)
      for id in before(request) { _ = try decoder.feed(id) }
      text.text =
        try watcher.feed(
          result.ids.filter { tokens.tokenizer.token($0) != nil }.map { try decoder.feed($0) }.joined() + decoder.finish())
        + watcher.finish()
      if watcher.isFound { text.reason = .stop }
      return text
    }
    return Results(texts: texts, timing: timing)
  }
}
