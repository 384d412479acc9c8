import NibbleCore
import Synchronization

/// Threads that share a loop. Each has scratch of its own that lives as long as the team.
///
/// Math is synchronous: loops over disjoint outputs, so that no sum depends on the number of threads.
package final class Team: Sendable {
  package let threads: Int
  private let scratches: [Scratch]
  private let helpers: Helpers

  package init(threads: Int) {
    helpers = Helpers(max(1, threads) - 1)
    self.threads = helpers.count + 1
    scratches = (0...helpers.count).map { _ in Scratch() }
  }

  /// Scratch for work on the calling thread between loops.
  package var serialScratch: Scratch { scratches[0] }

  /// Runs `body` for every index below `count`, handing them out in order. Loops do not nest.
  package func run(_ count: Int, _ body: (Int, Scratch) -> Void) {
    guard threads > 1, count > 1 else {
      for index in 0..<count { body(index, scratches[0]) }
      return
    }
    let next = Atomic<Int>(0)
    withoutActuallyEscaping(body) { body in
      let work = { [scratches] (scratch: Int) in
        while true {
          let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
          guard index < count else { return }
          body(index, scratches[scratch])
        }
      }
      withoutActuallyEscaping(work) { work in helpers.run({ work($0 + 1) }, own: { work(0) }) }
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
