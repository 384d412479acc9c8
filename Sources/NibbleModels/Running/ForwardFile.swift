import NibbleCompute
import NibbleCore
import NibbleFormats

/// One pass over the ids of a file, its results in another: for comparing nibble with other programs.
package struct ForwardFile {
  /// Token ids, [batch][length].
  let ids: [[Int]]
  private let masks: [TokenMask?]
  private let types: [[Int]]?
  let labels: StoredTensor?
  let file: TensorFile
  private let length: Int
  package let tokens: Int

  /// Reads `input_ids` [batch, length] and, if there, `attention_mask`, `token_type_ids` and `labels`. For an encoder and a decoder there are
  /// `labels` or `decoder_input_ids`, or both, of a length of their own.
  package init(_ path: String) throws {
    let file = try TensorFile(path)
    self.file = file
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: path): \(reason)") }
    guard let input = file.tensor("input_ids") else { throw fail("no tensor 'input_ids' in it") }
    guard input.shape.count == 2, input.count > 0 else {
      throw fail("\(key: "input_ids") has shape \(input.shape), expected [batch, length]")
    }
    let length = input.shape[1]
    self.length = length
    func rows(_ name: String) throws -> [[Int]]? {
      guard let tensor = file.tensor(name) else { return nil }
      guard tensor.shape == input.shape else { throw fail("\(name) has shape \(tensor.shape), input_ids \(input.shape)") }
      let values = try file.integers(tensor)
      return stride(from: 0, to: values.count, by: length).map { Array(values[$0..<$0 + length]) }
    }
    ids = try rows("input_ids") ?? []
    masks = try rows("attention_mask")?.map { TokenMask($0.map { $0 != 0 }) } ?? ids.map { _ in nil }
    if let row = masks.firstIndex(where: { mask in mask.map { mask in !(0..<length).contains { mask.isVisible($0) } } ?? false }) {
      throw fail("attention_mask hides every token of row \(row + 1)")
    }
    types = try rows("token_type_ids")
    labels = file.tensor("labels")
    tokens = input.count
  }

  /// Runs the model and writes `logits` and, where labels were given, `loss`; of a head that marks spans `start_logits` and `end_logits`; of a
  /// model without a head `last_hidden_state` and its mean over visible tokens, `mean_pooled`.
  package func run(_ model: Model, adapters: [ActiveAdapter], to path: String, force: Bool) throws -> Double? {
    func writer(_ tensors: [(name: String, shape: [Int])]) throws -> TensorFile.Writer {
      try TensorFile.Writer(tensors + (hasLoss(model) ? [("loss", [1])] : []), to: path, force: force)
    }
    try check(try model.tokens(for: "a pass over ids"))
    return try model.naming { try results(model, adapters, writer) }
  }

  private func results(
    _ model: Model, _ adapters: [ActiveAdapter], _ writer: ([(name: String, shape: [Int])]) throws -> TensorFile.Writer
  ) throws -> Double? {
    if let network = model.answering { return try answers(model, network, adapters, writer) }
    let width = model.network.width
    let (loss, file) =
      switch model.head {
      case .language(let head):
        try tokenScores(model, RowHead(head), adapters, writer([("logits", [ids.count, length, head.outputs])]))
      case .masked(let head), .tokens(let head):
        try tokenScores(model, head, adapters, writer([("logits", [ids.count, length, head.outputs])]))
      case .classification(let head):
        try classes(model, head, adapters, writer([("logits", [ids.count, head.output.outputs])]))
      case .spans(let head):
        (nil, try spans(model, head, adapters, writer(["start_logits", "end_logits"].map { ($0, [ids.count, length]) })))
      case .none:
        try states(
          model, adapters,
          writer([
            ("last_hidden_state", [ids.count, length, width]), ("mean_pooled", [ids.count, width]),
          ]))
      }
    if let loss {
      try withUnsafePointer(to: Float(loss)) { try file.add(UnsafeBufferPointer(start: $0, count: 1), to: "loss") }
    }
    try file.finish()
    return loss
  }

  /// Throws for ids that the model has not, and for sequences longer than its context.
  private func check(_ network: any TokenNetwork) throws {
    try checkIDs(ids, of: "input_ids", network)
    guard length <= network.contextLength else {
      throw NibbleError.badInput("\(path: file.path): a sequence of \(length) tokens is longer than the model's context of \(network.contextLength)")
    }
  }

  /// Throws for ids outside the vocabulary.
  func checkIDs(_ rows: [[Int]], of name: String, _ network: any TokenNetwork) throws {
    for (row, ids) in rows.enumerated() {
      guard let id = ids.first(where: { !(0..<network.vocabulary).contains($0) }) else { continue }
      throw NibbleError.badInput(
        "\(path: file.path): \(name) has token id \(id) in row \(row + 1), which is not in the model's vocabulary of \(network.vocabulary)")
    }
  }

  /// Whether a token of a sequence may be attended to.
  func isVisible(_ token: Int, in sequence: Int) -> Bool { masks[sequence]?.isVisible(token) ?? true }

  private func hasLoss(_ model: Model) -> Bool {
    switch model.head {
    case .none, .spans: false
    case .language, .masked, .tokens, .classification: labels != nil
    }
  }

  /// Tokens of one pass, if no sequence is longer: what bounds memory.
  static let passTokens = 4096
  /// Rows whose scores of the vocabulary are held at once.
  static let scoreRows = 256

  /// Runs the model over some sequences after others.
  private func passes(
    _ model: Model, _ adapters: [ActiveAdapter], _ body: (Range<Int>, Batch, UnsafePointer<Float>) throws -> Void
  ) throws {
    let together = max(1, Self.passTokens / max(length, 1))
    for first in stride(from: 0, to: ids.count, by: together) {
      let rows = first..<min(first + together, ids.count)
      let batch = Batch.tokens(rows.map { TokenRun(ids[$0], mask: masks[$0], types: types?[$0], adapters: adapters) })
      try body(rows, batch, try model.network.hidden(batch, tape: nil))
    }
  }

  private func tokenScores(
    _ model: Model, _ head: RowHead, _ adapters: [ActiveAdapter], _ writer: TensorFile.Writer
  ) throws -> (Double?, TensorFile.Writer) {
    let count = head.outputs
    let looksAhead = model.head.looksAhead
    let targets = try labels.map { labels in
      guard labels.count == tokens else { throw NibbleError.badInput("\(path: file.path): labels has shape \(labels.shape)") }
      return try integers(labels, below: count, model.head.vocabulary != nil ? "an id of the vocabulary of \(count)" : "one of \(count) classes")
    }
    var sum = 0.0
    var counted = 0
    try passes(model, adapters) { sequences, batch, hidden in
      let before = sequences.lowerBound * length
      for start in stride(from: 0, to: batch.count * length, by: Self.scoreRows) {
        let rows = start..<min(start + Self.scoreRows, batch.count * length)
        let scores = try model.network.scores(hidden, head, rows: Array(rows), of: batch)
        try writer.add(UnsafeBufferPointer(start: scores, count: rows.count * count), to: "logits")
        guard let targets else { continue }
        // A language model's scores of each token are judged by the one behind it.
        for row in rows where !looksAhead || row % length != length - 1 {
          let target = targets[before + row + (looksAhead ? 1 : 0)]
          guard target != Loss.ignored else { continue }
          sum += Loss.negativeLogLikelihood(scores + (row - start) * count, count: count, target: target)
          counted += 1
        }
      }
    }
    return (targets == nil ? nil : sum / Double(counted), writer)
  }

  private func classes(
    _ model: Model, _ head: ClassificationHead, _ adapters: [ActiveAdapter], _ writer: TensorFile.Writer
  ) throws -> (Double?, TensorFile.Writer) {
    let count = head.output.outputs
    let loss = try labels.map { try classLoss($0, problem($0, head, model), count) }
    var all: [Float] = []
    try passes(model, adapters) { _, batch, hidden in
      let scores = UnsafeBufferPointer(
        start: try model.network.classScores(hidden, head, of: batch), count: batch.count * count)
      try writer.add(scores, to: "logits")
      all += scores
    }
    return (loss?(all), writer)
  }

  /// Where the configuration does not say which problem the classes are, labels of floats mean that each is one by itself.
  private func problem(_ labels: StoredTensor, _ head: ClassificationHead, _ model: Model) -> ClassificationHead.Problem {
    let isSaid = model.newHead != nil || model.config["problem_type"] != nil
    return head.problem == .oneLabel && !isSaid && labels.dtype.isFloat ? .manyLabels : head.problem
  }

  /// What judges the scores of classes by the labels.
  private func classLoss(_ labels: StoredTensor, _ problem: ClassificationHead.Problem, _ count: Int) throws -> ([Float]) ->
    Double
  {
    guard labels.count == (problem == .oneLabel ? ids.count : ids.count * count) else {
      throw NibbleError.badInput(
        "\(path: file.path): labels has shape \(labels.shape) for \(ids.count) sequences of \(count) classes")
    }
    switch problem {
    case .oneLabel:
      let targets = try integers(labels, below: count, "one of \(count) classes")
      return { Loss.oneLabel($0, labels: count, targets: targets) }
    case .manyLabels:
      let targets = try file.floats(labels)
      return { Loss.manyLabels($0, targets: targets) }
    case .regression:
      let targets = try file.floats(labels)
      return { Loss.regression($0, targets: targets) }
    }
  }

  func integers(_ labels: StoredTensor, below count: Int, _ expected: String) throws -> [Int] {
    let targets = try file.integers(labels)
    if let bad = targets.first(where: { $0 != Loss.ignored && !(0..<count).contains($0) }) {
      throw NibbleError.badInput("\(path: file.path): label \(bad) is neither \(Loss.ignored) nor \(expected)")
    }
    return targets
  }

  private func spans(
    _ model: Model, _ head: RowHead, _ adapters: [ActiveAdapter], _ writer: TensorFile.Writer
  ) throws -> TensorFile.Writer {
    try passes(model, adapters) { _, batch, hidden in
      let scores = try model.network.spanScores(hidden, head, of: batch)
      for (column, name) in ["start_logits", "end_logits"].enumerated() {
        let own = (0..<batch.count * length).map { scores[2 * $0 + column] }
        try own.withUnsafeBufferPointer { try writer.add($0, to: name) }
      }
    }
    return writer
  }

  private func states(
    _ model: Model, _ adapters: [ActiveAdapter], _ writer: TensorFile.Writer
  ) throws -> (Double?, TensorFile.Writer) {
    let width = model.network.width
    let mean = FloatStore(count: width)
    try passes(model, adapters) { sequences, batch, hidden in
      try writer.add(UnsafeBufferPointer(start: hidden, count: batch.count * length * width), to: "last_hidden_state")
      for (index, sequence) in sequences.enumerated() {
        let visible = (0..<length).filter { isVisible($0, in: sequence) }
        for column in 0..<width {
          let sum = visible.reduce(0.0) { $0 + Double(hidden[(index * length + $1) * width + column]) }
          mean.values[column] = Float(sum / Double(max(visible.count, 1)))
        }
        try writer.add(UnsafeBufferPointer(mean.values), to: "mean_pooled")
      }
    }
    return (nil, writer)
  }
}
