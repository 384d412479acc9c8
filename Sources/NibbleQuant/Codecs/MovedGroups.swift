import NibbleCore

/// A change that is the same for all elements of a group: of a run of columns in one row.
package struct GroupShift: Sendable {
  /// [rows, groups]
  package let values: [Float]
  /// Columns of a group.
  package let length: Int
  /// Groups of a row.
  package let across: Int

  package init(_ values: [Float], length: Int, across: Int) { (self.values, self.length, self.across) = (values, length, across) }
}

/// What a tensor becomes whose elements move in groups while no code is touched.
package struct MovedGroups: Sendable {
  /// Plain bytes of the sections behind the codes.
  package let sections: [[UInt8]]
  /// How far the elements of each group moved: what its type holds of what was wanted.
  package let moved: [Float]
}

/// An encoder whose codes are those of the source, byte for byte.
package protocol CodeKeepingEncoder: TensorEncoder {}

/// Hands out sections that move the elements of groups, and knows what a reader will see.
package final class MovedEncoder: CodeKeepingEncoder, @unchecked Sendable {
  private let result: MovedGroups
  private let shift: GroupShift
  private let task: EncodingTask
  private static let firstSlot = 8

  package init(_ result: MovedGroups, _ shift: GroupShift, _ task: EncodingTask) {
    (self.result, self.shift, self.task) = (result, shift, task)
  }

  // Runs of codes are whole bytes.
  package var grain: Int { 2 }

  /// - Parameter elements: with what is wanted added to them, in float32
  package func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let values = restored ?? scratch.floatStart(CodecSlot.right, elements.count)
    Kernels.widen(elements.dtype, elements.x, count: elements.count, values)
    restore(values, elements.start, elements.count, scratch)
    var sums = EncodedSums()
    for index in 0..<elements.count where !values[index].isFinite { sums.counts.nonfinite += 1 }
    return (UnsafeRawBufferPointer(start: nil, count: 0), sums)
  }

  package func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    result.sections.enumerated().map { index, bytes in
      let copy = task.memory.bytes(Self.firstSlot + index, bytes.count)
      copy.copyBytes(from: bytes)
      return UnsafeRawBufferPointer(copy)
    }
  }

  package func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    var done = 0
    while done < count {
      let (group, within) = (start + done).quotientAndRemainder(dividingBy: shift.length)
      let run = min(shift.length - within, count - done)
      let missing = result.moved[group] - shift.values[group]
      for index in done..<done + run { values[index] += missing }
      done += run
    }
  }
}

extension Int4Groups {
  package func movingRefusal(_ shape: [Int], length: Int, rows: Int) -> String? {
    switch zero {
    case .none: return "its groups are symmetric and have no zeros"
    case .int: return "its zeros are whole numbers"
    case .half, .float, .offset: break
    }
    let own = self.length(columns: shape.last ?? 0)
    return length % own == 0 ? nil : "its groups are of \(own), the adapter's of \(length)"
  }

  /// σ · (q − z) + δ = σ · (q − (z − δ / σ)), and σ · q + (m + δ).
  package func moved(_ sections: [[UInt8]], by shift: GroupShift) -> MovedGroups? {
    let memory = Scratch()
    let groups = values(of: sections, memory), count = shift.values.count
    guard zero != .none, zero != .int, sections.count == 2, sections[0].count * 8 == count * scale.bitWidth,
      let zeros = groups.zeros
    else { return nil }
    var wanted = [Float](repeating: 0, count: count)
    for group in 0..<count {
      let (scale, zero, own) = (Double(groups.scales[group]), Double(zeros[group]), Double(shift.values[group]))
      // A group without a scale has no elements that zeros move.
      wanted[group] = Float(groups.areOffsets ? zero + own : scale == 0 ? zero : zero - own / scale)
    }
    guard let dtype = zero.dtype(scale) else { return nil }
    var bytes = [UInt8](repeating: 0, count: count * dtype.bitWidth / 8)
    var moved = [Float](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { bytes in
      wanted.withUnsafeMutableBufferPointer { wanted in
        guard let to = bytes.baseAddress, let from = wanted.baseAddress else { return }
        Kernels.narrow(dtype, from, count: count, to)
        Kernels.widen(dtype, to, count: count, from)
      }
    }
    for group in 0..<count {
      let way = Double(wanted[group]) - Double(zeros[group])
      moved[group] = Float(groups.areOffsets ? way : -way * Double(groups.scales[group]))
    }
    return withExtendedLifetime(memory) { MovedGroups(sections: [sections[0], bytes], moved: moved) }
  }
}
