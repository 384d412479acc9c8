import Dispatch
import NibbleCore
import Synchronization

/// Threads that share a loop. Each has scratch of its own that lives as long as the team.
///
/// Math is synchronous: loops over disjoint outputs, so that no sum depends on the number of threads.
package final class Team: Sendable {
  package let threads: Int
  private let scratches: [Scratch]

  package init(threads: Int) {
    self.threads = max(1, threads)
    scratches = (0..<max(1, threads)).map { _ in Scratch() }
  }

  /// Scratch for work on the calling thread alone, between loops.
  package var serialScratch: Scratch { scratches[0] }

  /// Runs `body` for every index below `count`, handing them out in order. Loops do not nest.
  package func run(_ count: Int, _ body: (Int, Scratch) -> Void) {
    let workers = min(threads, count)
    guard workers > 1 else {
      for index in 0..<count { body(index, scratches[0]) }
      return
    }
    let next = Atomic<Int>(0)
    withoutActuallyEscaping(body) { body in
      let shared = Unchecked(body)
      DispatchQueue.concurrentPerform(iterations: workers) { [scratches] worker in
        while true {
          let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
          guard index < count else { return }
          shared.value(index, scratches[worker])
        }
      }
    }
  }

  /// Splits `count` items into runs of at least `grain` and calls `body` with each.
  package func split(_ count: Int, grain: Int, _ body: (Range<Int>, Scratch) -> Void) {
    guard count > 0 else { return }
    let parts = max(1, min(ceilDivide(count, max(grain, 1)), 4 * threads))
    let length = ceilDivide(count, parts)
    run(ceilDivide(count, length)) { index, scratch in
      body(index * length..<min((index + 1) * length, count), scratch)
    }
  }
}
