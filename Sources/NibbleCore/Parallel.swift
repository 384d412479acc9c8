import CNibbleSystem
import Dispatch
import Glibc
import Synchronization

/// Cores this process may run on.
public let availableCores = Int(nibble_available_cores())

/// A mutual exclusion for a few instructions at a time.
package final class Lock: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  package init() { pthread_mutex_init(mutex, nil) }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  package func hold<R>(_ body: () throws -> R) rethrows -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }
}

/// Lets the parts of a parallel loop that must happen in order, one after another, do so.
package final class Turnstile: @unchecked Sendable {
  // At fixed addresses, as pthreads wants them.
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var next = 0
  private var failure: (index: Int, error: any Error)?

  init() {
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(condition, nil)
  }

  deinit {
    pthread_cond_destroy(condition)
    pthread_mutex_destroy(mutex)
    condition.deallocate()
    mutex.deallocate()
  }

  private struct Stopped: Error {}

  /// Waits until every lower index has passed, then runs `body`. Each index passes at most once.
  package func pass<R>(_ index: Int, _ body: () throws -> R) throws -> R {
    pthread_mutex_lock(mutex)
    while next != index, failure == nil { pthread_cond_wait(condition, mutex) }
    let stopped = failure != nil
    pthread_mutex_unlock(mutex)
    if stopped { throw Stopped() }
    let result = try body()
    pthread_mutex_lock(mutex)
    next = index + 1
    pthread_cond_broadcast(condition)
    pthread_mutex_unlock(mutex)
    return result
  }

  /// Records the error of `index`, keeping the one of the lowest index, and lets nobody else pass.
  func fail(_ index: Int, _ error: any Error) {
    if error is Stopped { return }
    pthread_mutex_lock(mutex)
    if failure.map({ index < $0.index }) ?? true { failure = (index, error) }
    pthread_cond_broadcast(condition)
    pthread_mutex_unlock(mutex)
  }

  var hasFailed: Bool {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return failure != nil
  }

  func rethrow() throws {
    if let failure { throw failure.error }
  }
}

/// Runs `body` for the indices below `count` on up to `threads` threads, handing them out in order.
///
/// Each thread brings its own scratch. The error of the lowest failing index is thrown after all threads have stopped.
package func forEachChunk(
  _ count: Int, threads: Int, _ pool: ScratchPool,
  _ body: @escaping @Sendable (Int, Scratch, Turnstile) throws -> Void
) throws {
  let turnstile = Turnstile()
  let counter = Atomic<Int>(0)
  @Sendable func work() {
    let scratch = pool.take()
    defer { pool.give(scratch) }
    while !turnstile.hasFailed {
      let index = counter.wrappingAdd(1, ordering: .relaxed).oldValue
      guard index < count else { return }
      do {
        try Interrupt.check()
        try body(index, scratch, turnstile)
      } catch {
        turnstile.fail(index, error)
      }
    }
  }
  let workers = min(threads, count)
  if workers <= 1 {
    work()
  } else {
    DispatchQueue.concurrentPerform(iterations: workers) { _ in work() }
  }
  try turnstile.rethrow()
}
