import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

/// How well a model predicts texts: exp of its mean negative log-likelihood a token.
public struct Perplexity {
  /// Tokens a window may have; nil for the model's context, at most 2048.
  public var context: Int?
  /// New tokens each window after a document's first adds; nil for windows that do not overlap.
  public var stride: Int?
  /// Which windows count.
  public var windows = Windows.whole

  public enum Windows: String, Sendable, CaseIterable {
    /// Every token of every document.
    case whole
    /// The first of each document: what a model that reads rows one by one would see of them.
    case first
  }

  public init() {}

  /// A mean over tokens with its standard error.
  public struct Mean: Sendable {
    public private(set) var count = 0
    private var sum = 0.0
    private var squares = 0.0
    public private(set) var greatest = -Double.infinity

    mutating func add(_ value: Double) {
      count += 1
      sum += value
      squares += value * value
      greatest = max(greatest, value)
    }

    public var value: Double { sum / Double(count) }
    /// Standard error, tokens taken as independent.
    public var standardError: Double {
      guard count > 1 else { return .nan }
      return (max(squares / Double(count) - value * value, 0) / Double(count - 1)).squareRoot()
    }
  }

  public struct Report: Sendable {
    /// Negative log-likelihood a scored token, in nats.
    public var loss = Mean()
    public var documents = 0
    public var windows = 0
    /// Tokens that were not scored: the first of documents without a mark before them, and what truncation left out.
    public var unscored = 0
    public var context = 0
    public var stride = 0
    /// Mean loss of each document, in order.
    public var documentLosses: [Double] = []
    public var comparison: Comparison?

    public var perplexity: Double { exp(loss.value) }
    /// Standard error of the perplexity.
    public var standardError: Double { perplexity * loss.standardError }
  }

  /// How a model differs from another that saw the same tokens.
  public struct Comparison: Sendable {
    /// The other's negative log-likelihood.
    public var loss = Mean()
    /// KL(other ‖ model) a token, in nats.
    public var divergence = Mean()
    /// 1 where both have the same best token.
    public var agreement = Mean()

    public var perplexity: Double { exp(loss.value) }
  }

  /// Part of a document: the tokens to compute, and which of them are scored.
  package struct Window: Equatable {
    package var document: Int
    /// Tokens of the document, without the mark before them.
    package var tokens: Range<Int>
    /// The first that is scored.
    package var firstScored: Int
  }

  /// Cuts documents of so many tokens into windows. Every token is scored once, but the first of a document without a mark before it.
  ///
  /// - Parameter hasMark: whether every window begins with a mark
  package func cut(_ documents: [Int], hasMark: Bool, context: Int, stride: Int) -> [Window] {
    let room = context - (hasMark ? 1 : 0)
    var windows: [Window] = []
    for (index, count) in documents.enumerated() {
      // Without a mark the first token has nothing before it.
      var done = hasMark ? 0 : 1
      while done < count {
        let isFirst = windows.last?.document != index
        let end = isFirst ? min(room, count) : min(done + stride, count)
        // As much before the new tokens as fits; at least one token where there is no mark.
        windows.append(Window(document: index, tokens: max(0, end - room)..<end, firstScored: done))
        done = end
        if self.windows == .first { break }
      }
    }
    return windows
  }

  /// Rows of one pass.
  private static let passRows = 512
  /// Rows whose scores are held at once.
  private static let scoreRows = 64

