/// One result a chunk, set by the thread that has the chunk, read in order afterwards.
package final class PerChunk<Value>: @unchecked Sendable {
  private let storage: UnsafeMutableBufferPointer<Value?>

  package init(_ count: Int) {
    storage = .allocate(capacity: count)
    storage.initialize(repeating: nil)
  }

  deinit {
    storage.deinitialize()
    storage.deallocate()
  }

  package func set(_ index: Int, _ value: Value) { storage[index] = value }

  package var values: [Value] { storage.compactMap { $0 } }
}
