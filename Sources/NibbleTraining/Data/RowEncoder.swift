import NibbleCore
import NibbleTemplates
import NibbleTokenizers

/// Turns rows of training data into tokens. The keys of a row tell what kind it is.
public struct RowEncoder: Sendable {
  /// What is learned from rows with a question and an answer.
  public var trainsOnPrompt = false
  /// Longer rows are cut at the end; nil for as long as the model takes.
  public var maximumLength: Int
  /// Which answers of a conversation are learned.
  public var learnedTurns = LearnedTurns.all
  /// How conversations are written out.
  public private(set) var template: ChatTemplate?
  /// The same, by a template of the model's or a file's; `template` comes before it.
  public var templates: ChatTemplates?
  /// Bytes of a long text that are tokenized at once, at least.
  var segmentSize = 1 << 20
  /// What ends an answer.
  let end: Int?
  let vocabulary: Int
  let tokenizer: Tokenizer?
  /// Of a model whose encoder reads what its decoder answers: what the decoder reads so that it is judged by labels. nil for other models.
  public var answer: (@Sendable (_ labels: [Int]) throws -> [Int])?
  /// What hides tokens of texts from models that fill masks; nil for a tokenizer without a mask.
  public var masking: TokenMasking?

  /// - Parameters:
  ///   - tokenizer: nil where rows are tokens already
  ///   - end: the token that ends a text
  ///   - vocabulary: tokens the model knows
  public init(_ tokenizer: Tokenizer?, end: Int?, vocabulary: Int, maximumLength: Int) {
    (self.tokenizer, self.end, self.vocabulary, self.maximumLength) = (tokenizer, end, vocabulary, maximumLength)
  }

  /// Writes conversations out with `template`.
  ///
  /// - Parameter breaksMarks: whether marks of the template that the tokenizer has no token for are trained on in pieces
  /// - Returns: warnings about such marks
  /// - Throws: `.usage` naming the first such mark and its pieces, unless `breaksMarks`
  public mutating func use(_ template: ChatTemplate, breaksMarks: Bool = false) throws -> [Warning] {
    self.template = template
    guard let tokenizer else { return [] }
    return try template.marks.compactMap { mark in
      let ids = try tokenizer.encode(mark, addSpecialTokens: false).ids
      guard !ids.contains(where: { tokenizer.token($0) == mark }) else { return nil }
      let pieces = ids.prefix(16).map { quoted(tokenizer.token($0) ?? "\($0)") }.joined(separator: ", ")
      let reason =
        tokenizer.id(of: mark).map { "reads \(quoted(mark)) as text, though it is token \($0): it" }
        ?? "has no token \(quoted(mark)): it"
      let isMissing = tokenizer.id(of: mark) == nil
      let advice: MessageText = isMissing ? "; \(.addTokens) adds it, \(.breakMarks) trains on the pieces" : "; \(.breakMarks) trains on the pieces"
      let found: MessageText = "\(.template, template.rawValue): the tokenizer \(reason) becomes \(pieces)"
      guard breaksMarks else { throw NibbleError.usage(found + advice) }
      return Warning(.data, found)
    }
  }

