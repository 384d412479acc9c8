import NibbleCore

/// Text from data, as in the E2E challenge: judged by BLEU, NIST, ROUGE-L, CIDEr-D and METEOR against all references of a prompt.
///
/// The search is that of Hu et al. (2021): ten beams, length penalty 0.9, no four tokens twice.
public struct NlgTask: AnswerTask {
  public let format = "{prompt}"
  public let search = AnswerSearch(maximumNew: 64, beams: 10, lengthPenalty: 0.9, noRepeatNgram: 4)

  private let meteor: METEOR

  public init(_ meteor: METEOR) { self.meteor = meteor }

  /// Rows with a `completion`, or with a list `references`; those with one prompt are one item.
  public func items(_ path: String, _ format: PromptFormat, limit: Int?) throws -> [AnswerItem] {
    var (items, places) = ([AnswerItem](), [String: Int]())
    try JSONLines.forEachRow(path) { row, place in
      let own = row["completion"]?.string.map { [$0] } ?? row["references"]?.array?.compactMap(\.string) ?? []
      guard !own.isEmpty, own.count == row["references"]?.array?.count ?? own.count else {
        throw NibbleError.badInput("\(path: place): a row without a text 'completion' or a list of texts 'references'")
      }
      let prompt = try format.prompt(row, place: place)
      if let known = places[prompt] {
        items[known].references += own
      } else if items.count < limit ?? .max {
        places[prompt] = items.count
        items.append(AnswerItem(prompt: prompt, references: own, place: place))
      }
    }
    guard !items.isEmpty else { throw NibbleError.badInput("\(path: path): nothing in it is asked") }
    return items
  }

  public func figures(_ items: [AnswerItem], _ answers: [String]) throws -> [Figure] {
    let texts = try ReferencedTexts(answers.map(trimmed), references: items.map(\.references))
    return [
      Figure("BLEU", "bleu", BLEU().score(texts)), Figure("NIST", "nist", NIST().score(texts)), Figure("ROUGE-L", "rouge_l", RougeL().score(texts)),
      Figure("CIDEr-D", "cider", CIDErD().score(texts)), Figure(meteor.label, meteor.key, try meteor.score(texts)),
    ]
  }
}
