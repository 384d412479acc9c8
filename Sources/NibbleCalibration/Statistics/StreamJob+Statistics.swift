import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

extension StreamJob {
  /// Decides the codes of every packed matrix that statistics tell of. No model is run.
  ///
  /// - Parameter progress: called with matrices done and matrices in all
  /// - Throws: `.adapterMismatch` for statistics of another model, `.badInput` for broken ones, `.failed` without OpenBLAS, and what
  ///   encoding throws
  public mutating func calibrate(
    from statistics: StatisticsFile, _ options: CalibrationOptions = .init(), progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> CalibrationReport {
    let started = monotonicSeconds()
    guard BLAS.isThere, LAPACK.hasCholesky else {
      throw NibbleError(.failed, "\(.encoder, options.encoder.rawValue) needs OpenBLAS with LAPACK (libopenblas.so.0), which is not installed")
    }
    try statistics.check(source, threads: threads)
    let team = Team(threads: threads), pool = ScratchPool()
    var report = CalibrationReport()
    report.tokens = statistics.tokens
    let layers = items(of: statistics)
    for (done, entry) in layers.enumerated() {
      try Interrupt.check()
      let item = items[entry.index], target = item.target
      let (outputs, inputs) = (target.shape[0], target.shape[1])
      guard let moments = try statistics.moments(of: entry.layer, inputs: inputs) else { continue }
      let goal = CalibrationPass.Target(
        name: item.source.name.text, module: entry.layer, codec: target.encoding.codec, dtype: target.dtype,
        place: "\(path: source.path): \(tensor: item.source.name.text)", isMapped: false, change: item.change)
      let (base, weight) = try item.values(outputs * inputs)
      let coder = try MomentCoder(moments, tokens: statistics.tokens, options, place: goal.place, team)
      let importance = goal.codec.takesImportance ? moments.diagonal : nil
      let decision = try coder.code(weight, from: base, outputs: outputs, goal) { search in
        var task = EncodingTask(
          target.dtype, [outputs, inputs], place: goal.place, rules: rules, search: search, threads: team.threads, pool: pool,
          measures: false, memory: Scratch())
        task.importance = importance
        return task
      }
      if let certificate = decision.certificate {
        (items[entry.index].decided, items[entry.index].decidedChange) = (decision.codes, certificate.change)
        report.certificates.append(certificate)
      } else if importance != nil {
        items[entry.index].decided = decision.codes
        if decision.isWeighed { report.weighed += 1 }
      }
      if let correction = decision.correction { report.corrections.append(correction) }
      progress(done + 1, layers.count)
    }
    report.unreached = items.filter { $0.isCalibrated && $0.decided == nil }
      .map(\.source.name.text)
    report.seconds = monotonicSeconds() - started
    return report
  }

  /// Packed matrices and the layers of the statistics that they are of, in the order of their names.
  private func items(of statistics: StatisticsFile) -> [(index: Int, layer: String)] {
    let names = Dictionary(
      items.indices.map { (items[$0].source.name.text, $0) }, uniquingKeysWith: { first, _ in first })
    let spellings = TensorSpellings(of: source)
    return statistics.owners.keys.compactMap { layer -> (index: Int, layer: String)? in
      guard let index = spellings.find(layer + ".weight", in: names), items[index].isCodedAnew, items[index].target.shape.count == 2 else { return nil }
      return (index, layer)
    }.sorted { $0.index < $1.index }
  }
}

extension StreamJob.Item {
  /// The elements as they are, where something is merged into them, and as they are to be packed.
  func values(_ count: Int) throws -> (base: FloatStore?, wanted: FloatStore) {
    let source = replacement ?? source
    let change = try change?()
    let store = FloatStore(count: count), base = change.map { _ in FloatStore(count: count) }
    guard source.count == count else { throw NibbleError(.failed, "\(source.name.text): \(source.count) elements are not \(count)") }
    try source.forEachValues(transposing: !source.isPacked && target.isTransposed != source.isTransposed) { start, values, count, scratch in
      let own = store.start + start
      own.update(from: values, count: count)
      guard let change else { return }
      if let base { (base.start + start).update(from: values, count: count) }
      let delta = scratch.floatStart(ChangeSlot.first, count)
      change.delta(values, start, count, into: delta, scratch)
      for place in 0..<count { own[place] += delta[place] }
    }
    return (base, store)
  }
}
