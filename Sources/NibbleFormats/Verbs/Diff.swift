import NibbleCore
import NibbleQuant

/// What sets two checkpoints apart.
public struct DiffReport: Sendable {
  /// A tensor of both sides.
  public struct Changed: Sendable {
    /// Its name.
    public let name: String
    /// The one compared with.
    public let a: StoredTensor
    /// The other one.
    public let b: StoredTensor
    /// nil where shapes differ or the type has no arithmetic.
    public let difference: Difference?
    /// Whether the values are equal, however they are stored.
    public var isEqual: Bool { difference.map { $0.unequal == 0 } ?? false }
  }

  /// Names only the second has.
  public var added: [String] = []
  /// Names only the first has.
  public var removed: [String] = []
  /// Tensors of both sides that are not the same bytes in the same coding.
  public var changed: [Changed] = []
  /// Tensors that are the same bytes in the same coding.
  public var unchanged = 0
}

extension Checkpoint {
  /// Compares with `other`, tensor by tensor, values as float32.
  public func diff(
    _ other: Checkpoint, threads: Int = availableCores, progress: @escaping (Int, Int) -> Void = { _, _ in }
  ) throws -> DiffReport {
    var report = DiffReport()
    let mine = Set(tensors.map(\.name))
    report.added = other.tensors.filter { !mine.contains($0.name) }.map(\.name.text)
    let total = tensors.reduce(0) { $0 + $1.plainBytes }
    var done = 0
    let stream = TensorStream(threads: threads) { _ in }
    for a in tensors {
      try Interrupt.check()
      if let b = other.tensor(a.name) {
        if let changed = try stream.compare(a, b) { report.changed.append(changed) } else { report.unchanged += 1 }
      } else {
        report.removed.append(a.name.text)
      }
      done += a.plainBytes
      progress(done, total)
    }
    try checkUnchanged()
    try other.checkUnchanged()
    return report
  }
}

extension TensorStream {
  /// - Returns: nil if both are stored alike, byte for byte
  func compare(_ a: StoredTensor, _ b: StoredTensor) throws -> DiffReport.Changed? {
    let alike = a.dtype == b.dtype && a.shape == b.shape && a.encoding == b.encoding && a.isTransposed == b.isTransposed
    func changed(_ difference: Difference?) -> DiffReport.Changed {
      DiffReport.Changed(name: a.name.text, a: a, b: b, difference: difference)
    }
    guard a.logicalShape == b.logicalShape else { return changed(nil) }
    guard a.dtype.isNumeric, b.dtype.isNumeric else {
      return try alike && hash(a) == hash(b) ? nil : changed(nil)
    }
    // A transposed tensor is packed; the other side, being plain, is read by columns.
    let turned = a.isTransposed != b.isTransposed
    if turned, (a.isTransposed ? b : a).isPacked { return changed(nil) }
    let left = try ValueReader(a, transposing: turned && !a.isTransposed)
    let right = try ValueReader(b, transposing: turned && !b.isTransposed)
    let chunk = Self.chunk(leastCommonMultiple(left.grain, right.grain))
    let chunks = ceilDivide(a.count, chunk)
    let differences = PerChunk<Difference>(chunks)
    try forEachChunk(chunks, threads: threads, pool) { [pool] index, scratch, turnstile in
      let count = min(chunk, a.count - index * chunk)
      let second = Unchecked(pool.take())
      defer { pool.give(second.value) }
      guard let x = scratch.floats(Slot.left, count).baseAddress,
        let y = second.value.floats(Slot.left, count).baseAddress
      else { return }
      let first = try left.read(index * chunk, count, into: x, scratch)
      let other = try right.read(index * chunk, count, into: y, second.value)
      var difference = Difference()
      difference.add(x, y, count: count)
      differences.set(index, difference)
      try turnstile.pass(index) {
        left.admit(first)
        right.admit(other)
      }
    }
    let (digestA, digestB) = (try left.finish(), try right.finish())
    if alike, let digestA, digestA == digestB { return nil }
    return changed(differences.values.reduce(into: Difference()) { $0 += $1 })
  }
}
