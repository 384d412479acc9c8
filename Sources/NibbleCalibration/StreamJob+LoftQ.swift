import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

extension StreamJob {
  /// What codes and factors together leave of the weights.
  public struct LoftQReport: Sendable {
    public internal(set) var corrections: [Correction] = []
    /// Means over tensors of ‖W − Q‖ / ‖W‖ with Q rounded once, and of ‖W − Q − B·A‖ / ‖W‖.
    public internal(set) var before = 0.0
    public internal(set) var after = 0.0
    public internal(set) var seconds = 0.0
  }

  /// LoftQ (arXiv:2310.08659): codes Q of W − B·A and the best factors B·A of W − Q, in turn. No model is run. After one step the codes are those
  /// of W; more of them make codes that serve only with the factors.
  ///
  /// - Parameters:
  ///   - rank: of the factors, as far as a matrix has use for it
  ///   - steps: how often both are chosen, at least once
  ///   - progress: called with matrices done and matrices in all
  /// - Throws: `.quality` for values that are not finite, `.failed` without LAPACK
  public mutating func loftq(rank: Int, steps: Int, progress: (Int, Int) -> Void = { _, _ in }) throws -> LoftQReport {
    let started = monotonicSeconds()
    let team = Team(threads: threads), pool = ScratchPool()
    var report = LoftQReport()
    let indices = items.indices.filter { items[$0].isCodedAnew && isLayer(items[$0]) }
    for (done, index) in indices.enumerated() {
      let item = items[index], name = item.source.name.text, place: MessageText = "\(path: source.path): \(tensor: name)"
      let (outputs, inputs) = (item.target.shape[0], item.target.shape[1]), most = min(rank, outputs, inputs)
      let weight = try item.values(outputs * inputs).wanted, random = CountedRandom(seed: 0, stream: XXH3.digest64(of: Array(name.utf8)))
      guard LayerKernels.allFinite(weight.start, count: weight.count) else { throw NibbleError.quality("\(place) has NaN or infinite values") }
      let signal = max(Self.norm(weight), 1e-30)
      // W − B·A and W − Q.
      let target = FloatStore(count: weight.count), left = FloatStore(count: weight.count)
      target.start.update(from: weight.start, count: weight.count)
      for step in 0..<max(1, steps) {
        try Interrupt.check()
        let task = EncodingTask(
          item.target.dtype, [outputs, inputs], place: place, rules: rules, search: encoder, offsets: offsets, threads: team.threads, pool: pool,
          measures: false, memory: Scratch())
        let codes = try item.target.encoding.codec.encoded(target.start, task)
        let packed = try Matrix(codes, item.target.dtype, rows: outputs, columns: inputs).values()
        for place in 0..<weight.count { left.start[place] = weight.start[place] - packed.start[place] }
        if step == 0 { report.before += Self.norm(left) / signal }
        let (a, b) = try LowRankPair.best(for: left, outputs: outputs, inputs: inputs, rank: most, scale: 1, random, team)
        func subtractFactors(from store: FloatStore) {
          _ = BLAS.multiply(b, most, a, inputs, transposed: false, store.start, inputs, m: outputs, n: inputs, k: most, alpha: -1, beta: 1)
        }
        guard step + 1 < max(1, steps) else {
          subtractFactors(from: left)
          items[index].decided = codes
          report.corrections.append(Correction(module: module(name), a: a, b: b, rank: most, share: 0))
          continue
        }
        target.start.update(from: weight.start, count: weight.count)
        subtractFactors(from: target)
      }
      report.after += Self.norm(left) / signal
      progress(done + 1, indices.count)
    }
    (report.before, report.after) = (report.before / Double(max(indices.count, 1)), report.after / Double(max(indices.count, 1)))
    report.seconds = monotonicSeconds() - started
    return report
  }

  private static func norm(_ store: FloatStore) -> Double {
    (0..<store.count).reduce(0.0) { $0 + Double(store.start[$1]) * Double(store.start[$1]) }.squareRoot()
  }

  /// Whether it is the weight of a linear layer.
  private func isLayer(_ item: Item) -> Bool {
    let name = item.source.name.text
    return name.hasSuffix(".weight") && item.target.shape.count == 2 && (source.family.map { $0.packs(name, hasBias: false) } ?? !NameGuess.isEmbeddingOrHead(name))
  }

  /// A layer's name as models have it.
  private func module(_ name: String) -> String {
    let family = source.family, prefix = source.modelType.flatMap { family?.prefix($0) } ?? ""
    let file = String(name.dropLast(".weight".count)), layer = family?.inModules(file) ?? file
    return layer.hasPrefix(prefix) ? layer : prefix + layer
  }
}