  /// Scores `documents`, ids without marks.
  ///
  /// - Parameters:
  ///   - mark: the id every window begins with; nil for none
  ///   - other: what the model is compared with, and the adapters that are attached to it
  /// - Throws: `.usage` for invalid windows, and what models throw
  package func run(
    _ documents: [[Int]], mark: Int?, model: Model, adapters: [ActiveAdapter] = [],
    comparedTo other: Model? = nil, with otherAdapters: [ActiveAdapter] = [], progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> Report {
    for one in [model, other].compactMap({ $0 }) where one.fillsMasks {
      throw NibbleError.usage("\(path: one.path) fills masks in a text and cannot continue one: it has no perplexity")
    }
    let own = model, compared = other
    let model = try model.oneText(for: "perplexity"), other = try other?.oneText(for: "perplexity")
    let limit = min(model.contextLength, other?.contextLength ?? .max)
    let context = self.context ?? min(limit, 2048)
    guard context >= 2, context <= limit else {
      throw NibbleError.usage("\(.context, context) is not from 2 to the model's \(limit)")
    }
    let most = context - 1
    let stride = self.stride ?? most
    guard (1...most).contains(stride) else { throw NibbleError.usage("\(.stride, stride) is not from 1 to \(most)") }
    if let other, other.vocabulary != model.vocabulary {
      throw NibbleError.badInput(
        "models of \(model.vocabulary) and \(other.vocabulary) tokens cannot be compared token by token")
    }
    let windows = cut(documents.map(\.count), hasMark: mark != nil, context: context, stride: stride)
    var report = Report()
    report.documents = documents.count
    report.windows = windows.count
    report.context = context
    report.stride = stride
    report.comparison = other == nil ? nil : Comparison()
    var byDocument = documents.map { _ in Mean() }
    var next = 0
    while next < windows.count {
      let first = next
      var rows = 0
      repeat {
        rows += windows[next].tokens.count + 1
        next += 1
      } while next < windows.count && rows + windows[next].tokens.count + 1 <= Self.passRows
      let batch = windows[first..<next].map { Stretch($0, of: documents[$0.document], mark: mark) }
      try score(batch, (own, model, adapters), compared.flatMap { one in other.map { (one, $0, otherAdapters) } }, &report, &byDocument)
      progress(next, windows.count)
    }
    report.documentLosses = byDocument.map(\.value)
    report.unscored = documents.reduce(0) { $0 + $1.count } - report.loss.count
    guard report.loss.count > 0 else { throw NibbleError.usage("the data holds no token that could be scored") }
    return report
  }

  /// A window's ids, and the place of the first that is scored.
  private struct Stretch {
    let document: Int
    let ids: [Int]
    let firstScored: Int

    init(_ window: Window, of document: [Int], mark: Int?) {
      self.document = window.document
      ids = (mark.map { [$0] } ?? []) + document[window.tokens]
      firstScored = window.firstScored - window.tokens.lowerBound + (mark == nil ? 0 : 1)
    }
  }

  private func score(
    _ stretches: [Stretch], _ own: (named: Model, model: any TokenNetwork, adapters: [ActiveAdapter]),
    _ other: (named: Model, model: any TokenNetwork, adapters: [ActiveAdapter])?, _ report: inout Report, _ byDocument: inout [Mean]
  ) throws {
    let plain = Batch.tokens(stretches.map { TokenRun($0.ids) })
    let batch = plain.with(own.adapters), model = own.model
    let hidden = try own.named.naming { try model.hidden(batch, tape: nil) }
    let otherBatch = plain.with(other?.adapters ?? [])
    let otherHidden = try other.map { other in try other.named.naming { try other.model.hidden(otherBatch, tape: nil) } }
    // Rows whose next token is scored.
    var targets: [(row: Int, id: Int, document: Int)] = []
    var start = 0
    for window in stretches {
      for place in window.firstScored..<window.ids.count {
        targets.append((start + place - 1, window.ids[place], window.document))
      }
      start += window.ids.count
    }
    let count = model.vocabulary
    for first in Swift.stride(from: 0, to: targets.count, by: Self.scoreRows) {
      let part = targets[first..<min(first + Self.scoreRows, targets.count)]
      let scores = try model.logits(hidden, rows: part.map(\.row), of: batch)
      let others = try otherHidden.flatMap { try other?.model.logits($0, rows: part.map(\.row), of: otherBatch) }
      for (index, target) in part.enumerated() {
        let own = scores + index * count
        let loss = Loss.negativeLogLikelihood(own, count: count, target: target.id)
        report.loss.add(loss)
        byDocument[target.document].add(loss)
        if let others { report.comparison?.add(own, others + index * count, count, target.id) }
      }
    }
  }
}

extension Perplexity.Comparison {
  mutating func add(_ own: UnsafePointer<Float>, _ other: UnsafePointer<Float>, _ count: Int, _ target: Int) {
    let ownNormal = LayerKernels.logSumExp(own, count: count)
    let otherNormal = LayerKernels.logSumExp(other, count: count)
    loss.add(otherNormal - Double(other[target]))
    var sum = 0.0
    for index in 0..<count {
      let p = Double(other[index]) - otherNormal
      // e^-60 of probability adds nothing; NaN does.
      if !(p <= -60) { sum += exp(p) * (p - (Double(own[index]) - ownNormal)) }
    }
    divergence.add(max(sum, 0))
    agreement.add(LayerKernels.argmax(own, count: count).index == LayerKernels.argmax(other, count: count).index ? 1 : 0)
  }
}
