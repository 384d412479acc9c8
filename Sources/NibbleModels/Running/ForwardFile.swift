import NibbleCompute
import NibbleCore
import NibbleFormats

/// One pass over the ids of a file, its results in another: for comparing nibble with other programs.
package struct ForwardFile {
  /// Token ids, [batch][length].
  private var ids: [[Int]]
  private var masks: [TokenMask?]
  private var types: [[Int]]?
  private let labels: StoredTensor?
  private let file: TensorFile
  package let tokens: Int

  /// Reads `input_ids` [batch, length] and, if there, `attention_mask`, `token_type_ids` and `labels`.
  package init(_ path: String) throws {
    let file = try TensorFile(path)
    self.file = file
    func fail(_ reason: String) -> NibbleError { NibbleError.badInput("\(path): \(reason)") }
    guard let input = file.tensor("input_ids") else { throw fail("no tensor 'input_ids' in it") }
    guard input.shape.count == 2, input.count > 0 else { throw fail("input_ids has shape \(input.shape), expected [batch, length]") }
    let length = input.shape[1]
    func rows(_ name: String) throws -> [[Int]]? {
      guard let tensor = file.tensor(name) else { return nil }
      guard tensor.shape == input.shape else { throw fail("\(name) has shape \(tensor.shape), input_ids \(input.shape)") }
      let values = try file.integers(tensor)
      return stride(from: 0, to: values.count, by: length).map { Array(values[$0..<$0 + length]) }
    }
    ids = try rows("input_ids") ?? []
    masks = try rows("attention_mask")?.map { TokenMask($0.map { $0 != 0 }) } ?? ids.map { _ in nil }
    types = try rows("token_type_ids")
    labels = file.tensor("labels")
    tokens = input.count
  }

  /// Runs the model and writes `logits` and, where labels were given, `loss`; of a model without a head
  /// `last_hidden_state` and its mean over visible tokens, `mean_pooled`.
  package func run(_ model: Model, adapters: [ActiveAdapter], to path: String, force: Bool) throws -> Double? {
    let runs = ids.indices.map { TokenRun(ids[$0], mask: masks[$0], types: types?[$0], adapters: adapters) }
    let hidden = try model.transformer.hidden(runs)
    var tensors: [TensorFile.Tensor] = []
    var loss: Double?
    switch model.transformer.weights.head {
    case .language(let head):
      (tensors, loss) = try language(model, head, hidden, runs)
    case .classification(let head):
      let labels = head.output.outputs
      let scores = try model.transformer.classScores(hidden, head, of: runs)
      tensors.append(.init("logits", [runs.count, labels], UnsafeBufferPointer(start: scores, count: runs.count * labels)))
      loss = try classLoss(scores, head)
    case .none:
      tensors = pooled(model, hidden)
    }
    if var value = loss.map({ Float($0) }) {
      withUnsafePointer(to: &value) { tensors.append(.init("loss", [1], UnsafeBufferPointer(start: $0, count: 1))) }
    }
    try TensorFile.write(tensors, to: path, force: force)
    return loss
  }

  private func language(
    _ model: Model, _ head: Linear, _ hidden: UnsafePointer<Float>, _ runs: [TokenRun]
  ) throws -> ([TensorFile.Tensor], Double?) {
    let count = head.outputs
    let length = ids[0].count
    let (size, overflow) = tokens.multipliedReportingOverflow(by: count)
    guard !overflow, size <= 1 << 30 else {
      throw NibbleError.usage("\(file.path): logits of \(tokens) tokens and \(count) scores each are too many for one file")
    }
    let targets = try labels.map { tensor in
      guard tensor.count == tokens else { throw NibbleError.badInput("\(file.path): labels has shape \(tensor.shape)") }
      let targets = try file.integers(tensor)
      if let bad = targets.first(where: { $0 != Loss.ignored && !(0..<count).contains($0) }) {
        throw NibbleError.badInput("\(file.path): label \(bad) is neither \(Loss.ignored) nor an id of the vocabulary of \(count)")
      }
      return targets
    }
    let all = FloatStore(count: size)
    var sum = 0.0
    var counted = 0
    for start in stride(from: 0, to: tokens, by: 256) {
      let rows = start..<min(start + 256, tokens)
      let scores = try model.transformer.logits(hidden, rows: Array(rows), of: runs)
      (all.start + start * count).update(from: scores, count: rows.count * count)
      guard let targets else { continue }
      // Each token is judged by the one behind it.
      for row in rows where row % length != length - 1 && targets[row + 1] != Loss.ignored {
        sum += Loss.negativeLogLikelihood(scores + (row - start) * count, count: count, target: targets[row + 1])
        counted += 1
      }
    }
    let logits = TensorFile.Tensor("logits", [ids.count, length, count], UnsafeBufferPointer(all.values))
    return ([logits], targets == nil ? nil : sum / Double(counted))
  }

  private func classLoss(_ scores: UnsafePointer<Float>, _ head: ClassificationHead) throws -> Double? {
    guard let labels else { return nil }
    let count = head.output.outputs
    func check(_ expected: Int) throws {
      guard labels.count == expected else {
        throw NibbleError.badInput("\(file.path): labels has shape \(labels.shape) for \(ids.count) sequences of \(count) classes")
      }
    }
    switch head.problem {
    case .oneLabel:
      try check(ids.count)
      let targets = try file.integers(labels)
      if let bad = targets.first(where: { $0 != Loss.ignored && !(0..<count).contains($0) }) {
        throw NibbleError.badInput("\(file.path): label \(bad) is none of \(count) classes")
      }
      return Loss.oneLabel(scores, labels: count, targets: targets)
    case .manyLabels:
      try check(ids.count * count)
      return Loss.manyLabels(scores, targets: try file.floats(labels))
    case .regression:
      try check(ids.count * count)
      return Loss.regression(scores, targets: try file.floats(labels))
    }
  }

  private func pooled(_ model: Model, _ hidden: UnsafePointer<Float>) -> [TensorFile.Tensor] {
    let width = model.shape.width
    let length = ids[0].count
    let means = FloatStore(count: ids.count * width)
    for row in ids.indices {
      let visible = (0..<length).filter { masks[row]?.isVisible($0) ?? true }
      for column in 0..<width {
        let sum = visible.reduce(0.0) { $0 + Double(hidden[(row * length + $1) * width + column]) }
        means.values[row * width + column] = Float(sum / Double(max(visible.count, 1)))
      }
    }
    return [
      .init("last_hidden_state", [ids.count, length, width], UnsafeBufferPointer(start: hidden, count: tokens * width)),
      .init("mean_pooled", [ids.count, width], UnsafeBufferPointer(means.values)),
    ]
  }
}
