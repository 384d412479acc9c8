import CNibbleKernels
import Dispatch
import Glibc
import NibbleCore
import Synchronization

/// Threads that help with loops, one loop after another.
///
/// A token takes about a hundred short loops. A helper that went to sleep after each would be woken too late for the next, so
/// it looks out for that a while before it sleeps.
final class Helpers: Sendable {
  /// How often a helper looks out before it sleeps: some tens of microseconds.
  private static let patience = 1500

  private let crew: Crew
  /// How many there are.
  let count: Int

  init(_ wanted: Int) {
    let crew = Crew(wanted)
    self.crew = crew
    count = (0..<wanted).prefix { Self.start(crew, $0) }.count
  }

  deinit { crew.dismiss(count) }

  /// Runs `job` on every helper, with numbers from 0 on, and `own` here; returns when all are done.
  func run(_ job: @escaping (Int) -> Void, own: () -> Void) {
    crew.begin(job, count)
    own()
    crew.finish()
  }

  private static func start(_ crew: Crew, _ index: Int) -> Bool {
    let context = Unmanaged.passRetained(Start(crew: crew, index: index))
    var thread = pthread_t()
    let isStarted =
      pthread_create(
        &thread, nil,
        { raw in
          guard let raw else { return nil }
          let start = Unmanaged<Start>.fromOpaque(raw).takeRetainedValue()
          start.crew.work(start.index)
          return nil
        }, context.toOpaque()) == 0
    if isStarted { pthread_detach(thread) } else { context.release() }
    return isStarted
  }

  private final class Start {
    let crew: Crew
    let index: Int

    init(crew: Crew, index: Int) {
      self.crew = crew
      self.index = index
    }
  }

  /// What helpers and their employer share.
  private final class Crew: @unchecked Sendable {
    private final class Bed: Sendable {
      let isAsleep = Atomic<Bool>(false)
      let bell = DispatchSemaphore(value: 0)
    }

    // Written before `round` moves on, read after it did.
    private var job: ((Int) -> Void)?
    private let round = Atomic<Int>(0)
    private let busy = Atomic<Int>(0)
    private let beds: [Bed]

    init(_ count: Int) { beds = (0..<count).map { _ in Bed() } }

    func begin(_ job: @escaping (Int) -> Void, _ count: Int) {
      self.job = job
      next(count)
    }

    func finish() {
      var looks = 0
      while busy.load(ordering: .acquiring) > 0 {
        looks += 1
        // Someone else may need the core that a helper waits for.
        if looks < Helpers.patience { nibble_pause() } else { sched_yield() }
      }
      job = nil
    }

    func dismiss(_ count: Int) {
      job = nil
      next(count)
    }

    private func next(_ count: Int) {
      busy.store(count, ordering: .relaxed)
      round.wrappingAdd(1, ordering: .sequentiallyConsistent)
      for bed in beds[..<count] where bed.isAsleep.exchange(false, ordering: .sequentiallyConsistent) { bed.bell.signal() }
    }

    func work(_ index: Int) {
      var seen = 0
      while true {
        wait(beds[index], past: seen)
        seen += 1
        guard perform(index) else { return }
        busy.wrappingSubtract(1, ordering: .releasing)
      }
    }

    /// A function of its own, so that nothing of the job is held when it returns.
    @inline(never)
    private func perform(_ index: Int) -> Bool {
      guard let job else { return false }
      job(index)
      return true
    }

    private func wait(_ bed: Bed, past seen: Int) {
      for _ in 0..<Helpers.patience {
        if round.load(ordering: .acquiring) != seen { return }
        nibble_pause()
      }
      while round.load(ordering: .acquiring) == seen {
        bed.isAsleep.store(true, ordering: .sequentiallyConsistent)
        // Only helpers found asleep are woken; one that wakes in time needs no signal.
        if round.load(ordering: .sequentiallyConsistent) == seen
          || !bed.isAsleep.exchange(false, ordering: .sequentiallyConsistent)
        {
          bed.bell.wait()
        }
      }
    }
  }
}
