import ArgumentParser
import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTemplates
import NibbleTokenizers
import NibbleTraining

/// Training data as a model wants it.
struct TrainingRows {
  /// Rows of a file, and what became of it.
  struct Data {
    let path: String
    var rows: [TrainingRow] = []
    /// The text of each row, where that is kept.
    var texts: [JudgedTexts] = []
    /// The words of each row that have a class, where texts are kept and tokens are classified.
    var words: [[String]] = []
    /// Rows that were too long, and their tokens that were cut off.
    var cutRows = 0
    var cut = 0
    /// Rows of a language model with nothing to learn.
    var silent = 0
    /// Of a model that marks answers: questions, and those with an answer that is in no window whole.
    var questions = 0
    var lostAnswers = 0
    /// Of a classifier of tokens: words with a class, but no token.
    var lostWords = 0
  }

  let tokenizer: Tokenizer?
  let encoder: RowEncoder
  /// Of a classifier.
  let classes: Classes?
  /// Of a classifier of tokens.
  let tokenClasses: Classes?
  /// Of a model that marks answers.
  let windows: SpanWindows?
  /// Whether the model fills masks.
  let fillsMasks: Bool
  private let hasLength: Bool
  /// Warnings about the tokenizer.
  let warnings: [Warning]

  init(
    _ model: Model, tokenizerPath: String?, maxLength: Int?, trainsOnPrompt: Bool, template: TemplateChoice?, breaksMarks: Bool,
    learnedTurns: LearnedTurns = .all, docStride: Int = 128
  ) throws {
    let network = try model.tokens(for: "a row of text")
    // Rows of ids need none; one that is there has to be whole.
    let holders: Set = ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"]
    let isThere = tokenizerPath != nil
      || model.checkpoint.smallFiles.contains { holders.contains($0.name) || model.answersPrompts && $0.name == "spiece.model" }
    let own = isThere ? try ModelTokenizer(model, path: tokenizerPath) : nil
    tokenizer = own?.tokenizer
    classes = model.classCount.map {
      Classes($0, names: model.classNames, areMany: model.hasManyLabels, areNumbers: model.isRegression)
    }
    tokenClasses = model.tokenClassCount.map { Classes($0, names: model.classNames) }
    fillsMasks = model.fillsMasks
    windows = try model.marksSpans ? own.map { try SpanWindows(model, $0.tokenizer, length: maxLength, overlap: docStride) } : nil
    guard !model.marksSpans || windows != nil else { throw NibbleError.badInput("\(path: model.path) has no tokenizer for questions and their contexts") }
    var encoder = RowEncoder(
      own?.tokenizer, end: own?.end, vocabulary: network.vocabulary,
      maximumLength: min(maxLength ?? Int.max, network.contextLength))
    encoder.masking = own.flatMap { own in own.tokenizer.special.mask.map { TokenMasking(mask: $0, tokens: own.tokenizer.vocabularySize) } }
    hasLength = maxLength != nil
    if let answering = model.answering {
      if trainsOnPrompt { throw NibbleError.usage("\(path: model.path): --train-on-prompt is for models that continue a prompt; this one's decoder writes answers only") }
      encoder.answer = { try answering.written(for: $0) }
    }
    encoder.trainsOnPrompt = trainsOnPrompt
    encoder.learnedTurns = learnedTurns
    switch try template?.resolved() {
    case .builtIn(let template)?: warnings = try encoder.use(template, breaksMarks: breaksMarks)
    case .file(let template)?:
      let place = tokenizerPath ?? model.path
      let special = try ChatTemplates.specialTokens(files: ModelChat.files(of: model, path: tokenizerPath), place: place)
      encoder.templates = ChatTemplates(template, specialTokens: special)
      warnings = []
    case nil:
      warnings = []
      let found = Result { try ChatTemplates(files: ModelChat.files(of: model, path: tokenizerPath), place: tokenizerPath ?? model.path) }
      encoder.templates = (try? found.get()) ?? nil
      if case .failure(let error) = found { brokenTemplate = error }
    }
    self.encoder = encoder
  }

  /// What is wrong with the model's own template: an error once a conversation needs it.
  private var brokenTemplate: (any Error)?

