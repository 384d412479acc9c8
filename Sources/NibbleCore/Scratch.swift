/// Memory that work in hand needs again and again. Touching fresh pages costs as much as the work, so buffers
/// are kept and handed round.
package final class Scratch: @unchecked Sendable {
  private var buffers: [Int: UnsafeMutableRawBufferPointer] = [:]

  package init() {}

  deinit { for buffer in buffers.values { buffer.deallocate() } }

  /// At least `count` bytes, aligned to 64, that hold whatever this slot held before.
  package func bytes(_ slot: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
    if let buffer = buffers[slot], buffer.count >= count { return UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]) }
    buffers[slot]?.deallocate()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 64), alignment: 64)
    buffers[slot] = buffer
    return UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
  }

  package func floats(_ slot: Int, _ count: Int) -> UnsafeMutableBufferPointer<Float> {
    bytes(slot, count * 4).bindMemory(to: Float.self)
  }
}

/// Scratch for as many threads as ask.
package final class ScratchPool: Sendable {
  private final class Free: @unchecked Sendable { var list: [Scratch] = [] }
  private let lock = Lock()
  private let free = Free()

  package init() {}

  package func take() -> Scratch { lock.hold { free.list.popLast() } ?? Scratch() }
  package func give(_ scratch: Scratch) { lock.hold { free.list.append(scratch) } }
}

/// Lets pointers into parallel loops. The loops hand out ranges that never overlap.
package struct Unchecked<Value>: @unchecked Sendable {
  package let value: Value
  package init(_ value: Value) { self.value = value }
}
