/// Memory that work in hand needs again and again. Touching fresh pages costs as much as the work, so buffers
/// are kept and handed round.
package final class Scratch: @unchecked Sendable {
  private var buffers: [Int: (start: UnsafeMutableRawPointer, count: Int)] = [:]

  package init() {}

  deinit { for buffer in buffers.values { buffer.start.deallocate() } }

  /// Room for `count` bytes, aligned to 64, that holds whatever this slot held before.
  package func start(_ slot: Int, _ count: Int) -> UnsafeMutableRawPointer {
    if let buffer = buffers[slot], buffer.count >= count { return buffer.start }
    buffers[slot]?.start.deallocate()
    let start = UnsafeMutableRawPointer.allocate(byteCount: max(count, 64), alignment: 64)
    buffers[slot] = (start, max(count, 64))
    return start
  }

  /// The same as a buffer of `count` bytes.
  package func bytes(_ slot: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: start(slot, count), count: count)
  }

  /// The same as room for `count` floats.
  package func floatStart(_ slot: Int, _ count: Int) -> UnsafeMutablePointer<Float> {
    start(slot, 4 * count).bindMemory(to: Float.self, capacity: count)
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