  /// Every row of a file.
  ///
  /// - Parameter keepsTexts: whether to keep the rows' texts, beside their tokens
  /// - Throws: `.badInput` naming file and line
  func read(_ path: String, keepsTexts: Bool = false) throws -> Data {
    var data = Data(path: path)
    if let windows {
      for question in try QaTask().questions(path, limit: nil) {
        let (own, isLost) = try windows.rows(question)
        data.rows += own
        data.questions += 1
        data.lostAnswers += isLost ? 1 : 0
      }
      return data
    }
    try RowFile.forEach(path) { item, place in
      guard case .row(let row) = item else {
        if case .text(let text) = item { try add(text, place, to: &data) }
        return
      }
      if let brokenTemplate, !fillsMasks, RowEncoder.isConversation(row) { throw brokenTemplate }
      let (own, cut): (row: TrainingRow, cut: Int)
      if let tokenClasses {
        let found = try encoder.tokensClassified(row, tokenClasses, place: place)
        (own, cut) = (found.row, found.cut)
        data.lostWords += found.lost
        if keepsTexts { data.words.append(words(found.judged, of: row)) }
      } else if fillsMasks {
        (own, cut) = try encoder.masked(row, place: place)
      } else {
        (own, cut) = try classes.map { try encoder.classified(row, $0, place: place) } ?? encoder.language(row, place: place)
        if keepsTexts { data.texts.append(try JudgedTexts(row, place: place)) }
      }
      data.rows.append(own)
      data.cut += cut
      data.cutRows += cut > 0 ? 1 : 0
      if classes == nil, own.learned == 0 { data.silent += 1 }
    }
    guard !data.rows.isEmpty else { throw NibbleError.badInput("\(path: path): no rows in it") }
    return data
  }

  /// The words of a row by their numbers, or its tokens as they are written.
  private func words(_ numbers: [Int], of row: JSON) -> [String] {
    let words = row["input_ids"] == nil ? (row["tokens"] ?? row["words"])?.array?.map { $0.string ?? "" } : nil
    let ids = row["input_ids"]?.array?.map { $0.int ?? -1 } ?? []
    return numbers.map { number in words?[number] ?? tokenizer?.token(ids[number]) ?? "\(ids[number])" }
  }

  /// Adds the rows of a plain text.
  private func add(_ text: String, _ place: String, to data: inout Data) throws {
    guard classes == nil, tokenClasses == nil else { throw NibbleError.badInput("\(path: place): a classifier learns rows with labels, not plain text") }
    var encoder = encoder
    if !hasLength { encoder.maximumLength = min(encoder.maximumLength, Self.textLength) }
    data.rows += try fillsMasks ? encoder.maskedRows(of: text, place: place) : encoder.rows(of: text, place: place)
  }

  /// Tokens of a row of plain text, where no other length is given.
  static let textLength = 1024

  /// What is learned, and what is only read.
  func show(_ rows: ArraySlice<TrainingRow>, json: Bool) throws {
    if json {
      return try StandardOutput.print(
        .array(
          rows.map { row in
            [
              "place": JSON(row.place), "input_ids": .array(read(row).map { JSON($0) }),
              "labels": .array(labels(row).map { JSON($0) }),
              "targets": .array(row.targets.map { JSON($0) }),
            ]
          }))
    }
    for row in rows {
      if encoder.answer != nil {
        try showAnswer(row)
        continue
      }
      let learned =
        row.targets.isEmpty
        ? ", \(row.learned) learned" : windows == nil ? "" : row.targets == [0, 0] ? ", no answer in them: the first is learned" : ", the answer's ends are learned"
      try StandardOutput.print("\(row.place): \(row.ids.count) tokens\(learned)")
      for (index, id) in row.ids.enumerated() {
        let text = tokenizer?.token(id).map { " " + oneLine($0) } ?? ""
        let label = row.labels.count > row.ids.count ? index + 1 : index
        let isAnswer = windows != nil && row.targets.contains(Double(index))
        let isLearned = isAnswer || label > 0 && label < row.labels.count && row.labels[label] != TrainingRow.ignored
        try StandardOutput.print("  \(isLearned ? "learn" : "  -  ") \(id)\(text)")
      }
      let targets = row.targets.map { classes?.areNumbers == true ? "\($0)" : decimal($0, 0) }
      if !targets.isEmpty { try StandardOutput.print("  label \(targets.joined(separator: " "))") }
    }
  }
}