  /// A row for a language model, and how many of its tokens were cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func language(_ row: JSON, place: String) throws -> (row: TrainingRow, cut: Int) {
    if let answer { return try answered(row, answer, place: place) }
    let (ids, labels, dropped) = try parts(row, place)
    try check(ids, labels, place)
    guard !ids.isEmpty else { throw NibbleError.badInput("\(path: place): the row is empty") }
    let cut = max(0, ids.count - maximumLength) + dropped
    return (TrainingRow(Array(ids.prefix(maximumLength)), labels: Array(labels.prefix(maximumLength)), place: place), cut)
  }

  /// Throws for tokens and labels that the model does not know.
  func check(_ ids: [Int], _ labels: [Int], _ place: String) throws {
    if let bad = ids.first(where: { !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): token id \(bad) is not in the model's vocabulary of \(vocabulary)")
    }
    if let bad = labels.first(where: { $0 != TrainingRow.ignored && !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): label \(bad) is neither −100 nor in the model's vocabulary of \(vocabulary)")
    }
  }

  /// Tokens and labels of a row, and how many tokens behind them are dropped already.
  private func parts(_ row: JSON, _ place: String) throws -> (ids: [Int], labels: [Int], dropped: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    func text(_ key: String) throws -> String {
      guard let text = row[key]?.string else { throw fail("\(key: key) is missing or not a text") }
      return text
    }
    guard row.members != nil else { throw fail("a row is no JSON object") }
    if let list = row["input_ids"] {
      guard let ids = list.array?.map(\.int), !ids.contains(nil) else { throw fail("input_ids is not a list of whole numbers") }
      let own = ids.compactMap { $0 }
      guard let given = row["labels"], given != .null else { return (own, own, 0) }
      guard let labels = given.array?.map(\.int), !labels.contains(nil), labels.count == own.count else {
        throw fail("labels is not a list of \(own.count) whole numbers")
      }
      return (own, labels.compactMap { $0 }, 0)
    }
    if RowMessages.are(in: row) {
      let (ids, labels) = try conversation(row, place)
      return (ids, labels, 0)
    }
    if row["completion"] != nil { return try answer(to: text("prompt"), text("completion")) }
    if row["output"] != nil {
      if let input = row["input"], input != .null, input.string == nil { throw fail("input is not a text") }
      let input = row["input"]?.string ?? ""
      return try answer(to: Self.alpaca(text("instruction"), input), text("output"))
    }
    guard row["text"] != nil else {
      throw fail(
        "keys \((row.members ?? []).map(\.key).sorted().map(quoted).joined(separator: ", ")) fit no kind of row: text; prompt and completion; "
          + "instruction, input and output; messages; conversations; input_ids and labels")
    }
    guard row["label"] == nil, row["labels"] == nil else {
      throw fail("a label is for a classifier, but the base has no classification head; \(.numLabels) adds one")
    }
    let (ids, dropped) = try cutTokens(text("text"))
    let ended = self.ended(ids)
    return (ended, ended, dropped)
  }

  /// The format of Stanford's Alpaca.
  static func alpaca(_ instruction: String, _ input: String) -> String {
    let task =
      input.isEmpty
      ? "Below is an instruction that describes a task. Write a response that appropriately completes the request."
      : "Below is an instruction that describes a task, paired with an input that provides further context. "
        + "Write a response that appropriately completes the request."
    let more = input.isEmpty ? "" : "### Input:\n\(input)\n\n"
    return "\(task)\n\n### Instruction:\n\(instruction)\n\n\(more)### Response:\n"
  }

  private func answer(to prompt: String, _ answer: String) throws -> (ids: [Int], labels: [Int], dropped: Int) {
    let (question, cutQuestion) = try cutTokens(prompt), (open, cutAnswer) = try cutTokens(answer, marks: false)
    let ignored = [Int](repeating: TrainingRow.ignored, count: question.count), rest = ended(open)
    return (question + rest, (trainsOnPrompt ? question : ignored) + rest, cutQuestion + cutAnswer)
  }

  private func conversation(_ row: JSON, _ place: String) throws -> (ids: [Int], labels: [Int]) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    let messages = try RowMessages(row, fail)
    guard let template else { return try written(messages, row, place, fail) }
    var ids: [Int] = [], labels: [Int] = []
    let said = try messages.messages.map { message in
      guard let role = message["role"]?.string, let content = message["content"]?.string else {
        throw fail("a message lacks a role or a content")
      }
      return (role, content)
    }
    let pieces = try template.pieces(said).get(orFail: fail)
    let answers = try learned(pieces.indices.filter { pieces[$0].isAnswer }, messages, fail)
    for (index, piece) in pieces.enumerated() {
      let own = try encode(piece.text, marks: ids.isEmpty && piece.begins)
      ids += own
      let isLearned = trainsOnPrompt || answers.contains(index)
      labels += isLearned ? own : [Int](repeating: TrainingRow.ignored, count: own.count)
    }
    return (ids, labels)
  }

  /// Those of a conversation's answers that are learned.
  private func learned<Answer>(_ answers: [Answer], _ messages: RowMessages, _ fail: (MessageText) -> NibbleError) throws -> [Answer] {
    let own = messages.messages.count { $0["role"]?.string == "assistant" }
    guard messages.read == 0 || answers.count == own else {
      throw fail("the template marks \(answers.count) answers in a conversation of \(own), so those of the prompt cannot be identified")
    }
    let rest = answers.dropFirst(messages.read)
    guard messages.read == 0 || !rest.isEmpty else { throw fail("the completion has no message of the assistant") }
    return learnedTurns == .all ? Array(rest) : Array(rest.suffix(1))
  }

  /// A conversation by the model's own template.
  private func written(
    _ messages: RowMessages, _ row: JSON, _ place: String, _ fail: (MessageText) -> NibbleError
  ) throws -> (ids: [Int], labels: [Int]) {
    guard let templates else {
      let known = ChatTemplate.allCases.map(\.rawValue).joined(separator: ", ")
      throw fail("messages need a template, and the model has none: \(.template, known)")
    }
    guard let tokenizer else { throw NibbleError.badInput("the base has no tokenizer; give rows with input_ids") }
    // A template sees no other keys of a row.
    let known = (row.members ?? []).filter { ["tools", "documents"].contains($0.key) }
    var conversation = try Conversation(.object(known + [("messages", .array(messages.messages))]), place: place)
    conversation.variables = row["chat_template_kwargs"]?.members ?? []
    do {
      let written = try WrittenConversation(conversation, templates)
      let ids = try tokenizer.encode(written.text, addSpecialTokens: false).ids
      if trainsOnPrompt { return (ids, ids) }
      guard !written.answers.isEmpty else { throw NibbleError.badInput("the conversation has no message of the assistant") }
      guard let spans = tokenizer.byteSpans(of: ids, in: written.text) else {
        throw NibbleError.badInput("the tokenizer changes the text, so the answers' tokens cannot be identified; name another \(.template)")
      }
      let mask = try written.mask(spans, learned(written.answers, messages, fail))
      return (ids, zip(ids, mask).map { $1 ? $0 : TrainingRow.ignored })
    } catch let error as NibbleError where error.kind == .badInput { throw fail("\(error.text)") }
  }

  /// A row for a classifier, and how many of its tokens were cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func classified(_ row: JSON, _ classes: Classes, place: String) throws -> (row: TrainingRow, cut: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    let texts = try JudgedTexts(row, place: place)
    func number(_ value: JSON?) throws -> Int {
      guard let label = value.flatMap(classes.number) else { throw fail(classes.unknown(value)) }
      return label
    }
    var targets: [Double]
    if classes.areNumbers {
      targets = try Self.numbers(row, classes.count, fail)
    } else if classes.areMany {
      guard let labels = row["labels"]?.array else { throw fail("labels is missing or not a list") }
      targets = Array(repeating: 0, count: classes.count)
      for label in labels {
        let own = try number(label)
        guard targets[own] == 0 else { throw fail("label \(label.text()) twice; labels are classes, not a number for each") }
        targets[own] = 1
      }
    } else {
      targets = [Double(try number(row["label"]))]
    }
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer for texts") }
    if let second = texts.second { return try pair(texts.first, second, targets, tokenizer, place) }
    let (ids, cut) = try marked(texts.first, place: place)
    return (TrainingRow(ids, targets: targets, place: place), cut)
  }

  /// The tokens of a text between those that the tokenizer puts around it, and how many were cut off.
  ///
  /// - Throws: `.badInput` for a text without tokens
  func marked(_ text: String, place: String) throws -> (ids: [Int], cut: Int) {
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer for texts") }
    var segments = segments(of: text)
    let ids = try tokenizer.encode(String(segments.next() ?? "")).ids
    guard !ids.isEmpty else { throw NibbleError.badInput("\(path: place): the row is empty") }
    let cut = try max(0, ids.count - maximumLength) + segments.reduce(0) { try $0 + tokenizer.encode(String($1), addSpecialTokens: false).ids.count }
    // What ends a text stays.
    let kept =
      cut > 0 && maximumLength > 1
      ? Array(ids.prefix(maximumLength - 1)) + [ids[ids.count - 1]] : Array(ids.prefix(maximumLength))
    return (kept, cut)
  }

  /// Two texts as a classifier reads them together. Where they are too long, the longer is cut first, as Hugging Face's `longest_first` cuts.
  private func pair(
    _ first: String, _ second: String, _ targets: [Double], _ tokenizer: Tokenizer, _ place: String
  ) throws -> (row: TrainingRow, cut: Int) {
    let own = try (tokenizer.encode(first, addSpecialTokens: false).ids, tokenizer.encode(second, addSpecialTokens: false).ids)
    let marks = tokenizer.addingSpecialTokens(to: [], pair: []).ids.count
    let room = max(0, maximumLength - marks)
    var kept = (own.0.count, own.1.count)
    if kept.0 + kept.1 > room {
      let short = min(kept.0, kept.1)
      let ends = short > room / 2 ? (room / 2, room - room / 2) : (short, room - short)
      kept = kept.0 <= kept.1 ? ends : (ends.1, ends.0)
    }
    let encoding = tokenizer.addingSpecialTokens(to: Array(own.0.prefix(kept.0)), pair: Array(own.1.prefix(kept.1)))
    let types = encoding.typeIDs.contains { $0 != 0 } ? encoding.typeIDs : nil
    return (TrainingRow(encoding.ids, types: types, targets: targets, place: place), own.0.count + own.1.count - kept.0 - kept.1)
  }

  /// What a regression learns: `label`, or `labels` where there are several numbers.
  private static func numbers(_ row: JSON, _ count: Int, _ fail: (MessageText) -> NibbleError) throws -> [Double] {
    let given = row["labels"] ?? (row["label"] ?? row["score"]).map { .array([$0]) }
    let values = given?.array?.map { $0.double.flatMap { Float($0).isFinite ? $0 : nil } } ?? []
    guard values.count == count, !values.contains(nil) else {
      let wanted = count == 1 ? "label is no number" : "labels are no list of \(count) numbers"
      throw fail("\(wanted) in the range of float32, and the model is a regression")
    }
    return values.compactMap { $0 }
  }

  // MARK: Classes of tokens

  /// A row for a model that classifies tokens, and how many of its tokens were cut off: `tokens`, a list of words, with `labels` or
  /// `ner_tags`, a class for each, or `input_ids` with `labels`, −100 for tokens without one. Of a word the first token has its class.
  ///
  /// - Returns: beside the row the numbers of the words, or of the given tokens, that have a class in it, and how many words have a class, but no token
  /// - Throws: `.badInput` naming the place
  public func tokensClassified(
    _ row: JSON, _ classes: Classes, place: String
  ) throws -> (row: TrainingRow, cut: Int, judged: [Int], lost: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    guard let given = (row["labels"] ?? row["ner_tags"] ?? row["tags"])?.array else { throw fail("labels is missing or not a list") }
    let targets = try given.map { label in
      if label.int == TrainingRow.ignored { return TrainingRow.ignored }
      guard let number = classes.number(label) else { throw fail(classes.unknown(label)) }
      return number
    }
    func made(_ ids: [Int], _ labels: [Int], cut: Int, words: [Int], lost: Int = 0) throws -> (row: TrainingRow, cut: Int, judged: [Int], lost: Int) {
      guard !ids.isEmpty else { throw fail("the row is empty") }
      return (TrainingRow(ids, labels: [TrainingRow.ignored] + labels, place: place), cut, words, lost)
    }
    if let list = row["input_ids"] {
      let ids = list.array?.map { $0.int ?? -1 } ?? [-1]
      if let bad = ids.first(where: { !(0..<vocabulary).contains($0) }) {
        throw fail("input_ids: \(bad) is not in the model's vocabulary of \(vocabulary)")
      }
      guard targets.count == ids.count else { throw fail("labels has \(targets.count) entries for \(ids.count) tokens") }
      let kept = Array(targets.prefix(maximumLength))
      return try made(
        Array(ids.prefix(maximumLength)), kept, cut: max(0, ids.count - maximumLength), words: kept.indices.filter { kept[$0] != TrainingRow.ignored })
    }
    guard let words = (row["tokens"] ?? row["words"])?.array?.map(\.string), !words.contains(nil) else {
      throw fail("tokens is missing or not a list of words")
    }
    guard words.count == targets.count else { throw fail("labels has \(targets.count) entries for \(words.count) words") }
    guard let tokenizer else { throw fail("the base has no tokenizer; give rows with input_ids") }
    var ids: [Int] = [], labels: [Int] = [], owners: [Int] = [], lost = 0
    for (index, word) in words.compactMap({ $0 }).enumerated() {
      let own = try tokenizer.encode(index == 0 ? word : " " + word, addSpecialTokens: false).ids
      ids += own
      labels += own.indices.map { $0 == 0 ? targets[index] : TrainingRow.ignored }
      owners += own.map { _ in index }
      if own.isEmpty, targets[index] != TrainingRow.ignored { lost += 1 }
    }
    guard !ids.isEmpty else { throw fail("the row is empty") }
    let kept = min(ids.count, max(0, maximumLength - tokenizer.addingSpecialTokens(to: []).ids.count))
    let inner = Array(ids.prefix(kept)), whole = tokenizer.addingSpecialTokens(to: inner).ids
    let first = (0...max(0, whole.count - kept)).first { whole[$0..<min($0 + kept, whole.count)].elementsEqual(inner) } ?? 0
    let before = [Int](repeating: TrainingRow.ignored, count: first)
    let behind = [Int](repeating: TrainingRow.ignored, count: max(0, whole.count - first - kept))
    let judged = (0..<kept).filter { labels[$0] != TrainingRow.ignored }.map { owners[$0] }
    return try made(whole, before + labels.prefix(kept) + behind, cut: ids.count - kept, words: judged, lost: lost)
  }

  /// Whether a row needs a template.
  public static func isConversation(_ row: JSON) -> Bool { RowMessages.are(in: row) }

  /// Rows of a plain text. All of it is learned: a long text becomes several rows, and nothing is cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func rows(of text: String, place: String) throws -> [TrainingRow] {
    guard answer == nil else {
      throw NibbleError.badInput("\(path: place): a model that reads one text and writes another learns rows with both, not plain text")
    }
    var ids: [Int] = []
    do {
      for segment in segments(of: text) { ids += try encode(String(segment), marks: ids.isEmpty) }
      ids = ended(ids)
    } catch let error as NibbleError where error.kind == .badInput && error.path == nil {
      throw NibbleError.badInput("\(path: place): \(error.text)")
    }
    if let bad = ids.first(where: { !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): token id \(bad) is not in the model's vocabulary of \(vocabulary)")
    }
    return stride(from: 0, to: ids.count, by: max(1, maximumLength)).map { first in
      let own = Array(ids[first..<min(first + maximumLength, ids.count)])
      return TrainingRow(own, labels: own, place: place)
    }
  }

  func segments(of text: String) -> TextSegments { TextSegments(text, size: max(segmentSize, 64 * min(maximumLength, 1 << 20))) }

  /// The first tokens of a text, at least as many as a row can have, and the number of tokens after them.
  private func cutTokens(_ text: String, marks: Bool = true) throws -> (ids: [Int], dropped: Int) {
    var (ids, dropped) = ([Int](), 0)
    for segment in segments(of: text) {
      let own = try encode(String(segment), marks: marks && ids.isEmpty)
      if ids.count < maximumLength { ids += own } else { dropped += own.count }
    }
    return (ids, dropped)
  }

  private func encode(_ text: String, marks: Bool = true) throws -> [Int] {
    guard let tokenizer else { throw NibbleError.badInput("the base has no tokenizer; give rows with input_ids") }
    var ids = try tokenizer.encode(text, addSpecialTokens: marks).ids
    // A prompt continues with the answer: the end token that the tokenizer adds is removed.
    if marks, let end, ids.count > 1, ids.last == end, !text.isEmpty { ids.removeLast() }
    return ids
  }

  private func ended(_ ids: [Int]) -> [Int] { end.map { ids + [$0] } ?? ids }
}
