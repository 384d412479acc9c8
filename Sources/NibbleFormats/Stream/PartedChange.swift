import NibbleCore
import NibbleQuant

/// The change of a tensor that is a part of another: what the other's change is there, computed for the whole.
package struct PartedChange: TensorChange {
  private let deltas: [Float]

  /// - Parameters:
  ///   - item: the part
  ///   - whole: what it is a part of
  ///   - change: of the whole
  package init(_ change: any TensorChange, of whole: StoredTensor, for item: StreamJob.Item) throws {
    let count = whole.count, isTurned = !whole.isPacked && item.target.isTransposed != whole.isTransposed
    var values = [Float](repeating: 0, count: count), deltas = values
    try whole.forEachValues(transposing: isTurned) { start, run, count, _ in
      for index in 0..<count { values[start + index] = run[index] }
    }
    values.withUnsafeBufferPointer { values in
      deltas.withUnsafeMutableBufferPointer { out in
        guard let from = values.baseAddress, let to = out.baseAddress else { return }
        change.delta(from, 0, count, into: to, Scratch())
      }
    }
    var rule = item.part
    if case .half(let isSecond, let run)? = rule {
      // Outputs are parted: rows of the whole, or single numbers where it is stored inputs first.
      let rows = (isTurned ? whole.shape.last : whole.shape.first) ?? 1
      let isByRows = whole.isPacked || isTurned || whole.shape.count < 2 || item.source.shape.first != whole.shape.first
      rule = .half(isSecond: isSecond, unit: 4 * run * (isByRows ? count / max(1, rows) : 1))
    }
    guard let rule, let part = ComposedBytes(rule, [StoredSection(.data, bytes: deltas.withUnsafeBytes { Array($0) })]), part.count == 4 * item.source.count
    else { throw NibbleError(.failed, "\(whole.place): what is changed of it does not part as it does") }
    self.deltas = try part.bytes(whole.name.text).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
  }

  package func delta(_ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch) {
    deltas.withUnsafeBufferPointer { from in
      guard let from = from.baseAddress else { return }
      delta.update(from: from + start, count: count)
    }
  }
}

extension StreamJob {
  /// Of each of these tensors, where a job has it, or the parts that it has in its place.
  package func places(of tensors: [StoredTensor]) -> [[Int]] {
    var places: [ByteName: [Int]] = [:]
    for (index, item) in items.enumerated() { places[(item.whole ?? item.source).name, default: []].append(index) }
    return tensors.map { places[$0.name] ?? [] }
  }
}