/// Rows of a model that reads one text and writes another.
extension TrainingRows {
  /// What such a model reads; of other models all tokens.
  private func read(_ row: TrainingRow) -> [Int] {
    encoder.answer == nil ? row.ids : zip(row.ids, row.input.types ?? []).filter { $1 == 0 }.map { $0.0 }
  }

  /// What it writes; of other models a label for each token.
  private func labels(_ row: TrainingRow) -> [Int] {
    Array(row.labels.dropFirst(encoder.answer != nil ? read(row).count + 1 : fillsMasks ? 1 : 0))
  }

  private func showAnswer(_ row: TrainingRow) throws {
    try StandardOutput.print("\(row.place): \(read(row).count) tokens read, \(row.learned) learned")
    func show(_ id: Int, _ mark: String) throws {
      try StandardOutput.print("  \(mark) \(id)\(tokenizer?.token(id).map { " " + oneLine($0) } ?? "")")
    }
    for id in read(row) { try show(id, "  -  ") }
    for id in labels(row) { try show(id, id == TrainingRow.ignored ? "  -  " : "learn") }
  }
}

extension TrainingRows.Data {
  var areImages: Bool { if case .image? = rows.first?.input { true } else { false } }
  var longest: Int { rows.reduce(0) { max($0, $1.input.length) } }
  var tokens: Int { rows.reduce(0) { $0 + $1.ids.count } }
  var learned: Int { rows.reduce(0) { $0 + $1.learned } }

  /// Warnings about the rows.
  var warnings: [Warning] {
    var warnings: [Warning] = []
    if cut > 0 {
      warnings.append(
        Warning(.data, "\(path: path): \(cutRows) of \(rows.count) rows were too long; \(cut) tokens were cut off"))
    }
    if silent > 0 {
      warnings.append(Warning(.data, "\(path: path): \(silent) of \(rows.count) rows have nothing to learn"))
    }
    if lostAnswers > 0 {
      warnings.append(
        Warning(
          .data,
          "\(path: path): \(lostAnswers) of \(questions) questions have an answer that is in no window whole, and are learned as if they had none; "
            + "more \(.maxLength) or \(.docStride) keeps more of them"))
    }
    if lostWords > 0 {
      warnings.append(Warning(.data, "\(path: path): words that have a class, but no token: \(lostWords); these classes are neither learned nor judged"))
    }
    return warnings
  }

  /// Rows lie one behind another in a pass, none sees another: nothing is padded.
  var summary: String {
    if areImages { return "\(rows.count) images" }
    let learned = rows.contains { $0.masking != nil } ? "\(learned) may be hidden" : "\(learned) learned"
    let judged = rows[0].targets.isEmpty ? ", \(learned)" : ""
    return "\(rows.count), \(tokens) tokens\(judged), 0 padded, \(cut) cut off"
  }

  var counts: [(key: String, value: JSON)] {
    [
      ("rows", JSON(rows.count)), ("row_tokens", JSON(tokens)), ("learned_tokens", JSON(learned)), ("padded_tokens", JSON(0)),
      ("cut_tokens", JSON(cut)), ("cut_rows", JSON(cutRows)),
    ]
  }
}

/// `--template`: a name of those built in, or a file.
struct TemplateChoice: ExpressibleByArgument {
  let name: String
  init?(argument: String) {
    guard !argument.isEmpty else { return nil }
    name = argument
  }

  enum Resolved { case builtIn(ChatTemplate), file(Template) }

  /// - Throws: `.usage` for what is neither, `.badInput` for a file that is no template
  func resolved() throws -> Resolved {
    if let known = ChatTemplate(rawValue: name) { return .builtIn(known) }
    guard PathKind(name) == .file else {
      throw NibbleError.usage(
        "--template \(quoted(name)) is neither a file nor one of \(ChatTemplate.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    return .file(try Template(SmallText.read(name), name: name))
  }
}

extension LearnedTurns: ExpressibleByArgument {}
