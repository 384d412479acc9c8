import NibbleCore
import NibbleTemplates

/// Which answers of a conversation are learned.
public enum LearnedTurns: String, Sendable, CaseIterable {
  /// Every one.
  case all
  /// The last one.
  case last
}

/// A conversation in a model's own words, and where its answers stand in it.
struct WrittenConversation {
  let text: String
  /// Bytes of the answers in `text`, in order.
  let answers: [Range<Int>]

  /// Writes a conversation out and finds its answers.
  ///
  /// Where the template marks them with `{% generation %}`, these are the answers. Elsewhere an answer is what the template adds to the
  /// conversation up to it, the answer begun, when the answer is there: rendered once without and once with it. White space behind an answer's end
  /// is not learned. Both texts must be beginnings of the whole; a template that rewrites earlier messages is refused.
  ///
  /// - Throws: `.badInput` for what the template refuses, and for answers that cannot be found
  init(_ conversation: Conversation, _ templates: ChatTemplates) throws {
    let rendering = try templates.render(conversation, addsPrompt: false)
    text = rendering.text
    answers = try rendering.generated.isEmpty
      ? Self.answers(of: conversation, in: Array(rendering.text.utf8), templates) : Self.bytes(rendering.generated, of: rendering.text)
  }

  private static func answers(of conversation: Conversation, in whole: [UInt8], _ templates: ChatTemplates) throws -> [Range<Int>] {
    func rendered(_ count: Int, addsPrompt: Bool) throws -> [UInt8] {
      var part = conversation
      part.messages = Array(conversation.messages.prefix(count))
      return Array(try templates.render(part, addsPrompt: addsPrompt).text.utf8)
    }
    return try conversation.messages.indices.filter { conversation.messages[$0]["role"]?.string == "assistant" }.map { index in
      let before = index == 0 ? [] : try rendered(index, addsPrompt: true)
      let through = index == conversation.messages.count - 1 ? whole : try rendered(index + 1, addsPrompt: false)
      guard whole.starts(with: before), whole.starts(with: through), before.count < through.count else {
        throw NibbleError.badInput(
          "message \(index + 1): the template writes earlier messages differently once this one is there, so the answer's tokens cannot be told "
            + "apart; mark them with {% generation %}, or name another \(.template)")
      }
      var end = through.count
      while end > before.count, [0x20, 0x09, 0x0A, 0x0D].contains(whole[end - 1]) { end -= 1 }
      return before.count..<end
    }
  }

  /// Ranges of Unicode scalars as ranges of bytes.
  private static func bytes(_ ranges: [Range<Int>], of text: String) -> [Range<Int>] {
    var starts = [0]
    starts.reserveCapacity(text.utf8.count + 1)
    for scalar in text.unicodeScalars { starts.append(starts[starts.count - 1] + UTF8.width(scalar)) }
    return ranges.filter { $0.upperBound < starts.count }.map { starts[$0.lowerBound]..<starts[$0.upperBound] }
  }

  /// For each token whether it belongs to one of `answers`, as transformers decides it: from the first token with bytes of the
  /// answer's first character to the first token with bytes of its last. An answer without text has the token around its place, if one
  /// goes over it.
  func mask(_ spans: [Range<Int>], _ answers: [Range<Int>]) -> [Bool] {
    var mask = [Bool](repeating: false, count: spans.count)
    let bytes = Array(text.utf8)
    func token(at byte: Int) -> Int? {
      // Spans are in order, and each begins where the one before ends.
      var low = 0, high = spans.count
      while low < high {
        let middle = (low + high) / 2
        if spans[middle].upperBound > byte { high = middle } else { low = middle + 1 }
      }
      return low < spans.count ? low : nil
    }
    for answer in answers where answer.upperBound > 0 {
      var last = answer.upperBound - 1
      while last > 0, bytes[last] & 0xC0 == 0x80 { last -= 1 }
      guard let first = token(at: answer.lowerBound), let end = token(at: last), first <= end else { continue }
      for index in first...end { mask[index] = true }
    }
    return mask
  }
}
